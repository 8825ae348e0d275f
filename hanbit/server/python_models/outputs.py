"""A model's response held against its configuration: names, datatypes, shapes. What is wrong is the model's fault."""

from collections.abc import Mapping
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.repository.config import wire_datatype
from hanbit.server.check import fits, shape_of
from hanbit.server.errors import RequestError
from hanbit.server.request import InferRequest
from hanbit.server.tensors import Tensor


@dataclass(frozen=True)
class _Output:
    datatype: str
    shape: tuple[int, ...]  # with the batch, -1 is any


class Outputs:
    def __init__(self, config: ModelConfig) -> None:
        self._model = config.name
        self._known = {
            one.name: _Output(wire_datatype(one.data_type), tuple(shape_of(config, one.dims))) for one in config.output
        }
        self.names = tuple(self._known)

    def check(self, request: InferRequest, outputs: Mapping[str, Tensor], is_whole: bool) -> None:
        """`is_whole`: the only response, in which every output that was asked for by name must be. RequestError."""
        for name, tensor in outputs.items():
            known = self._known.get(name)
            if known is None:
                raise self._wrong(f"gave an output {name!r:.80}, and its configuration has {', '.join(self.names)}")
            if tensor.datatype != known.datatype:
                raise self._wrong(f"gave {tensor.datatype} for output {name!r}, which is {known.datatype}")
            shape = tensor.shape
            if shape != known.shape and not fits(shape, known.shape):
                raise self._wrong(f"gave shape {list(shape)} for output {name!r}, which is {list(known.shape)}")
        for one in request.outputs if is_whole else ():
            if one.name not in outputs:
                raise self._wrong(f"gave no output {one.name!r:.80}, which was asked for")

    def _wrong(self, what: str) -> RequestError:
        return RequestError("internal", f"model {self._model!r} {what}")
