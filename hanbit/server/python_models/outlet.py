"""Where a request's responses go, with the rules of Triton: none behind the last, one only if the model is not
decoupled, and a request that its model forgets ends with an error instead of never."""

import threading
from collections.abc import Callable

from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import InferenceResponse

Deliver = Callable[[InferenceResponse | None, bool], None]
Forget = Callable[[InferenceResponse], None]

_FORGOTTEN = "the model let the request go without a response that has the flag TRITONSERVER_RESPONSE_COMPLETE_FINAL"


class RequestOutlet:
    """`deliver`: called in the model's thread, one at a time; `forget`: with the last response of a request that the
    model let go, called by the garbage collector. `is_closed`: the last response has gone; `is_used`: some
    response went this way."""

    __slots__ = ("_cancelled", "_deliver", "_forget", "_is_decoupled", "_lock", "is_closed", "is_used")

    def __init__(self, deliver: Deliver, forget: Forget, cancelled: Callable[[], bool], is_decoupled: bool) -> None:
        self._deliver, self._forget, self._cancelled, self._is_decoupled = deliver, forget, cancelled, is_decoupled
        self._lock = threading.Lock()
        self.is_closed = self.is_used = False

    def send(self, response: InferenceResponse | None, is_final: bool) -> None:
        with self._lock:
            if self.is_closed:
                raise TritonModelException("the response sender is closed: nothing follows the final response")
            if not self._is_decoupled and response is not None and self.is_used:
                raise TritonModelException("a model that is not decoupled sends one response to a request")
            self.is_used, self.is_closed = True, is_final
            self._deliver(response, is_final)

    def is_cancelled(self) -> bool:
        return self._cancelled()

    def close(self) -> None:
        """Its responses came otherwise."""
        self.is_closed = True

    def __del__(self) -> None:
        if not getattr(self, "is_closed", True):
            self.is_closed = True
            self._forget(InferenceResponse(error=TritonError(_FORGOTTEN)))
