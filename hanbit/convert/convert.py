"""`convert`: a model folder out of another format, with a proof.

open the source -> is it there already? -> write tensors, tokenizer, configuration -> prove -> take the place
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hanbit.checkpoint.model_folder import KIND, save_model
from hanbit.common.atomic import write_json
from hanbit.common.errors import ConfigError, ModelError
from hanbit.common.manifest import NAME, read_manifest, verify
from hanbit.config.model import DecoderConfig
from hanbit.convert.extended_origin import extended
from hanbit.convert.origin import Origin, Report
from hanbit.convert.quantisation import Options, Quantisation, asked_for
from hanbit.convert.quantised_origin import quantised
from hanbit.convert.sources import open_source

FORMATS = ("hf",)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Converted:
    """`proof` is what was found, None where none was asked for; `seconds` are without it. `was_there`: nothing had to
    be written."""

    folder: Path
    source: str
    described: str
    dtype: str
    was_there: bool
    seconds: float
    proof: dict[str, Any] | None
    proof_seconds: float


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str = "hf",
    dtype: str = "auto",
    keep_blocks: bool = False,
    proof: bool = True,
    extend_vocabulary: str | None = None,
    new_tokens: int | None = None,
    quantize: str | None = None,
    group: int | None = None,
    symmetric: bool = False,
    method: str | None = None,
    calibration: str | None = None,
    text: str | Path | None = None,
    progress: Report | None = None,
) -> Converted:
    """Make a model folder `target` of `source`: a .gguf file, a model folder, `package:NAME`, or a hub's `org/name`.

    dtype: float32, bfloat16, float16; auto is float32 for quantised numbers and a folder's own otherwise. `keep_blocks`
    also keeps a GGUF file's quantised blocks as they are. `extend_vocabulary` names a corpus (as `prepare` reads them)
    from which `new_tokens` (8192) more tokens of a model folder are learnt. `quantize` (int4, int8) rounds matrices in
    groups of `group` (32, 64, 128) numbers, int4 with a least number for each unless `symmetric`, by `method` (rtn: to
    nearest; gptq, awq: looking at the text `calibration`, as `prepare` reads it); the proof then tells perplexity
    before and after, over `text` if it is named. A target that is whole and was made of the same source in the same way
    is left as it is. `proof` reads both again by other readers and compares every tensor, then logits; a target that
    fails never takes its place. Raises ConfigError, FormatError, ModelError, DataError.
    """
    _check(to, dtype)
    wanted = Options(quantize, group, symmetric, method, calibration, None if text is None else Path(text))
    asked = asked_for(wanted, keep_blocks)
    began, report = time.perf_counter(), progress or _silent
    report("reading the source", 0.0)
    opened, folder = open_source(source), Path(target)
    _check_apart(opened, folder)
    if extend_vocabulary is not None or quantize is not None:
        _check_decoder(opened)
    origin = quantised(extended(opened, extend_vocabulary, new_tokens), asked, report)
    kind = origin.dtype if dtype == "auto" else DTYPES[dtype]
    facts = _facts(origin, kind, keep_blocks, asked)
    there = _manifest_if_whole(folder, facts)
    work = _Work(origin, report, proof)
    if there is None:
        if keep_blocks:
            origin.require_blocks()
        _write(folder, origin, kind, facts, keep_blocks, work)
    elif proof and not _is_proven(there, asked):
        write_json(folder / NAME, {**there, **work.prove(folder)})
    found = work.proof or (there or {}).get("proof")
    seconds = time.perf_counter() - began - work.proof_seconds
    name = str(kind).removeprefix("torch.")
    return Converted(folder, str(source), origin.described, name, there is not None, seconds, found, work.proof_seconds)


def _check(to: str, dtype: str) -> None:
    if to not in FORMATS:
        raise ConfigError(f"--to {to} is not built. It writes {', '.join(FORMATS)}")
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} must be auto, {', '.join(DTYPES)}")


def _check_apart(origin: Origin, folder: Path) -> None:
    """A source that is replaced by what was made of it is lost, and the same command would go on from there."""
    if folder.resolve() == origin.path.resolve():
        raise ConfigError(f"the target {folder} is the source itself, which would be lost. Name a new folder")


def _check_decoder(origin: Origin) -> None:
    if not isinstance(origin.config, DecoderConfig):
        raise ModelError(
            f"{origin.path} is a {origin.config.family} model: vocabularies grow and matrices are rounded in models of "
            "the next token. Leave --extend-vocabulary and --quantize out"
        )


def _facts(origin: Origin, dtype: torch.dtype, keep_blocks: bool, asked: Quantisation | None) -> dict[str, Any]:
    """What hanbit.json says of where the folder comes from; the same for the same conversion."""
    made = {
        "source_sha256": origin.sha256(),
        "dtype": str(dtype).removeprefix("torch."),
        "keeps_blocks": keep_blocks,
        **({} if asked is None else asked.facts()),
    }
    license = {} if origin.license is None else {"license": origin.license}
    return {"parents": [origin.path.name], "conversion": made, **license}


def _manifest_if_whole(folder: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Of a folder that this very conversion made and nobody has changed since."""
    try:
        manifest = read_manifest(folder, KIND, ModelError)
        if manifest.get("conversion") != facts["conversion"]:
            return None
        verify(folder, manifest, ModelError)
    except (ModelError, NotADirectoryError, KeyError, TypeError):
        return None
    return manifest


def _is_proven(manifest: dict[str, Any], asked: Quantisation | None) -> bool:
    """Of what was quantised the perplexity of this very text belongs to it."""
    proof = manifest.get("proof")
    return proof is not None and (asked is None or proof.get("text_sha256") == asked.text_sha256())


class _Work:
    """The parts that take long, with their clock."""

    def __init__(self, origin: Origin, report: Report, is_proof_wanted: bool) -> None:
        self._origin, self._report, self._is_wanted = origin, report, is_proof_wanted
        self.proof: dict[str, Any] | None = None
        self.proof_seconds = 0.0

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        return _Told(self._origin.tensors(dtype), self._report)

    def prove(self, folder: Path) -> dict[str, Any]:
        """The fact for hanbit.json."""
        if not self._is_wanted:
            return {}
        began = time.perf_counter()
        self.proof = self._origin.prove(folder, self._report)
        self.proof_seconds = time.perf_counter() - began
        return {"proof": self.proof}


def _write(
    folder: Path, origin: Origin, dtype: torch.dtype, facts: dict[str, Any], keep_blocks: bool, work: _Work
) -> None:
    def finish(new: Path) -> dict[str, Any]:
        origin.complete(new, keep_blocks)
        return work.prove(new)

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = origin.tokenizer(Path(scratch))
        save_model(folder, origin.config, work.tensors(dtype), tokenizer, facts, finish)


class _Told(Mapping[str, torch.Tensor]):
    """Tensors that say how far they are."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], report: Report) -> None:
        self._tensors, self._report, self._taken = tensors, report, 0

    def __getitem__(self, name: str) -> torch.Tensor:
        self._taken += 1
        self._report("reading tensors", min(1.0, self._taken / len(self._tensors)))
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _silent(stage: str, share: float) -> None:
    pass
