"""config.pbtxt: what a model of the repository is called, takes and gives, and which backend runs it.

The message is Triton's own `ModelConfig`, as tritonclient brings it, so a file means here what it means there. Text
comes from anywhere: its size is bounded, names are checked before they become paths, and errors say file and line.
"""

import math
import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.known_backends import fill_names, same_in_triton

NAME = "config.pbtxt"
ENSEMBLE = "ensemble"  # the platform of models that are made of other models
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MOST_BYTES = 1 << 20
_WIRE = {"STRING": "BYTES"}  # where a datatype's name on the wire is another than in the file


def read_config(folder: Path, completes: bool = True) -> ModelConfig:
    """The checked configuration of the model in `folder`, which lends it its name if the file gives none. If it
    `completes` what is missing, backend and file name come from the files that there are, and a model that can say all
    of itself (ONNX; a Python model's auto_complete_config) needs no configuration."""
    path = folder / NAME
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RepositoryError(f"{path} has {path.stat().st_size} bytes, at most {_MOST_BYTES} are read")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
        if not completes or not fill_names(ModelConfig(), folder):
            raise RepositoryError(f"{path} is missing. Write one, or let `hanbit deploy` make the models") from None
    except UnicodeDecodeError as problem:
        raise RepositoryError(f"{path} is not UTF-8: {problem}") from None
    config = _parsed(text, str(path))
    if completes and not is_ensemble(config):
        fill_names(config, folder)
    check_config(config, str(path))
    if config.name not in ("", folder.name):
        raise RepositoryError(f"{path}: name {config.name!r} must be the folder's name, {folder.name!r}, or left out")
    config.name = folder.name
    return config


def parse_config(text: str, source: str) -> ModelConfig:
    """`source` is what errors call the text. Raises RepositoryError with line and column."""
    config = _parsed(text, source)
    check_config(config, source)
    return config


def _parsed(text: str, source: str) -> ModelConfig:
    try:
        config = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as problem:
        raise RepositoryError(f"{source}:{problem}. Correct that line") from None
    except RecursionError:
        raise RepositoryError(f"{source} is nested too deeply") from None
    same_in_triton(config, source)
    return config


def config_text(config: ModelConfig) -> str:
    return text_format.MessageToString(config, as_utf8=True)


def is_ensemble(config: ModelConfig) -> bool:
    return config.platform == ENSEMBLE


def is_decoupled(config: ModelConfig) -> bool:
    """It may give any number of responses to a request."""
    return config.model_transaction_policy.decoupled


def wire_datatype(data_type: int) -> str:
    """DataType.TYPE_STRING -> 'BYTES', TYPE_FP32 -> 'FP32'."""
    name = DataType.Name(data_type).removeprefix("TYPE_")
    return _WIRE.get(name, name)


def parameter(config: ModelConfig, name: str, default: str = "") -> str:
    return config.parameters[name].string_value if name in config.parameters else default


def required_parameter(config: ModelConfig, name: str) -> str:
    value = parameter(config, name)
    if not value:
        raise RepositoryError(
            f"model {config.name!r}: backend {config.backend!r} needs the parameter {name!r}. Add to its {NAME}: "
            f'parameters {{ key: "{name}" value {{ string_value: "..." }} }}'
        )
    return value


def check_config(config: ModelConfig, source: str) -> None:
    """`source` is what errors call it. Raises RepositoryError."""
    if config.name and not MODEL_NAME.fullmatch(config.name):
        raise RepositoryError(f"{source}: name {config.name!r:.80} must be at most 128 letters, digits, '_', '-', '.'")
    if config.max_batch_size < 0:
        raise RepositoryError(f"{source}: max_batch_size: {config.max_batch_size} must be 0 (no batches) or more")
    _check_tensors("input", config.input, source)
    _check_tensors("output", config.output, source)
    file = config.default_model_filename
    if file and (file in (".", "..") or "/" in file or "\\" in file or "\0" in file):
        raise RepositoryError(
            f"{source}: default_model_filename: {file!r:.80} must be the name of a file in the version"
        )
    if is_ensemble(config):
        _check_ensemble(config, source)
    elif not config.backend:
        raise RepositoryError(f'{source}: name a backend, as in backend: "hanbit", or platform: "{ENSEMBLE}"')


def _check_tensors(kind: str, tensors: object, source: str) -> None:
    names = set()
    for tensor in tensors:  # type: ignore[attr-defined]
        where = f"{source}: {kind} {tensor.name!r:.80}"
        if not tensor.name or tensor.name in names:
            raise RepositoryError(f"{where} must have a name, and one that no other {kind} has")
        names.add(tensor.name)
        if tensor.data_type == DataType.TYPE_INVALID or tensor.data_type not in DataType.values():
            raise RepositoryError(f"{where} must have a data_type, such as TYPE_FP32")
        if any(dim < 1 and dim != -1 for dim in tensor.dims) or math.prod(tensor.dims) > 2**40:
            raise RepositoryError(f"{where} has dims {list(tensor.dims)}; each is -1 (any) or from 1")


def _check_ensemble(config: ModelConfig, source: str) -> None:
    """Every tensor that a step reads is an input of the ensemble or is written by one step, before it in some order."""
    steps = config.ensemble_scheduling.step
    if not steps:
        raise RepositoryError(f"{source}: an ensemble needs ensemble_scheduling {{ step [ ... ] }}")
    written = {tensor.name for tensor in config.input}
    for step in steps:
        for name in step.output_map.values():
            if name in written:
                raise RepositoryError(f"{source}: ensemble tensor {name!r:.80} comes from two places. Rename one")
            written.add(name)
    for step in steps:
        for name in step.input_map.values():
            if name not in written:
                raise RepositoryError(f"{source}: step {step.model_name!r:.80} reads {name!r:.80}, which nothing gives")
    for tensor in config.output:
        if tensor.name not in written:
            raise RepositoryError(f"{source}: output {tensor.name!r:.80} comes from no step's output_map")
    _check_order(config, source)


def _check_order(config: ModelConfig, source: str) -> None:
    known = {tensor.name for tensor in config.input}
    waiting = list(config.ensemble_scheduling.step)
    while waiting:
        ready = [step for step in waiting if known.issuperset(step.input_map.values())]
        if not ready:
            raise RepositoryError(f"{source}: the steps from {waiting[0].model_name!r:.80} on wait for one another")
        for step in ready:
            known.update(step.output_map.values())
            waiting.remove(step)
