"""BERT and T5 from token files to a model that transformers loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoModelForSeq2SeqLM, AutoTokenizer

from hanbit.bench.kills import parameters_hash
from hanbit.checkpoint.model_folder import load_model
from hanbit.common.errors import ConfigError, DataError
from hanbit.data.megatron import TokenWriter
from hanbit.data.prepare import prepare
from hanbit.models.layers.attend import bidirectional, encoder_decoder
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train

TOKENS = torch.randint(500, (2, 20), generator=torch.Generator().manual_seed(0))
SIZES = ["model.layers=2", "model.hidden=32", "model.heads=4"]
RUN = [
    "data.split=0.05", "batch.global_batch=8", "batch.micro_batch=4", "batch.sequence_length=32", "training.steps=12",
    "training.device=cpu", "optimizer.learning_rate=5e-3", "checkpoint.every_steps=4", "validation.every_steps=6",
    "validation.batches=2",
]  # fmt: skip


def run(folder: Path, family: str, *more: str) -> list[str]:
    """A run of seconds over documents of 2 to 120 tokens in which one often follows from the other."""
    if not (folder / "tokens.bin").exists():
        random = np.random.default_rng(7)
        with TokenWriter(folder / "tokens", 513) as writer:
            for length in random.integers(2, 120, 150):
                writer.add((random.integers(20) + 3 * np.arange(length)) % 50)
    rows = {"bert": 517, "t5": 614}[family]
    data = [f"runs={folder}", f"name={family}", f"data.train={folder / 'tokens'}", f"model.vocabulary={rows}"]
    return [*data, f"model.family={family}", *SIZES, *RUN, *more]


def losses_of(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_run_learns_and_resumes_exactly(family: str, tmp_path: Path) -> None:
    result = train(f"{family}/base", run(tmp_path, family))
    losses = losses_of(result.folder.metrics)
    assert result.is_finished
    assert losses[-1] < 0.95 * losses[0]
    assert sum("validation_loss" in row for row in read_metrics(result.folder.metrics)) == 2
    first = train(
        f"{family}/base", run(tmp_path, family, "name=two", "training.steps=4", "optimizer.schedule=constant")
    )
    whole = train(f"{family}/base", run(tmp_path, family, "name=one", "optimizer.schedule=constant"))
    assert first.step == 4
    again = train(f"{family}/base", run(tmp_path, family, "name=two", "optimizer.schedule=constant"))
    assert parameters_hash(again.folder.checkpoints) == parameters_hash(whole.folder.checkpoints)


def test_exported_bert_loads_in_transformers_with_equal_logits(tmp_path: Path) -> None:
    folder = train("bert/base", run(tmp_path, "bert")).folder.model
    theirs = AutoModelForPreTraining.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = theirs(input_ids=TOKENS)
        model = load_model(folder)
        (hidden,) = model.advance((), {"tokens": TOKENS, "segments": torch.zeros_like(TOKENS)}, bidirectional())
    torch.testing.assert_close(model.head(hidden), wanted.prediction_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.order_of(hidden), wanted.seq_relationship_logits, rtol=0, atol=1e-4)


def test_exported_t5_loads_in_transformers_with_equal_logits_and_generates_there(tmp_path: Path) -> None:
    folder = train("t5/base", run(tmp_path, "t5", "model.decoder_layers=1")).folder.model
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = theirs(input_ids=TOKENS, decoder_input_ids=TOKENS[:, :7]).logits
        model = load_model(folder)
        carried = model.advance((), {"tokens": TOKENS, "decoder_tokens": TOKENS[:, :7]}, encoder_decoder())
    torch.testing.assert_close(model.head(carried[0]), wanted, rtol=0, atol=1e-4)
    assert theirs.generate(TOKENS, max_new_tokens=3, do_sample=False).shape == (2, 4)


@pytest.mark.parametrize(("family", "added"), [("bert", 4), ("t5", 100)])  # T5's end is the tokenizer's own
def test_vocabulary_holds_the_ids_of_the_task_beside_the_tokenizers(family: str, added: int, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n\n" * 400)
    prepare([str(tmp_path / "text.txt")], tmp_path / "data", vocabulary=300)
    changes = ["model.vocabulary=auto", f"data.train={tmp_path / 'data'}", "training.steps=1"]
    folder = train(f"{family}/base", run(tmp_path, family, *changes)).folder
    tokenizer = json.loads((tmp_path / "data/tokenizer/tokenizer.json").read_text())
    size = 1 + max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])])
    assert json.loads((folder.model / "config.json").read_text())["vocab_size"] == size + added


@pytest.mark.parametrize("spare", [0, 7])  # rows between the text's ids and the task's
@pytest.mark.parametrize(
    ("family", "added"),
    [("bert", ["[CLS]", "[SEP]", "[MASK]", "[PAD]"]), ("t5", [f"<extra_id_{number}>" for number in range(100)])],
)
def test_transformers_cuts_text_to_the_ids_that_the_task_was_learnt_with(
    family: str, added: list[str], spare: int, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n\n" * 400)
    prepare([str(tmp_path / "text.txt")], tmp_path / "data", vocabulary=300)
    before = AutoTokenizer.from_pretrained(tmp_path / "data/tokenizer")
    rows = len(before) + len(added) + spare
    changes = [f"model.vocabulary={rows}", f"data.train={tmp_path / 'data'}", "training.steps=1"]
    folder = train(f"{family}/base", run(tmp_path, family, *changes)).folder.model
    after = AutoTokenizer.from_pretrained(folder)
    fox, dog = (before(word, add_special_tokens=False).input_ids for word in ("the quick fox ", " jumps"))
    for place, token in enumerate(added):
        found = after(f"the quick fox {token} jumps", add_special_tokens=False).input_ids
        assert found == [*fox, rows - 1 - place, *dog]  # from the top of the vocabulary downwards
    if family == "bert":
        assert after.mask_token_id == rows - 3
    assert json.loads((folder / "hanbit.json").read_text())["files"]["tokenizer.json"]


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_text_in_the_ids_of_the_task_is_refused(family: str, tmp_path: Path) -> None:
    words = r"text may have ids 0\.\.45" if family == "bert" else r"holds token 49"
    rows = {"bert": 50, "t5": 141}[family]
    with pytest.raises(DataError, match=words):
        train(f"{family}/base", run(tmp_path, family, f"model.vocabulary={rows}"))


@pytest.mark.parametrize(
    ("family", "override", "words"),
    [
        (
            "bert",
            "batch.sequence_length=7",
            r"sequence_length=7 is too short for model\.family=bert.*at least 8",
        ),
        ("t5", "batch.sequence_length=12", "Use at least 16"),
        ("t5", "training.compile=true", r"training\.compile=true is not proven for model\.family=t5"),
        ("t5", "model.start_token=614", r"model\.start_token=614 is outside model\.vocabulary=614"),
        ("bert", "model.tied=false", r"could not be exported.*model\.tied=false"),
    ],
)
def test_what_is_not_built_is_refused(family: str, override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        train(f"{family}/base", run(tmp_path, family, override))
