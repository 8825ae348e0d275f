"""lm-eval over `/v1/completions` scores a model as it does with transformers: likelihoods, answers, sums."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Served

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
    "Russia": "Moscow", "Norway": "Oslo", "Greece": "Athens", "Cuba": "Havana", "Kenya": "Nairobi", "Peru": "Lima",
}  # fmt: skip

CHOICE = """task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: " "
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ANSWER = """task: counting
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_text: "{{{{country}}}}'s capital is {{{{choices[label]}}}}. Again: {{{{country}}}}'s capital is"
doc_to_target: " {{{{choices[label]}}}}"
generation_kwargs: {{until: [".", "\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match, ignore_punctuation: true}}]
"""


def write_tasks(folder: Path) -> None:
    cities = sorted(CAPITALS.values())
    with (folder / "data.jsonl").open("w") as file:
        for country, city in CAPITALS.items():
            file.write(json.dumps({"country": country, "choices": cities, "label": cities.index(city)}) + "\n")
    for name, task in (("capitals", CHOICE), ("counting", ANSWER)):
        (folder / f"{name}.yaml").write_text(task.format(data=folder / "data.jsonl"))


def evaluated(clients: Path, tasks: Path, output: Path, *model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sums by task, and the answers to each question."""
    command = [str(clients / "lm_eval"), "run", "--tasks", "capitals", "counting", "--include_path", str(tasks)]
    command += ["--output_path", str(output), "--log_samples", *model]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tasks / "home"), "OPENAI_API_KEY": "none"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    results = json.loads(next(output.rglob("results_*.json")).read_text())["results"]
    samples = {}
    for file in output.rglob("samples_*.jsonl"):
        task = file.name.split("_")[1]
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        samples[task] = {line["doc_id"]: line["filtered_resps"] for line in lines}
    return results, samples


@pytest.mark.slow
def test_a_model_has_the_score_of_transformers(clients: Path, smollm2: Served, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    ours = evaluated(
        clients, tmp_path, tmp_path / "ours", "--model", "local-completions", "--model_args",
        f"model=smollm2,base_url={smollm2.url}/completions,tokenizer={smollm2.folder},num_concurrent=2",
    )  # fmt: skip
    theirs = evaluated(
        clients, tmp_path, tmp_path / "theirs", "--model", "hf", "--device", "cpu", "--model_args",
        f"pretrained={smollm2.folder},dtype=float32",
    )  # fmt: skip
    for task, metric in (("capitals", "acc,none"), ("capitals", "acc_norm,none"), ("counting", "exact_match,none")):
        assert ours[0][task][metric] == theirs[0][task][metric], (task, metric)
        assert ours[0][task][metric] > 0.5  # it is a task that this model can do
    assert ours[1]["counting"] == theirs[1]["counting"]
    for question, answers in theirs[1]["capitals"].items():
        for (expected, is_greedy), (found, is_ours) in zip(answers, ours[1]["capitals"][question], strict=True):
            assert float(found) == pytest.approx(float(expected), abs=2e-3)
            assert str(is_ours) == str(is_greedy)
