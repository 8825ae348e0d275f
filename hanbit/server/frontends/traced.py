"""The moments that only HTTP knows of a request that is traced: when it was received, and when it was sent."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from starlette.background import BackgroundTask
from starlette.responses import Response

from hanbit.server.extensions.trace import Trace
from hanbit.server.model import ServedModel
from hanbit.server.models import Catalogue
from hanbit.server.request import InferRequest


class HttpTrace:
    """`trace` None: this one is not traced, and nothing here costs anything."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._is_sent = False
        if trace is not None:
            trace.mark("HTTP_RECV_START")

    def received(self, request: InferRequest) -> InferRequest:
        if self._trace is None:
            return request
        self._trace.mark("HTTP_RECV_END")
        return replace(request, trace=self._trace)

    def sends(self, response: Response) -> Response:
        """The trace ends when the last byte has been sent."""
        if self._trace is not None:
            self._is_sent = True
            self._trace.mark("HTTP_SEND_START")
            response.background = BackgroundTask(self._sent)
        return response

    async def _sent(self) -> None:
        assert self._trace is not None
        self._trace.mark("HTTP_SEND_END")
        self._trace.end()

    def failed(self) -> None:
        """Nothing will be sent but an error."""
        if self._trace is not None and not self._is_sent:
            self._trace.end()


@contextlib.contextmanager
def traced(catalogue: Catalogue, model: ServedModel) -> Iterator[HttpTrace]:
    found = HttpTrace(catalogue.extensions.tracing.start(model.name))
    try:
        yield found
    finally:
        found.failed()
