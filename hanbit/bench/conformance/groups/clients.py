"""Every call of `tritonclient`, by its four clients: http, grpc, http.aio and grpc.aio."""

import asyncio
import base64
import inspect
import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from hanbit.bench.conformance.check import Failed, Group, NotOffered, equal, true
from hanbit.bench.conformance.repository import PREFIX, model_source
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import DIFFERENCE, FIRST, ONES, REPEAT, SIMPLE, SUM

GROUP = Group("client", "tritonclient 2.x: InferenceServerClient")
_LAZY = f"{PREFIX}lazy"
KINDS = ("http", "grpc", "http.aio", "grpc.aio")


def _config_of(add: int) -> str:
    """Of the model `lazy`."""
    tensor = {"data_type": "TYPE_INT32", "dims": [1]}
    return json.dumps(
        {
            "backend": "python",
            "input": [{"name": "IN", **tensor}],
            "output": [{"name": "OUT", **tensor}],
            "parameters": {"add": {"string_value": str(add)}},
        }
    )


@dataclass(frozen=True)
class Client:
    """One of the four. Calls of the asynchronous ones are waited for."""

    kind: str
    module: Any
    inner: Any
    loop: asyncio.AbstractEventLoop

    @property
    def is_http(self) -> bool:
        return self.kind.startswith("http")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            return self.loop.run_until_complete(found) if inspect.isawaitable(found) else found

        return call

    def json(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A call whose answer is wanted as plain values; over gRPC 64-bit numbers are texts in it."""
        more = {} if self.is_http else {"as_json": True}
        return getattr(self, name)(*args, **more, **kwargs)

    def pair(self) -> list[Any]:
        """The inputs of the model `simple`."""
        found = []
        for name, values in (("INPUT0", FIRST), ("INPUT1", ONES)):
            one = self.module.InferInput(name, [1, 16], "INT32")
            one.set_data_from_numpy(np.array([values], np.int32))
            found.append(one)
        return found

    def number(self, value: int, *shape: int) -> list[Any]:
        one = self.module.InferInput("IN", list(shape or (1,)), "INT32")
        one.set_data_from_numpy(np.full(shape or (1,), value, np.int32))
        return [one]


def _http_module(kind: str) -> Any:
    """Raises NotOffered where tritonclient's HTTP half is not installed here."""
    try:
        import tritonclient.http
        import tritonclient.http.aio
    except (ImportError, RuntimeError) as problem:
        raise NotOffered(f"tritonclient[http] is not installed here: {problem}") from None
    return tritonclient.http.aio if kind == "http.aio" else tritonclient.http


def _with(kind: str, look: Callable[[Client], Any]) -> Callable[[Server], Any]:
    """Looks with a client of the kind, which is closed again."""

    def whole(server: Server) -> Any:
        if kind.startswith("http"):
            module, address = _http_module(kind), server.http
        else:
            module = tritonclient.grpc.aio if kind == "grpc.aio" else tritonclient.grpc
            address = server.grpc
        with asyncio.Runner() as runner:
            loop = runner.get_loop()

            async def make() -> Any:
                return module.InferenceServerClient(address)

            client = Client(kind, module, loop.run_until_complete(make()), loop)
            try:
                return look(client)
            except InferenceServerException as problem:
                raise Failed(f"{problem.status()}: {problem.message():.160}") from None
            finally:
                client.close()

    return whole


Look = Callable[[Client], Any]


def _each(name: str, says: str, extension: str | None = None, kinds: tuple[str, ...] = KINDS) -> Callable[[Look], Look]:
    """The check of every kind of client."""

    def add(look: Look) -> Look:
        for kind in kinds:
            GROUP.add(f"{kind}.{name}", f"{kind}: {says}", _with(kind, look), extension)
        return look

    return add


@_each("is_server_live", "is_server_live and is_server_ready are true")
def _live(client: Client) -> None:
    equal((client.is_server_live(), client.is_server_ready()), (True, True), "live and ready")


@_each("is_model_ready", "is_model_ready is true for a model and its version, false for none")
def _ready(client: Client) -> None:
    found = [client.is_model_ready(*one) for one in ((SIMPLE,), (SIMPLE, "1"), (f"{PREFIX}none",))]
    equal(found, [True, True, False], "answers")


@_each("get_server_metadata", "get_server_metadata has name and extensions")
def _metadata(client: Client) -> None:
    found = client.json("get_server_metadata")
    true(found["name"] and "binary_tensor_data" in found["extensions"], f"{found} has them")


@_each("get_model_metadata", "get_model_metadata has the inputs")
def _model_metadata(client: Client) -> None:
    equal([one["name"] for one in client.json("get_model_metadata", SIMPLE)["inputs"]], ["INPUT0", "INPUT1"], "inputs")


@_each("get_model_config", "get_model_config has the batch size", "model_configuration")
def _config(client: Client) -> None:
    found = client.json("get_model_config", SIMPLE)
    equal(found.get("config", found)["max_batch_size"], 8, "max_batch_size")


@_each("get_model_repository_index", "get_model_repository_index has the model", "model_repository")
def _index(client: Client) -> None:
    found = client.json("get_model_repository_index")
    lines = found if isinstance(found, list) else found["models"]
    true(SIMPLE in [one["name"] for one in lines], "it is there")


@_each("load_model", "unload_model and load_model, with a configuration and a file too", "model_repository")
def _load(client: Client) -> None:
    try:
        client.unload_model(_LAZY)
        equal(client.is_model_ready(_LAZY), False, "ready after unload")
        client.load_model(_LAZY, config=_config_of(7))
        equal(client.infer(_LAZY, client.number(1)).as_numpy("OUT").tolist(), [8], "OUT with the configuration")
        program = model_source("lazy").replace("one + self.add", "one - self.add").encode()
        client.load_model(_LAZY, config=_config_of(8), files={"file:1/model.py": program})
        equal(client.infer(_LAZY, client.number(1)).as_numpy("OUT").tolist(), [-7], "OUT with the file")
    finally:
        client.unload_model(_LAZY)
        client.load_model(_LAZY)
    equal(client.infer(_LAZY, client.number(1)).as_numpy("OUT").tolist(), [101], "OUT of the folder's")


@_each("load_fails", "load_model of none raises InferenceServerException", "model_repository")
def _load_fails(client: Client) -> str:
    try:
        client.load_model(f"{PREFIX}none")
    except InferenceServerException as problem:
        return problem.message()[:100]
    raise Failed("it loaded")


@_each("get_inference_statistics", "get_inference_statistics of one model and of all", "statistics")
def _statistics(client: Client) -> None:
    found = client.json("get_inference_statistics", SIMPLE)["model_stats"]
    equal([one["name"] for one in found], [SIMPLE], "models")
    true(len(client.json("get_inference_statistics")["model_stats"]) > 5, "all are there")


@_each("update_trace_settings", "update_trace_settings and get_trace_settings, of a model and of the server", "trace")
def _trace(client: Client) -> None:
    try:
        found = client.json("update_trace_settings", SIMPLE, {"trace_rate": "7", "trace_level": ["TIMESTAMPS"]})
        equal(_setting(found, "trace_rate"), "7", "trace_rate")
        equal(_setting(client.json("get_trace_settings", SIMPLE), "trace_rate"), "7", "trace_rate")
    finally:
        found = client.json("update_trace_settings", SIMPLE, {"trace_rate": None, "trace_level": None})
    whole = _setting(client.json("get_trace_settings"), "trace_rate")
    equal(_setting(found, "trace_rate"), whole, "trace_rate afterwards")


def _setting(found: Any, name: str) -> Any:
    """Over gRPC each is a list under `value`."""
    return found[name] if "settings" not in found else found["settings"][name]["value"][0]


@_each("update_log_settings", "update_log_settings and get_log_settings", "logging")
def _log(client: Client) -> None:
    try:
        client.update_log_settings({"log_verbose_level": 2})
        equal(_level(client.json("get_log_settings")), 2, "log_verbose_level")
    finally:
        client.update_log_settings({"log_verbose_level": 0})


def _level(found: Any) -> int:
    if "settings" not in found:
        return found["log_verbose_level"]
    return int(found["settings"]["log_verbose_level"].get("uint32_param", 0))


@_each(
    "system_shared_memory",
    "the calls of system shared memory, with an input and an output in it",
    "system_shared_memory",
)
def _shared(client: Client) -> None:
    import tritonclient.utils.shared_memory as shm

    handle = shm.create_shared_memory_region("conform", f"/conform_{time.time_ns()}", 128)
    try:
        shm.set_shared_memory_region(handle, [np.array([FIRST], np.int32)])
        try:
            client.register_system_shared_memory("conform", handle._shm_key, 128)
        except InferenceServerException as problem:
            raise NotOffered(f"{problem.message()}: is the server on this machine?") from None
        true("conform" in str(client.json("get_system_shared_memory_status")), "the region is in the status")
        first, second = client.pair()
        first.set_shared_memory("conform", 64)
        wanted = client.module.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory("conform", 64, 64)
        client.infer(SIMPLE, [first, second], outputs=[wanted])
        found = shm.get_contents_as_numpy(handle, np.int32, [16], offset=64)
        equal(found.tolist(), SUM, "what is in the region")
    finally:
        client.unregister_system_shared_memory("conform")
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(handle)
    true("conform" not in str(client.json("get_system_shared_memory_status")), "it is gone")


@_each("cuda_shared_memory", "the calls of CUDA shared memory, where there is none", "cuda_shared_memory")
def _cuda(client: Client) -> str:
    client.json("get_cuda_shared_memory_status")
    client.unregister_cuda_shared_memory()
    try:
        client.register_cuda_shared_memory("wrong", base64.b64encode(b"x" * 64), 0, 10)
    except InferenceServerException as problem:
        return problem.message()[:100]
    raise Failed("a handle that is none was registered")


def _sums(result: Any) -> tuple[list[int], list[int]]:
    return result.as_numpy("OUTPUT0").ravel().tolist(), result.as_numpy("OUTPUT1").ravel().tolist()


@_each("infer", "infer gives every output")
def _infer(client: Client) -> None:
    equal(
        _sums(client.infer(SIMPLE, client.pair(), request_id="an id", model_version="1")), (SUM, DIFFERENCE), "outputs"
    )


@_each("infer_outputs", "infer with requested outputs, classes among them", "classification")
def _infer_outputs(client: Client) -> None:
    outputs = [client.module.InferRequestedOutput("OUTPUT0", class_count=1)]
    result = client.infer(SIMPLE, client.pair(), outputs=outputs)
    equal(result.as_numpy("OUTPUT0").ravel().tolist(), [b"16:15:class 15"], "OUTPUT0")
    true(result.as_numpy("OUTPUT1") is None, "the other one is not there")


@_each("infer_parameters", "infer with priority, timeout, a sequence and parameters of one's own", "sequence")
def _infer_parameters(client: Client) -> None:
    common = {"sequence_id": 900 + KINDS.index(client.kind), "priority": 1, "timeout": 10_000_000}
    model, number = f"{PREFIX}sequence", client.number(5, 1, 1)
    first = client.infer(model, number, sequence_start=True, parameters={"mine": "x"}, **common)
    second = client.infer(model, number, sequence_end=True, **common)
    equal([one.as_numpy("OUT").ravel().tolist() for one in (first, second)], [[5], [10]], "sums")


@_each("infer_error", "infer raises InferenceServerException with the model's text")
def _infer_error(client: Client) -> None:
    try:
        client.infer(f"{PREFIX}failing", client.number(1))
    except InferenceServerException as problem:
        true("one is refused" in problem.message(), f"{problem.message()!r:.100} has the model's text")
        return
    raise Failed("it succeeded")


@_each("infer_compressed", "infer with packed request and answer")
def _compressed(client: Client) -> None:
    if client.is_http:
        more = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
    else:
        more = {"compression_algorithm": "gzip"}
    equal(_sums(client.infer(SIMPLE, client.pair(), **more)), (SUM, DIFFERENCE), "outputs")


@_each("infer_json", "infer with tensors as JSON", kinds=("http", "http.aio"))
def _json_tensors(client: Client) -> None:
    inputs = client.pair()
    for one, values in zip(inputs, (FIRST, ONES), strict=True):
        one.set_data_from_numpy(np.array([values], np.int32), binary_data=False)
    outputs = [client.module.InferRequestedOutput(name, binary_data=False) for name in ("OUTPUT0", "OUTPUT1")]
    equal(_sums(client.infer(SIMPLE, inputs, outputs=outputs)), (SUM, DIFFERENCE), "outputs")


@_each("async_infer", "async_infer gives the same, many at a time", kinds=("http", "grpc"))
def _async(client: Client) -> None:
    if client.is_http:
        results = [client.inner.async_infer(SIMPLE, client.pair()) for _ in range(8)]
        found = [_sums(one.get_result()) for one in results]
    else:
        answers: queue.Queue[Any] = queue.Queue()
        for _ in range(8):
            client.inner.async_infer(SIMPLE, client.pair(), lambda result, error: answers.put(error or result))
        found = [_sums(answers.get(timeout=30)) for _ in range(8)]
    equal(found, [(SUM, DIFFERENCE)] * 8, "outputs")


@_each("stream", "start_stream, async_stream_infer and stop_stream give every response", kinds=("grpc",))
def _stream(client: Client) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.inner.start_stream(callback=lambda result, error: answers.put(error or result))
    try:
        client.inner.async_stream_infer(
            REPEAT, client.number(4, 2), request_id="s", enable_empty_final_response=True
        )  # fmt: skip
        found = [answers.get(timeout=30) for _ in range(3)]
    finally:
        client.inner.stop_stream()
    marks = [one.get_response().parameters["triton_final_response"].bool_param for one in found]
    equal(([one.as_numpy("OUT").tolist() for one in found[:2]], marks), ([[4], [4]], [False, False, True]), "responses")


@_each("stream_infer", "stream_infer gives every response", kinds=("grpc.aio",))
def _stream_aio(client: Client) -> None:
    async def requests() -> Any:
        yield {"model_name": REPEAT, "inputs": client.number(4, 2), "request_id": "s"}

    async def collect() -> list[Any]:
        return [result.as_numpy("OUT").tolist() async for result, error in client.inner.stream_infer(requests())]

    equal(client.loop.run_until_complete(collect()), [[4], [4]], "responses")


@_each("cancel", "an async_infer that is cancelled ends at once, and the server goes on", kinds=("grpc",))
def _cancel(client: Client) -> str:
    delay = client.module.InferInput("DELAY", [1, 1], "UINT32")
    delay.set_data_from_numpy(np.array([[500]], np.uint32))
    answers: queue.Queue[Any] = queue.Queue()
    context = client.inner.async_infer(f"{PREFIX}slow", [delay], lambda result, error: answers.put(error or result))
    time.sleep(0.1)
    began = time.monotonic()
    context.cancel()
    error = answers.get(timeout=30)
    true(isinstance(error, InferenceServerException) and time.monotonic() - began < 0.3, f"{error} came at once")
    equal(client.is_server_ready(), True, "ready")
    return str(error)


@_each("timeout", "client_timeout ends a call that takes longer", kinds=("grpc", "grpc.aio"))
def _timeout(client: Client) -> str:
    delay = client.module.InferInput("DELAY", [1, 1], "UINT32")
    delay.set_data_from_numpy(np.array([[800]], np.uint32))
    try:
        client.infer(f"{PREFIX}slow", [delay], client_timeout=0.2)
    except InferenceServerException as problem:
        return f"{problem.status()}"
    raise Failed("it waited")
