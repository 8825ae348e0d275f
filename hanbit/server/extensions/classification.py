"""The classification extension: an output as its k best classes, BYTES of `value:index` or `value:index:label`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import wire_datatype
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.tensors import Tensor

Labels = Mapping[str, tuple[str, ...]]
"""By output."""
_NO_CLASSES = ("BOOL", "BYTES")
_MOST_LABEL_BYTES = 64 * 2**20


def read_labels(config: ModelConfig, folder: Path) -> Labels:
    """Of the outputs that name a file; lines in the order of the classes. Raises RepositoryError."""
    return {one.name: _lines(folder, one.label_filename) for one in config.output if one.label_filename}


def classes_wanted(config: ModelConfig, name: str, parameters: Mapping[str, Any]) -> int:
    """The best how many; 0: the output as it is. Raises RequestError."""
    count = parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise invalid(f"output {name!r:.80}: classification={count!r:.40} must be a whole number from 0")
    datatypes = [wire_datatype(one.data_type) for one in config.output if one.name == name]
    if count and datatypes and datatypes[0] in _NO_CLASSES:
        raise invalid(f"output {name!r} is {datatypes[0]}, which has no classes; ask for classification of numbers")
    return count


def classified(
    config: ModelConfig, labels: Labels, request: InferRequest, response: InferResponse
) -> Mapping[str, Tensor]:
    """The response's outputs, with classes where the request asks for them."""
    wanted = {one.name: count for one in request.outputs if (count := one.parameters.get("classification"))}
    if not wanted:
        return response.outputs
    found = dict(response.outputs)
    for name, count in wanted.items():
        if name in found:
            found[name] = _best(found[name], int(count), labels.get(name, ()), config.max_batch_size > 0)
    return found


def _best(tensor: Tensor, count: int, labels: tuple[str, ...], has_batch: bool) -> Tensor:
    """[batch, ...] -> [batch, k]; without batches [...] -> [k]."""
    rows = tensor.data.reshape((tensor.shape[0], -1) if has_batch else (1, -1))
    count = min(count, rows.shape[1])
    texts = [_text(row[index], index, labels) for row in rows for index in _order(row)[:count]]
    shape = (rows.shape[0], count) if has_batch else (count,)
    data = np.empty(len(texts), np.object_)
    data[:] = texts
    return Tensor(tensor.name, "BYTES", shape, data.reshape(shape))


def _order(row: np.ndarray) -> np.ndarray:
    """Indices, the highest value first; of equal ones the lower index, and what is no number last."""
    values = np.where(np.isnan(row), -np.inf, row) if row.dtype.kind == "f" else row
    return len(row) - 1 - np.argsort(values[::-1], kind="stable")[::-1]


def _text(value: Any, index: int, labels: tuple[str, ...]) -> bytes:
    number = f"{float(value):f}" if isinstance(value, np.floating) else f"{int(value)}"
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()


def _lines(folder: Path, name: str) -> tuple[str, ...]:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RepositoryError(f"{folder}: label_filename {name!r:.80} must be a file within the model's folder")
    try:
        if path.stat().st_size > _MOST_LABEL_BYTES:
            raise RepositoryError(f"{path} has more than {_MOST_LABEL_BYTES} bytes of labels")
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as problem:
        raise RepositoryError(f"{path} has no labels that can be read: {problem}") from None
