"""`prepare` against a plain loop; resumed, repeated, disturbed and refused."""

import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from hanbit.common.errors import ConfigError, DataError
from hanbit.data import encode, partial
from hanbit.data.megatron import open_token_file
from hanbit.data.prepare import Prepared, prepare
from hanbit.data.samples import open_samples
from hanbit.kernels import library
from hanbit.tokenizers import train
from hanbit.tokenizers.load import load

DOCUMENTS = [f"문서 {i}: 대한민국 number {i * i} " * (i % 7 + 1) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train.save(train.train(DOCUMENTS, 300), folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*DOCUMENTS[:120], "", " \n"]))
    (tmp_path / "rest.txt").write_text("".join(DOCUMENTS[120:]))
    return str(path)


@pytest.fixture
def sources(corpus: str, tmp_path: Path) -> list[str]:
    return [corpus, str(tmp_path / "rest.txt")]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_BATCH_CHARACTERS", 300)
    monkeypatch.setattr(partial, "PART_TOKENS", 500)


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def test_tokens_equal_those_of_a_plain_loop(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    made = prepare(sources, tmp_path / "out", tokenizer)
    core = load(tokenizer)
    expected = [[*core.encode(text), core.end_id] for text in [*DOCUMENTS[:120], "".join(DOCUMENTS[120:])]]
    file = open_token_file(tmp_path / "out" / "tokens")
    assert [file.document(i).tolist() for i in range(file.documents)] == expected
    assert (made.tokens, made.documents) == (sum(map(len, expected)), 121)
    recorded = json.loads((tmp_path / "out" / "hanbit.json").read_text())
    assert recorded["largest_token"] == max(map(max, expected))
    assert recorded["vocabulary_size"] == core.vocabulary_size
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_bytes() == Path(
        tokenizer, "tokenizer.json"
    ).read_bytes()
    assert not (tmp_path / "out" / ".partial").exists()
    assert len(open_samples(tmp_path / "out", 16, seed=0)) == (made.tokens - 1) // 16


def test_a_special_token_written_in_a_document_is_text(tmp_path: Path, tokenizer: str) -> None:
    text = "the token <|endoftext|> ends a document, <|im_end|> a turn"
    (tmp_path / "a.txt").write_text(text)
    prepare([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer)
    file, core = open_token_file(tmp_path / "out" / "tokens"), load(tokenizer)
    *tokens, end = file.document(0).tolist()
    assert end == core.end_id
    assert not core.special_ids & set(tokens)
    assert core.decode(tokens) == text


def test_nulls_and_blanks_are_left_out_and_counted_across_a_kill_too(tmp_path: Path, tokenizer: str) -> None:
    texts = [text for document in DOCUMENTS for text in (document, None)] + ["", " \n", None]
    parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": null}\n{"text": "b"}\n{"text": null}\n')
    sources = [str(tmp_path / "a.parquet"), str(tmp_path / "b.jsonl")]

    def stop(progress: object) -> None:
        if progress.tokens > 3000:  # type: ignore[attr-defined]
            raise Cut

    with pytest.raises(Cut):
        prepare(sources, tmp_path / "out", tokenizer, progress=stop)
    made = prepare(sources, tmp_path / "out", tokenizer)
    assert 0 < made.new_tokens < made.tokens
    assert (made.documents, made.left_out) == (201, 205)
    assert prepare(sources, tmp_path / "out", tokenizer).left_out == 205
    assert json.loads((tmp_path / "out" / "hanbit.json").read_text())["left_out"] == 205


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_byte(
    tmp_path: Path, sources: list[str], tokenizer: str, workers: int
) -> None:
    prepare(sources, tmp_path / "a", tokenizer, workers=2)
    prepare(sources, tmp_path / "b", tokenizer, workers=workers)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")


def test_a_trained_tokenizer_is_part_of_the_result(tmp_path: Path, sources: list[str]) -> None:
    made = prepare(sources, tmp_path / "out", vocabulary=280)
    tokens = open_token_file(tmp_path / "out" / "tokens")
    core = load(tmp_path / "out" / "tokenizer")
    assert made.vocabulary_size == core.vocabulary_size == 280
    assert core.decode(tokens.document(3)) == DOCUMENTS[3] + "<|endoftext|>"


def test_asked_again_it_does_nothing(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    first = prepare(sources, tmp_path / "out", tokenizer)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    again = prepare(sources, tmp_path / "out", tokenizer)
    assert (again.tokens, again.new_tokens) == (first.tokens, 0)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before


class Cut(BaseException):
    """Stands for the moment the process dies; nothing catches it."""


@pytest.mark.parametrize("trained", [False, True])
def test_cut_at_every_step_on_the_disk_the_result_is_the_same(
    tmp_path: Path, sources: list[str], tokenizer: str, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"vocabulary": 280} if trained else {"tokenizer": tokenizer}
    prepare(sources, tmp_path / "whole", **wanted)
    steps = ["os.replace", "os.fsync", "os.truncate", "shutil.rmtree", "shutil.copyfile"]
    originals = {name: getattr(sys.modules[name.split(".")[0]], name.split(".")[1]) for name in steps}
    budget = 0

    def counted(name: str):
        def step(*args: object, **kwargs: object) -> object:
            nonlocal budget
            budget -= 1
            if budget < 0:
                raise Cut
            return originals[name](*args, **kwargs)

        return step

    cuts = 0
    for allowed in range(200):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        budget = allowed
        with monkeypatch.context() as patch:
            for name in steps:
                patch.setattr(name, counted(name))
            try:
                prepare(sources, tmp_path / "out", **wanted)
            except Cut:
                cuts += 1
        if budget >= 0:
            break
        made = prepare(sources, tmp_path / "out", **wanted)
        assert content_of(tmp_path / "out") == content_of(tmp_path / "whole"), f"cut after {allowed} steps"
        assert made.new_tokens <= made.tokens
    assert cuts > 30
    assert budget >= 0, "not every step was tried"


def test_a_resumed_run_does_not_encode_again_what_is_done(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    seen = 0

    def stop(progress: object) -> None:
        nonlocal seen
        seen = progress.tokens  # type: ignore[attr-defined]
        if seen > 3000:
            raise Cut

    with pytest.raises(Cut):
        prepare(sources, tmp_path / "out", tokenizer, progress=stop)
    made = prepare(sources, tmp_path / "out", tokenizer)
    assert made.tokens - 3000 - 600 < made.new_tokens < made.tokens - 2000


SLOW = """
import sys, time
from hanbit.data import encode, partial
from hanbit.data.prepare import prepare
encode._BATCH_CHARACTERS, partial.PART_TOKENS = 300, 500
prepare(sys.argv[3:], sys.argv[1], sys.argv[2], progress=lambda progress: time.sleep(0.05))
"""


def test_kill_9_at_any_time_then_again_gives_the_same_bits(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    prepare(sources, tmp_path / "whole", tokenizer)
    for moment in (0.0, 0.1, 0.25, 0.4):
        out = tmp_path / f"killed_{moment}"
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(out), tokenizer, *sources])
        while not (out / ".partial" / "state.json").exists():
            time.sleep(0.005)
        time.sleep(moment)
        process.kill()
        assert process.wait() == -9, "it ended before it was killed"
        made = prepare(sources, out, tokenizer)
        assert made.new_tokens > 0
        assert content_of(out) == content_of(tmp_path / "whole")


def test_two_in_one_folder_are_kept_apart(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(out), tokenizer, *sources])
    try:
        while not (out / ".partial" / "state.json").exists():
            time.sleep(0.005)
        with pytest.raises(DataError, match="out is being prepared by another process"):
            prepare(sources, out, tokenizer)
    finally:
        process.kill()
        process.wait()


def test_other_settings_in_the_same_folder_are_refused_whole_or_half(
    tmp_path: Path, sources: list[str], tokenizer: str
) -> None:
    def stop(progress: object) -> None:
        if progress.tokens > 3000:  # type: ignore[attr-defined]
            raise Cut

    with pytest.raises(Cut):
        prepare(sources, tmp_path / "half", tokenizer, progress=stop)
    prepare(sources, tmp_path / "whole", tokenizer)
    for folder in ("half", "whole"):
        before = content_of(tmp_path / folder)
        with pytest.raises(DataError, match=rf"{folder} was prepared with other settings \(sources: .*Choose another"):
            prepare(sources[:1], tmp_path / folder, tokenizer)
        with pytest.raises(DataError, match="tokenizer: there"):
            prepare(sources, tmp_path / folder, vocabulary=300)
        assert content_of(tmp_path / folder) == before


def test_a_source_put_right_after_a_mistake_needs_no_clean_up(tmp_path: Path, tokenizer: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a"}\n{"wrong": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        prepare([str(source)], tmp_path / "out", tokenizer)
    source.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert prepare([str(source)], tmp_path / "out", tokenizer).documents == 2


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.idx", "tokenizer/tokenizer.json", "hanbit.json"])
def test_a_folder_that_was_changed_is_refused_by_name(
    tmp_path: Path, sources: list[str], tokenizer: str, name: str
) -> None:
    prepare(sources, tmp_path / "out", tokenizer)
    content = bytearray((tmp_path / "out" / name).read_bytes())
    content[len(content) // 2] ^= 1 if name != "hanbit.json" else 128
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        prepare(sources, tmp_path / "out", tokenizer)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"out holds thesis\.tex"):
        prepare(sources, tmp_path / "out", tokenizer)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def _prepare_with_a_limit(limit: int, arguments: list, results: multiprocessing.Queue) -> None:
    partial.PART_TOKENS, encode._BATCH_CHARACTERS = 500, 300
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prepare(*arguments)
        results.put("made")
    except DataError as problem:
        results.put(str(problem))


def test_a_full_disk_is_said_and_what_was_done_is_kept(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    prepare(sources, tmp_path / "whole", tokenizer)
    limit = (tmp_path / "whole" / "tokens.bin").stat().st_size // 2
    limit = max(limit, Path(tokenizer, "tokenizer.json").stat().st_size + 1)
    assert limit < (tmp_path / "whole" / "tokens.bin").stat().st_size
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(
        target=_prepare_with_a_limit, args=(limit, [sources, str(tmp_path / "out"), tokenizer], results)
    )
    process.start()
    message = results.get(timeout=60)
    process.join()
    assert "the disk refuses more (File too large" in message
    assert not (tmp_path / "out" / "hanbit.json").exists()
    made = prepare(sources, tmp_path / "out", tokenizer)
    assert 0 < made.new_tokens < made.tokens
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_disk_that_is_full_while_a_trained_tokenizer_is_saved_is_said(tmp_path: Path, sources: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = [sources, str(tmp_path / "out"), None, 300]
    process = context.Process(target=_prepare_with_a_limit, args=(4096, arguments, results))
    process.start()
    message = results.get(timeout=60)
    process.join()
    assert "the disk refuses more (File too large" in message
    assert prepare(*arguments).vocabulary_size == 300  # type: ignore[arg-type]


def test_an_empty_corpus_is_refused(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.txt").write_text(" \n\n")
    for wanted in ({"tokenizer": tokenizer}, {"vocabulary": 300}):
        with pytest.raises(DataError, match=r"no text in .*a\.txt"):
            prepare([str(tmp_path / "a.txt")], tmp_path / "out", **wanted)


def test_arguments_that_contradict_each_other_are_refused(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    with pytest.raises(ConfigError, match="Leave one out"):
        prepare(sources, tmp_path / "out", tokenizer, 300)
    with pytest.raises(ConfigError, match="workers=0"):
        prepare(sources, tmp_path / "out", tokenizer, workers=0)
    with pytest.raises(ConfigError, match="vocabulary=10"):
        prepare(sources, tmp_path / "out", vocabulary=10)
    assert not (tmp_path / "out").exists()


def test_kernels_that_cannot_be_had_are_refused_before_work_starts(
    tmp_path: Path, sources: list[str], tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library.why_not():
        pytest.skip("no native library")
    library.native.cache_clear()
    monkeypatch.setenv("HANBIT_NATIVE", "sse9")
    with pytest.raises(ConfigError, match="HANBIT_NATIVE=sse9 is not here"):
        prepare(sources, tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_native_words_change_no_byte(
    tmp_path: Path, sources: list[str], tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(sources, tmp_path / "native", tokenizer)
    monkeypatch.setattr(encode, "native", lambda: None)
    prepare(sources, tmp_path / "python", tokenizer)
    assert content_of(tmp_path / "native") == content_of(tmp_path / "python")


def _peak_memory(arguments: list, results: multiprocessing.Queue) -> None:
    prepare(*arguments)
    results.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, tokenizer: str) -> None:
    context = multiprocessing.get_context("spawn")
    peaks = []
    for times in (30, 300):
        source = tmp_path / f"{times}.jsonl"
        with open(source, "w") as file:
            for _ in range(times):
                file.write("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in DOCUMENTS))
        results = context.Queue()
        process = context.Process(
            target=_peak_memory, args=([[str(source)], str(tmp_path / f"out_{times}"), tokenizer], results)
        )
        process.start()
        peaks.append(results.get(timeout=120))  # in KiB
        process.join()
    assert peaks[1] - peaks[0] < 20_000, f"{peaks} KiB"


def test_prepared_says_what_there_is(tmp_path: Path, sources: list[str], tokenizer: str) -> None:
    made = prepare(sources, tmp_path / "out", tokenizer)
    assert isinstance(made, Prepared)
    assert made.new_tokens == made.tokens
    assert made.seconds > 0
