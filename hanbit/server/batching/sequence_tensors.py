"""The tensors that a model of sequences gets beside those of its clients: controls, and the states that it left."""

import math
import stat
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelSequenceBatching

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import wire_datatype
from hanbit.server.batching.options import BatchOptions
from hanbit.server.batching.sequences import SequenceOptions
from hanbit.server.errors import RequestError, invalid
from hanbit.server.request import InferRequest
from hanbit.server.tensors import Tensor, dtype_of, from_raw

_USUAL_IDLE_US = 1_000_000
_MOST_SEQUENCES = 1_000_000
_FLAGS = ("CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_READY")
_CORRID = "CONTROL_SEQUENCE_CORRID"
_IDS = ("UINT64", "INT64", "UINT32", "INT32", "BYTES")
FOLDER = "initial_state"  # of the model's folder: the files that states name


@dataclass(frozen=True)
class Control:
    """`values`: what stands for false and true; of a sequence's id there are none."""

    name: str
    kind: str
    datatype: str
    values: tuple[Any, Any] = (0, 0)


def sequence_options(config: ModelConfig) -> SequenceOptions:
    """Raises RepositoryError."""
    asked = config.sequence_batching
    if asked.iterative_sequence:
        raise _wrong(config, "iterative_sequence is not offered")
    rows = max(1, config.max_batch_size)
    idle_ns = (asked.max_sequence_idle_microseconds or _USUAL_IDLE_US) * 1000
    if not asked.HasField("oldest"):
        batch = BatchOptions(rows, max_delay_ns=asked.direct.max_queue_delay_microseconds * 1000)
        share = asked.direct.minimum_slot_utilization
        if not 0 <= share <= 1:
            raise _wrong(config, f"minimum_slot_utilization: {share:g} must be from 0 to 1")
        return SequenceOptions(True, rows, idle_ns, batch, share)
    oldest = asked.oldest
    if not 1 <= oldest.max_candidate_sequences <= _MOST_SEQUENCES:
        raise _wrong(
            config, f"max_candidate_sequences: {oldest.max_candidate_sequences} must be from 1 to {_MOST_SEQUENCES}"
        )
    preferred = tuple(sorted(set(oldest.preferred_batch_size)))
    if preferred and not 1 <= preferred[0] <= preferred[-1] <= rows:
        raise _wrong(config, f"preferred_batch_size {list(preferred)}: each is from 1 to max_batch_size, {rows}")
    batch = BatchOptions(
        rows, is_dynamic=True, preferred_rows=preferred, max_delay_ns=oldest.max_queue_delay_microseconds * 1000
    )
    return SequenceOptions(False, oldest.max_candidate_sequences, idle_ns, batch)


def with_sequence_tensors(config: ModelConfig) -> ModelConfig:
    """As the model itself has it: with controls and states among its inputs and outputs. Raises RepositoryError."""
    found = ModelConfig()
    found.CopyFrom(config)
    if not config.HasField("sequence_batching"):
        return found
    for control in controls_of(config):
        found.input.add(name=control.name, data_type=_data_type(control.datatype), dims=[1])
    for state in config.sequence_batching.state:
        found.input.add(name=state.input_name, data_type=state.data_type, dims=state.dims)
        found.output.add(name=state.output_name, data_type=state.data_type, dims=state.dims)
    return found


def added_names(config: ModelConfig) -> set[str]:
    """Of the inputs and outputs that no client sees."""
    states = config.sequence_batching.state
    names = {one.name for one in config.sequence_batching.control_input}
    return names | {one.input_name for one in states} | {one.output_name for one in states}


def controls_of(config: ModelConfig) -> list[Control]:
    """Raises RepositoryError."""
    found: list[Control] = []
    for given in config.sequence_batching.control_input:
        for control in given.control:
            found.append(_control(config, given.name, control))
    kinds = [one.kind for one in found]
    if len(set(kinds)) != len(kinds):
        raise _wrong(config, "sequence_batching has two control inputs of one kind")
    return found


class SequenceTensors:
    """`folder`: the model's. Raises RepositoryError."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self._controls = controls_of(config)
        self._takes_batches = config.max_batch_size > 0
        self._initial = {one.input_name: self._initial_state(config, one, folder) for one in _states(config)}
        self._inputs_of = {one.output_name: one.input_name for one in _states(config)}

    def extended(
        self, request: InferRequest, begins: bool, ends: bool, id: Hashable, kept: Mapping[str, Tensor]
    ) -> InferRequest:
        """With controls, and what the sequence has left. Raises RequestError for an id that the model cannot have."""
        states = self._initial if begins else {**self._initial, **kept}
        controls = {one.name: self._tensor(one, (begins, ends, True), id) for one in self._controls}
        return _with(request, {**request.inputs, **controls, **states})

    def nobody(self, request: InferRequest) -> InferRequest:
        """In place of a sequence that has no request now: `request`'s shapes, nothing in them, not ready."""
        empty = {name: _empty(one) for name, one in request.inputs.items()}
        controls = {one.name: self._tensor(one, (False, False, False), None) for one in self._controls}
        inputs = {**empty, **controls, **self._initial}
        return InferRequest(request.model, inputs, request.version, parameters=request.parameters)

    def parted(self, outputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the client gets, and the states by the names of their inputs."""
        states = {self._inputs_of[name]: one for name, one in outputs.items() if name in self._inputs_of}
        renamed = {name: one.renamed(name) for name, one in states.items()}
        return {name: one for name, one in outputs.items() if name not in self._inputs_of}, renamed

    def check_id(self, id: Hashable) -> None:
        """Raises RequestError for an id that the model's control input cannot carry."""
        for one in self._controls:
            if one.kind == _CORRID:
                self._tensor(one, (False, False, False), id)

    def _tensor(self, control: Control, flags: tuple[bool, bool, bool], id: Hashable) -> Tensor:
        shape = (1, 1) if self._takes_batches else (1,)
        data = np.empty(shape, dtype_of(control.datatype))
        if control.kind == _CORRID:
            data[...] = _id_value(control, id)
        else:
            data[...] = control.values[flags[_FLAGS.index(control.kind)]]
        return Tensor(control.name, control.datatype, shape, data)

    def _initial_state(self, config: ModelConfig, state: Any, folder: Path) -> Tensor:
        datatype = wire_datatype(state.data_type)
        if len(state.initial_state) > 1:
            raise _wrong(config, f"state {state.input_name!r} has several initial_state")
        given = state.initial_state[0] if state.initial_state else None
        dims = list(given.dims) if given is not None and given.dims else [max(1, dim) for dim in state.dims]
        if given is not None and given.data_type not in (DataType.TYPE_INVALID, state.data_type):
            raise _wrong(config, f"state {state.input_name!r} and its initial_state have different data_type")
        fits = len(dims) == len(state.dims) and all(
            own in (-1, size) and size > 0 for own, size in zip(state.dims, dims, strict=True)
        )
        if not fits or math.prod(dims) > 2**28:
            raise _wrong(config, f"state {state.input_name!r}: initial_state of {dims} does not fit {list(state.dims)}")
        shape = [1, *dims] if self._takes_batches else dims
        if given is not None and given.data_file:
            return self._from_file(config, state, datatype, shape, folder / FOLDER, given.data_file)
        return _empty(Tensor(state.input_name, datatype, tuple(shape), np.zeros(shape, dtype_of(datatype))))

    def _from_file(
        self, config: ModelConfig, state: Any, datatype: str, shape: list[int], folder: Path, name: str
    ) -> Tensor:
        if "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
            raise _wrong(config, f"data_file: {name!r:.80} must be the name of a file in {folder}")
        try:
            if not stat.S_ISREG((folder / name).lstat().st_mode):
                raise _wrong(config, f"{folder / name} is no file of its own")
            return from_raw(state.input_name, datatype, shape, (folder / name).read_bytes())
        except OSError as problem:
            raise _wrong(config, f"{folder / name} cannot be read: {problem.strerror}") from None
        except RequestError as problem:
            raise _wrong(config, f"{folder / name}: {problem}") from None


def sequence_of(request: InferRequest) -> tuple[Hashable, bool, bool]:
    """Its id, whether it begins and whether it ends the sequence. Raises RequestError."""
    id = request.parameters.get("sequence_id", 0)
    if isinstance(id, bool) or not isinstance(id, int | str) or (isinstance(id, int) and not 0 <= id < 2**64):
        raise invalid(f"sequence_id={id!r:.40} must be a number from 1 to 2^64 - 1, or a text")
    if not id or (isinstance(id, str) and len(id) > 1024):
        raise invalid(
            "a request to a model of sequences needs a sequence_id: not 0, not empty, at most 1024 characters"
        )
    flags = [request.parameters.get(name, False) for name in ("sequence_start", "sequence_end")]
    for flag in flags:
        if not isinstance(flag, bool):
            raise invalid(f"sequence_start and sequence_end are true or false, not {flag!r:.40}")
    return id, flags[0] is True, flags[1] is True


def _control(config: ModelConfig, name: str, given: Any) -> Control:
    kind = ModelSequenceBatching.Control.Kind.Name(given.kind)
    if kind == _CORRID:
        datatype = wire_datatype(given.data_type)
        if datatype not in _IDS:
            raise _wrong(config, f"control {name!r}: an id is one of {', '.join(_IDS)}, not {datatype}")
        return Control(name, kind, datatype)
    pairs = {"INT32": given.int32_false_true, "FP32": given.fp32_false_true, "BOOL": given.bool_false_true}
    chosen = [(datatype, pair) for datatype, pair in pairs.items() if pair]
    if len(chosen) != 1 or len(chosen[0][1]) != 2:
        raise _wrong(
            config, f"control {name!r} needs one of int32_false_true, fp32_false_true, bool_false_true, with two values"
        )
    return Control(name, kind, chosen[0][0], (chosen[0][1][0], chosen[0][1][1]))


def _id_value(control: Control, id: Hashable) -> Any:
    if control.datatype == "BYTES":
        return b"" if id is None else str(id).encode()
    if id is None:
        return 0
    if not isinstance(id, int) or id > np.iinfo(dtype_of(control.datatype)).max:
        raise invalid(f"sequence_id={id!r:.40} does not fit {control.datatype}, as this model has it")
    return id


def _with(request: InferRequest, inputs: Mapping[str, Tensor]) -> InferRequest:
    """All outputs are wanted: the states are among them."""
    return InferRequest(
        request.model,
        inputs,
        request.version,
        request.id,
        (),
        request.parameters,
        request.is_last,
        request.trace,
        request.moments,
    )


def _empty(one: Tensor) -> Tensor:
    data = np.zeros(one.shape, dtype_of(one.datatype))
    if one.datatype == "BYTES":
        data.fill(b"")
    return Tensor(one.name, one.datatype, one.shape, data)


def _states(config: ModelConfig) -> Any:
    return config.sequence_batching.state


def _data_type(datatype: str) -> int:
    return DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


def _wrong(config: ModelConfig, what: str) -> RepositoryError:
    return RepositoryError(f"model {config.name!r}: {what}")
