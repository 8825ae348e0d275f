"""One inference as the data plane sees it, whatever protocol brought it."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hanbit.server.moments import Moments
from hanbit.server.tensors import Tensor

Value = bool | int | float | str
NOTHING: Mapping[str, Value] = {}  # shared by all: nobody writes into a request


@dataclass(frozen=True)
class RequestedOutput:
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)


# The two below are made several times for each request. They set their fields at once: the __init__ that a frozen
# dataclass gets takes a microsecond for each field.


@dataclass(frozen=True, init=False)
class InferRequest:
    """`outputs`: the wanted ones, none named means all. `is_last`: no further piece of a streamed input follows.
    `trace`: where it is told what became of it, if it is traced."""

    model: str
    inputs: Mapping[str, Tensor]
    version: str = ""
    id: str = ""
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    is_last: bool = True
    trace: "Trace | None" = None
    moments: Moments = field(default_factory=Moments, compare=False)

    def __init__(
        self,
        model: str,
        inputs: Mapping[str, Tensor],
        version: str = "",
        id: str = "",
        outputs: tuple[RequestedOutput, ...] = (),
        parameters: Mapping[str, Value] = NOTHING,
        is_last: bool = True,
        trace: "Trace | None" = None,
        moments: Moments | None = None,
    ) -> None:
        vars(self).update(
            model=model,
            inputs=inputs,
            version=version,
            id=id,
            outputs=outputs,
            parameters=parameters,
            is_last=is_last,
            trace=trace,
            moments=Moments() if moments is None else moments,
        )


@dataclass(frozen=True, init=False)
class InferResponse:
    """`is_last`: the request has no further response. A frontend adds model, version and id."""

    outputs: Mapping[str, Tensor]
    is_last: bool = True
    parameters: Mapping[str, Value] = field(default_factory=dict)

    def __init__(
        self, outputs: Mapping[str, Tensor], is_last: bool = True, parameters: Mapping[str, Value] = NOTHING
    ) -> None:
        vars(self).update(outputs=outputs, is_last=is_last, parameters=parameters)


class Trace(Protocol):
    """See extensions/trace.py."""

    def child(self) -> "Trace": ...

    def mark(self, name: str, nanoseconds: int | None = None) -> None: ...

    def describe(self, model: str, version: str, request_id: str) -> None: ...

    def inputs(self, tensors: Iterable[Tensor]) -> None: ...

    def outputs(self, tensors: Iterable[Tensor]) -> None: ...

    def computed(self, moments: Moments, end: int) -> None: ...


class Run(Protocol):
    """One request's stay in a model.

    A streamed input comes as several calls of `infer`, the last with `is_last`; what a model must remember between them
    lives here. Every iterator ends with a response that `is_last`, unless it raises. Closing it ends the work.

    A run may have a coroutine `one(request)`, too: the same for a model that is not decoupled, without an iterator.
    """

    def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]: ...


class Backend(Protocol):
    """A loaded model. Each file of backends/ has a class `Backend(config: ModelConfig, engines: Engines)`, made in a
    thread since it may take its time; or a coroutine `load_model` (backends/find.py), of a model that takes batches
    (batching/scheduler.py) or needs more. Both raise HanbitError if the model cannot be loaded. `close` is called in a
    thread. One that may be away for a while has a property `is_ready`, too."""

    def start(self) -> Run: ...

    def close(self) -> None: ...
