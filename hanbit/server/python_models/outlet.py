"""Where a request's responses go, with the rules of Triton: none behind the last, one only if the model is not
decoupled, and a request that its model forgets ends with an error instead of never."""

import threading

from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import InferenceResponse

_FORGOTTEN = "the model let the request go without a response that has the flag TRITONSERVER_RESPONSE_COMPLETE_FINAL"


class RequestOutlet:
    """Its children say how a response is delivered. `is_closed`: the last one has gone; `is_used`: some response went
    this way. One lock is enough for all: there is one way out of a process."""

    __slots__ = ("_is_decoupled", "is_closed", "is_used")
    _lock = threading.Lock()

    def __init__(self, is_decoupled: bool) -> None:
        self._is_decoupled = is_decoupled
        self.is_closed = self.is_used = False

    def send(self, response: InferenceResponse | None, is_final: bool) -> None:
        with self._lock:
            if self.is_closed:
                raise TritonModelException("the response sender is closed: nothing follows the final response")
            if not self._is_decoupled and response is not None and self.is_used:
                raise TritonModelException("a model that is not decoupled sends one response to a request")
            self.is_used, self.is_closed = True, is_final
            self.deliver(response, is_final)

    def is_cancelled(self) -> bool:
        raise NotImplementedError

    def deliver(self, response: InferenceResponse | None, is_final: bool) -> None:
        """In the model's thread, one at a time."""
        raise NotImplementedError

    def forget(self, response: InferenceResponse) -> None:
        """The last response of a request that the model let go. Called by the garbage collector."""
        raise NotImplementedError

    def __del__(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.forget(InferenceResponse(error=TritonError(_FORGOTTEN)))
