"""Continued pre-training as docs/continued.md has it, small: a larger vocabulary, two languages, hanbit's recipe."""

from pathlib import Path

from transformers import AutoTokenizer

from hanbit import convert
from hanbit.data.prepare import prepare
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train
from tests.engine.folders import theirs_of, write_folder

KOREAN = "대한민국의 주권은 국민에게 있고, 모든 권력은 국민으로부터 나온다. 모든 국민은 법 앞에 평등하다.\n"
ENGLISH = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


def test_the_recipe_goes_on_from_an_extended_folder_in_both_languages(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write_folder(tmp_path / "base", "llama")
    for name, text in (("ko", KOREAN), ("en", ENGLISH)):
        (tmp_path / f"{name}.txt").write_text(text * 40, encoding="utf-8")
    start = convert(tmp_path / "base", tmp_path / "start", extend_vocabulary=str(tmp_path / "ko.txt"), new_tokens=90)
    for name in ("ko", "en"):
        prepare([str(tmp_path / f"{name}.txt")], tmp_path / name, str(start.folder), None, workers=1)
    blend = f"[{{path: {tmp_path}/ko, weight: 0.7}}, {{path: {tmp_path}/en, weight: 0.3, name: replay}}]"
    sizes = [
        "batch={micro_batch: 2, global_batch: 4, sequence_length: 32}",
        "training.tokens=null",
        "training.steps=12",
    ]
    small = [*sizes, "optimizer.warmup_steps=2", "training.precision=fp32", "training.device=cpu", "data.split=0.1"]
    places = [f"runs={tmp_path}", f"data.train={blend}", f"training.initial_model={start.folder}"]
    result = train("smollm2/korean", [*places, *small, "optimizer.learning_rate=3e-3"])
    losses = [row["loss"] for row in read_metrics(result.folder.metrics) if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    tokenizer = AutoTokenizer.from_pretrained(result.folder.model)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(start.folder).get_vocab()
    model = theirs_of(result.folder.model)
    assert model.config.vocab_size == theirs_of(start.folder).config.vocab_size >= len(tokenizer)
