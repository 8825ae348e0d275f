"""All weights learn conversations: as in a plain loop over transformers' model and mask; the folder is talked to."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from hanbit import LLM
from hanbit.common.errors import ConfigError, DataError
from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.engine.defaults import read_defaults
from hanbit.parallel.grid import make_grid
from hanbit.train.adapter import model_of
from hanbit.train.loop import next_batch
from hanbit.train.metrics import read_metrics
from hanbit.train.run import Result, build, train
from tests.engine.folders import theirs_of
from tests.tuning.runs import sft_recipe

STEPS, BATCH = 6, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sft")
    sft_recipe(path)
    return path


@pytest.fixture(scope="module")
def done(folder: Path) -> Result:
    return train(folder / "recipe.yaml")


def rows_of(folder: Path) -> list[tuple[list[int], list[bool]]]:
    """Every conversation as transformers writes it, with its own mask of what the assistant says."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = []
    for line in (folder / "talk.jsonl").read_text().splitlines():
        found = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        rows.append((found["input_ids"], [bool(one) for one in found["assistant_masks"]]))
    return rows


def learnt(model: PreTrainedModel, rows: list[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """The mean loss over the answer tokens of rows that are gone through one by one, without padding."""
    total, count = torch.zeros(()), 0
    for tokens, is_answer in rows:
        logits = model(torch.tensor([tokens[:-1]])).logits[0]
        answers = torch.tensor(is_answer[1:])
        total = total + F.cross_entropy(logits[answers], torch.tensor(tokens[1:])[answers], reduction="sum")
        count += int(answers.sum())
    return total / count


def order_of(folder: Path, rows: list[tuple[list[int], list[bool]]]) -> list[list[int]]:
    """Which rows each step has, read from the run's own batches; their targets are transformers' mask."""
    loaded = load_recipe(folder / "recipe.yaml", environment={}, model_of=model_of)
    recipe = resolve(loaded.recipe, world_size=1, vocabulary=400, device="cpu").recipe
    training = build(recipe, make_grid(1, 1, 1, torch.device("cpu")))
    steps = []
    for _ in range(STEPS):
        batch = next_batch(training)
        training.samples_seen += BATCH
        places = [_place(row.tolist(), rows) for row in batch["tokens"]]
        for place, targets in zip(places, batch["targets"].tolist(), strict=True):
            tokens, is_answer = rows[place]
            wanted = [token if counts else -1 for token, counts in zip(tokens[1:], is_answer[1:], strict=True)]
            assert targets == wanted + [-1] * (len(targets) - len(wanted))
        steps.append(places)
    return steps


def _place(row: list[int], rows: list[tuple[list[int], list[bool]]]) -> int:
    return next(i for i, (tokens, _) in enumerate(rows) if row[: len(tokens) - 1] == tokens[:-1])


def test_a_run_equals_a_plain_loop_over_transformers_model_and_mask(folder: Path, done: Result) -> None:
    rows, theirs = rows_of(folder), theirs_of(folder / "base").train()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-5)
    numbers = [row for row in read_metrics(done.folder.metrics) if "loss" in row]
    for row, places in zip(numbers, order_of(folder, rows), strict=True):
        loss = learnt(theirs, [rows[place] for place in places])
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    assert numbers[-1]["loss"] < 0.6 * numbers[0]["loss"]
    exported, tokens = theirs_of(done.folder.model), torch.tensor([rows[0][0]])
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens).logits, theirs.eval()(tokens).logits, rtol=1e-3, atol=1e-3)


def test_the_folder_asks_as_it_was_taught_and_stops_where_an_answer_ends(folder: Path, done: Result) -> None:
    ours, base = (AutoTokenizer.from_pretrained(path) for path in (done.folder.model, folder / "base"))
    asked = [{"role": "user", "content": "the lazy dog ?"}]
    assert ours.apply_chat_template(asked, tokenize=False) == base.apply_chat_template(asked, tokenize=False)
    ends = GenerationConfig.from_pretrained(done.folder.model).eos_token_id
    assert ends == ours.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert read_defaults(done.folder.model, None).end_ids == set(ends)
    wanted = ours.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert LLM(done.folder.model).chat_prompt(asked) == wanted


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("training.compile=true", ConfigError, r"not proven with training\.compile=true"),
        ("training.precision=fp8", ConfigError, r"not proven with training\.precision=fp8"),
        ("training.initial_model=null", ConfigError, "model.*missing"),
        ("training.steps=auto", ConfigError, "no fixed number of tokens"),
        ("tokenizer.path=nowhere", DataError, "nowhere"),
        ("model.hidden=32", ConfigError, "initial_model"),
    ],
)
def test_what_is_not_proven_or_not_there_is_refused_first(
    folder: Path, override: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(folder / "recipe.yaml", ["name=x", override])
    assert not (folder / "x/checkpoints").exists()
