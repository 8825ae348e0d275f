"""A TorchScript file or an exported program as something that computes, with Triton's ways of naming what it takes.

TorchScript is code: Triton's format is executed as it is, in PyTorch's own interpreter. An exported program is held to
a list before it is read (exported_archive.py). Other pickles are refused.
"""

import logging
import re
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import FormatError, RepositoryError
from hanbit.repository.config import parameter, wire_datatype
from hanbit.server.batching.options import InstancePlace
from hanbit.server.errors import RequestError, invalid
from hanbit.server.tensor_models.exported_archive import check_exported, is_exported
from hanbit.server.tensor_models.signature import Signature, TensorSpec

log = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()  # torch.export keeps what it is reading in a global
_BY_INDEX = re.compile(r".+__(\d{1,4})")
_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
TORCH_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}
_FLAGS = ("DISABLE_OPTIMIZED_EXECUTION", "ENABLE_WEIGHT_SHARING", "INFERENCE_MODE", "ENABLE_CACHE_CLEANING")


def load(config: ModelConfig, path: Path, place: InstancePlace) -> tuple["TorchModel", Signature | None]:
    """Raises RepositoryError."""
    _warn_of_others(config)
    device = torch.device("cuda", place.device) if place.kind == "KIND_GPU" else torch.device("cpu")
    try:
        if is_exported(path):
            with _ONE_AT_A_TIME:
                return _exported(config, path, device)
        return _scripted(config, path, device), None
    except FormatError as problem:
        raise RepositoryError(f"model {config.name!r}: {problem}") from None
    except RepositoryError:
        raise
    except Exception as problem:  # what torch raises for a damaged file is of no one kind
        raise RepositoryError(f"model {config.name!r}: {path} cannot be loaded: {_short(problem)}") from None


class TorchModel:
    """`call`: a module. `inputs`: datatypes by name, in the order of its arguments, or what its one dict has;
    `outputs`: names in the order of its results."""

    def __init__(
        self,
        name: str,
        call: Any,
        inputs: Mapping[str, str],
        outputs: Sequence[str],
        device: torch.device,
        takes_dict: bool = False,
        optimized: bool = True,
    ) -> None:
        self._name, self._call, self._device = name, call, device
        self._inputs, self._outputs = dict(inputs), tuple(outputs)
        self._takes_dict, self._optimized = takes_dict, optimized

    def run(self, inputs: dict[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        given = {name: self._tensor(name, data) for name, data in inputs.items()}
        try:
            with torch.inference_mode(), torch.jit.optimized_execution(self._optimized):
                found = self._answer(given)
        except torch.OutOfMemoryError:
            raise RequestError("unavailable", f"model {self._name!r} had no memory for this") from None
        except (RuntimeError, IndexError, ValueError, AssertionError) as problem:
            raise invalid(f"model {self._name!r} cannot compute this: {_short(problem)}") from None
        return {name: self._array(name, found) for name in wanted}

    def _answer(self, given: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        if self._takes_dict:
            made = self._call(dict(given))
        else:
            made = self._call(*(given[name] for name in self._inputs if name in given))
        if isinstance(made, dict) and set(self._outputs) <= set(made):
            return made
        return dict(zip(self._outputs, pytree.tree_leaves(made), strict=False))

    def _tensor(self, name: str, data: np.ndarray) -> torch.Tensor:
        """A copy: what a model does to its inputs in place is its own."""
        return torch.from_numpy(np.array(data)).to(self._device, TORCH_DTYPES[self._inputs[name]])

    def _array(self, name: str, found: Mapping[str, Any]) -> np.ndarray:
        if not isinstance(found.get(name), torch.Tensor):
            raise RequestError("internal", f"model {self._name!r} gave no tensor for output {name!r}")
        one = found[name].detach().cpu()
        return (one.float() if one.dtype == torch.bfloat16 else one).numpy()


def order_of(config: ModelConfig, kind: str, names: Sequence[str], arguments: Sequence[str] | None) -> list[str]:
    """The names in the order of the model's arguments or results: by NAME__INDEX where all are of that form, by the
    `arguments`' own names where they are those, else as config.pbtxt has them. Raises RepositoryError."""
    found = [_BY_INDEX.fullmatch(name) for name in names]
    if names and all(found):
        by_index = {int(match[1]): name for match, name in zip(found, names, strict=True) if match is not None}
        if sorted(by_index) != list(range(len(names))):
            raise RepositoryError(
                f"model {config.name!r}: {kind}s {', '.join(names)} must be numbered from 0, each number once"
            )
        return [by_index[index] for index in range(len(names))]
    if arguments is not None and set(names) <= set(arguments):
        return [name for name in arguments if name in names]
    return list(names)


def _scripted(config: ModelConfig, path: Path, device: torch.device) -> TorchModel:
    if not _is_torchscript(path):
        raise RepositoryError(
            f"model {config.name!r}: {path} is neither TorchScript (torch.jit.save) nor an exported program "
            "(torch.export.save). A pickle of a module, or weights alone, are not served"
        )
    if not config.input or not config.output:
        raise RepositoryError(
            f"model {config.name!r}: TorchScript says nothing of shapes and datatypes: config.pbtxt must say what its "
            "inputs and outputs are"
        )
    _check_types(config)
    module = torch.jit.load(str(path), map_location=device).eval()
    arguments = module.forward.schema.arguments[1:]
    takes_dict = len(arguments) == 1 and "Dict" in str(arguments[0].type)
    names = [one.name for one in config.input]
    order = names if takes_dict else order_of(config, "input", names, [one.name for one in arguments])
    least = sum(not one.has_default_value() for one in arguments)
    if not takes_dict and not least <= len(order) <= len(arguments):
        raise RepositoryError(
            f"model {config.name!r}: config.pbtxt has {len(order)} inputs, and the model takes "
            f"{', '.join(one.name for one in arguments)}"
        )
    datatypes = {one.name: wire_datatype(one.data_type) for one in config.input}
    return TorchModel(
        config.name,
        module,
        {name: datatypes[name] for name in order},
        order_of(config, "output", [one.name for one in config.output], None),
        device,
        takes_dict,
        not _flag(config, "DISABLE_OPTIMIZED_EXECUTION"),
    )


def _exported(config: ModelConfig, path: Path, device: torch.device) -> tuple[TorchModel, Signature]:
    check_exported(path)
    with path.open("rb") as file:  # not its path, which would have to end with .pt2
        program = torch.export.load(file)
    signature = _signature_of(config, program)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module, in_spec = program.module(), program.call_spec.in_spec

    def call(*tensors: torch.Tensor) -> Any:
        args, kwargs = pytree.tree_unflatten(list(tensors), in_spec)
        return module(*args, **kwargs)

    inputs = {one.name: one.datatype for one in signature.inputs}
    return TorchModel(config.name, call, inputs, [one.name for one in signature.outputs], device), signature


def _signature_of(config: ModelConfig, program: Any) -> Signature:
    """Inputs by the program's names, or by those of config.pbtxt if they are numbered; outputs are numbered."""
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    own = list(program.graph_signature.user_inputs)
    asked = [one.name for one in config.input]
    names = order_of(config, "input", asked, own) if len(asked) == len(own) else own
    given = [one.name for one in config.output]
    made = list(program.graph_signature.user_outputs)
    outputs = order_of(config, "output", given, None)
    if len(given) != len(made):
        outputs = [f"OUTPUT__{index}" for index in range(len(made))]
    inputs = tuple(_spec(config, name, nodes.get(one)) for name, one in zip(names, own, strict=True))
    return Signature(inputs, tuple(_spec(config, *pair) for pair in zip(outputs, map(nodes.get, made), strict=True)))


def _spec(config: ModelConfig, name: str, value: Any) -> TensorSpec:
    if not isinstance(value, torch.Tensor) or value.dtype not in _DATATYPES:
        raise RepositoryError(f"model {config.name!r}: {name!r} is no tensor that a request can carry")
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return TensorSpec(name, _DATATYPES[value.dtype], dims)


def _check_types(config: ModelConfig) -> None:
    for one in (*config.input, *config.output):
        if wire_datatype(one.data_type) not in TORCH_DTYPES:
            raise RepositoryError(f"model {config.name!r}: {one.name!r} is {wire_datatype(one.data_type)}: no tensor")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def _flag(config: ModelConfig, name: str) -> bool:
    value = parameter(config, name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise RepositoryError(f"model {config.name!r}: parameter {name}: {value!r:.40} must be true or false")
    return value in ("true", "1")


def shares_weights(config: ModelConfig) -> bool:
    return _flag(config, "ENABLE_WEIGHT_SHARING")


def _warn_of_others(config: ModelConfig) -> None:
    for name in config.parameters:
        if name not in _FLAGS:
            log.warning("model %s: the parameter %s changes nothing here", config.name, name)


def _short(problem: Exception) -> str:
    """What went wrong, without the trace that TorchScript puts before it."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines[-1] if lines else type(problem).__name__)[:300]
