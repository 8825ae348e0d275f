"""A Python model executed: what it is given and what must come back, wherever it runs.

Whatever a model does wrong is an error of the requests that it was given, in words that say what; a model that ends its
process by `sys.exit` only ends what it was doing.
"""

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from hanbit.server.python_models.api_config import ModelConfig
from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import InferenceRequest, InferenceResponse

log = logging.getLogger(__name__)

_MOST_CHARACTERS = 1000  # of an error's text

Executed = Callable[[Sequence[InferenceResponse | None]], None]


class ModelFault(Exception):
    """The model did not keep to its contract, or raised; the text is for those who asked."""


def completed_config(model_class: Any, config: str) -> str | None:
    """What `auto_complete_config` makes of it, as JSON; None for a model that has none. Raises ModelFault."""
    complete = getattr(model_class, "auto_complete_config", None)
    if complete is None:
        return None
    try:
        found = complete(ModelConfig(config))
    except BaseException as problem:
        raise _fault("auto_complete_config", problem) from problem
    if not isinstance(found, ModelConfig):
        raise ModelFault(f"auto_complete_config returned {type(found).__name__}, not the ModelConfig")
    try:
        return json.dumps(found.as_dict())
    except TypeError as problem:
        raise _fault("auto_complete_config", problem) from problem


class Runner:
    """One instance of a model. `is_decoupled`: its responses go through senders, and `execute` returns None."""

    def __init__(self, model_class: Any, args: dict[str, str], is_decoupled: bool) -> None:
        self.is_decoupled = is_decoupled
        self._loop: asyncio.AbstractEventLoop | None = None  # of coroutines, made for the first
        try:
            self._model = model_class()
            if hasattr(self._model, "initialize"):
                self._model.initialize(args)
        except BaseException as problem:
            raise _fault("initialize", problem) from problem
        self.is_async = inspect.iscoroutinefunction(self._model.execute)

    def execute(self, requests: list[InferenceRequest], executed: Executed) -> None:
        """`executed` gets one response for each request; or none at all, where they come through senders. It is called
        within, but in a thread of its own for coroutines of a decoupled model, which go on beside the next batch.

        Raises ModelFault.
        """
        try:
            found = self._model.execute(requests)
            if self.is_async:
                if self.is_decoupled:
                    self._go_on_beside(found, requests)
                    executed(())
                    return
                found = self._own_loop().run_until_complete(found)
        except BaseException as problem:
            raise _fault("execute", problem) from problem
        executed(self.checked(found, requests))

    async def execute_here(self, requests: list[InferenceRequest]) -> Sequence[InferenceResponse | None]:
        """A coroutine's responses, on the running loop. Raises ModelFault."""
        try:
            found = await self._model.execute(requests)
        except asyncio.CancelledError:
            raise
        except BaseException as problem:
            raise _fault("execute", problem) from problem
        return self.checked(found, requests)

    def checked(self, found: Any, requests: list[InferenceRequest]) -> Sequence[InferenceResponse | None]:
        """Raises ModelFault."""
        if self.is_decoupled:
            if found is not None:
                raise ModelFault("execute of a decoupled model returns None: its responses go through senders")
            return ()
        if found is None and all(request._outlet.is_used for request in requests):  # type: ignore[union-attr]
            return ()
        if not isinstance(found, list | tuple):
            raise ModelFault(f"execute returned {_named(found)}, not a list of responses")
        if len(found) != len(requests):
            raise ModelFault(f"execute returned {len(found)} responses for {len(requests)} requests")
        for one in found:
            if not isinstance(one, InferenceResponse):
                raise ModelFault(f"execute returned {_named(one)} among its responses, not an InferenceResponse")
        return found

    def finalize(self) -> None:
        """What it raises is logged: nobody asks any more."""
        try:
            if hasattr(self._model, "finalize"):
                self._model.finalize()
        except BaseException as problem:
            log.warning("%s", _fault("finalize", problem))
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    def _go_on_beside(self, coroutine: Any, requests: list[InferenceRequest]) -> None:
        if self._loop is None:
            threading.Thread(target=self._own_loop().run_forever, name="coroutines", daemon=True).start()
        loop = self._own_loop()
        asyncio.run_coroutine_threadsafe(self._awaited(coroutine, requests), loop)

    async def _awaited(self, coroutine: Any, requests: list[InferenceRequest]) -> None:
        try:
            self.checked(await coroutine, requests)
        except ModelFault as problem:
            fail_all(requests, problem)
        except BaseException as problem:
            fail_all(requests, _fault("execute", problem))


def fail_all(requests: Sequence[InferenceRequest], problem: ModelFault) -> None:
    """Each that has not ended gets the error as its last response."""
    for request in requests:
        outlet = request._outlet
        if outlet is not None and not outlet.is_closed:  # type: ignore[attr-defined]
            outlet.send(InferenceResponse(error=TritonError(str(problem))), True)


def _fault(where: str, problem: BaseException) -> ModelFault:
    """The text for those who asked; the traceback for the log."""
    if isinstance(problem, ModelFault):
        return problem
    log.error("%s of a Python model failed", where, exc_info=problem)
    if isinstance(problem, TritonModelException):
        return ModelFault(f"{where}: {str(problem)[:_MOST_CHARACTERS]}")
    if isinstance(problem, SystemExit):
        return ModelFault(f"{where} called sys.exit({problem.code!r:.40})")
    return ModelFault(f"{where} raised {type(problem).__name__}: {str(problem)[:_MOST_CHARACTERS]}")


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
