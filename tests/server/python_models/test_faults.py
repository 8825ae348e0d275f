"""What Python models do wrong is an error of those who asked, never the server's end."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.server.asking import Http
from tests.server.python_models.test_answers import numbers, streamed, tensor
from tests.server.python_models.written import DECOUPLED, NUMBERS, PLACES, PLUS_ONE, write_model
from tests.server.served import Served, serving

# what X asks the model to do wrong
NONSENSE = """
def execute(self, requests):
    y = pb_utils.Tensor("Y", np.array([1], np.int32))
    good = pb_utils.InferenceResponse([y])
    wish = int(requests[0].inputs()[0].as_numpy()[0])
    if wish == 0: return [good]
    if wish == 1: return None
    if wish == 2: return good
    if wish == 3: return [good, good]
    if wish == 4: return []
    if wish == 5: return [None]
    if wish == 6: return ["text"]
    if wish == 7: return [pb_utils.InferenceResponse([pb_utils.Tensor("Z", np.array([1], np.int32))])]
    if wish == 8: return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([1.0], np.float32))])]
    if wish == 9: return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([[1]], np.int32))])]
    if wish == 10: raise ValueError("this is why")
    if wish == 11: raise pb_utils.TritonModelException("in its own words")
    if wish == 12: sys.exit(3)
    if wish == 13:
        error = pb_utils.TritonError("not there", pb_utils.TritonError.NOT_FOUND)
        return [pb_utils.InferenceResponse(error=error)]
    if wish == 14: return [pb_utils.InferenceResponse(["no tensor"])]
    if wish == 15: return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array(["text"]))])]
    if wish == 16: return [pb_utils.InferenceResponse([])]
    if wish == 17: print("to standard output"); sys.stdout.flush(); return [good]
    if wish == 18: return [pb_utils.InferenceResponse(error="no error")]
    if wish == 19: raise KeyboardInterrupt
    if wish == 20: return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array(["\\ud800"], object))])]
"""
DECOUPLED_NONSENSE = """
def execute(self, requests):
    wish = int(requests[0].inputs()[0].as_numpy()[0])
    sender = requests[0].get_response_sender()
    y = pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([1], np.int32))])
    final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    if wish == 0: return [y]
    if wish == 1: sender.send(y); return None
    if wish == 2: sender.send(y); raise ValueError("in the midst")
    if wish == 3: sender.send(y, final); sender.send(y)
    if wish == 4: sender.send()
    if wish == 5: sender.send(y); sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("an error")), final)
    if wish == 6: sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Z", np.array([1], np.int32))]), final)
    if wish == 7: sender.send("a text")
"""
KILLS_ITSELF = """
def execute(self, requests):
    x = int(requests[0].inputs()[0].as_numpy()[0])
    if x == 1: os.kill(os.getpid(), signal.SIGSEGV)
    if x == 2: os._exit(7)
    if x == 3: time.sleep(3600)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([os.getpid()], np.int32))]) for _ in requests]
"""
WATCHES = """
def initialize(self, args):
    self.path = json.loads(args["model_config"])["parameters"]["path"]["string_value"]

def execute(self, requests):
    deadline = time.monotonic() + 20
    open(self.path, "w").write("running")
    while not requests[0].is_cancelled() and time.monotonic() < deadline:
        time.sleep(0.01)
    open(self.path, "w").write("cancelled" if requests[0].is_cancelled() else "late")
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError("gone", pb_utils.TritonError.CANCELLED))]
"""
ENDLESS = """
def initialize(self, args):
    self.path = json.loads(args["model_config"])["parameters"]["path"]["string_value"]

def execute(self, requests):
    threading.Thread(target=self.go_on, args=(requests[0].get_response_sender(),)).start()

def go_on(self, sender):
    index = 0
    while not sender.is_cancelled():
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([index], np.int32))]))
        index += 1
        time.sleep(0.01)
    open(self.path, "w").write("cancelled")
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


STARTS = "def initialize(self, args):\n"


@pytest.fixture(scope="module", params=PLACES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "nonsense", NONSENSE, place=request.param)
    write_model(folder, "decoupled", DECOUPLED_NONSENSE, DECOUPLED, place=request.param)
    with serving(folder) as found:
        yield found


def ask(address: str, model: str, x: int, **more: Any) -> list[int]:
    with http_client.InferenceServerClient(address) as client:
        return client.infer(model, [tensor(http_client, "X", numbers(x))], **more).as_numpy("Y").tolist()


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (1, r"\[500\] model 'nonsense': execute returned None, not a list of responses"),
        (2, "execute returned a InferenceResponse, not a list"),
        (3, "execute returned 2 responses for 1 requests"),
        (4, "execute returned 0 responses for 1 requests"),
        (5, "execute returned None among its responses"),
        (6, "execute returned a str among its responses"),
        (7, "gave an output 'Z', and its configuration has Y"),
        (8, "gave FP32 for output 'Y', which is INT32"),
        (9, r"gave shape \[1, 1\] for output 'Y', which is \[-1\]"),
        (10, "execute raised ValueError: this is why"),
        (11, "execute: in its own words"),
        (12, r"execute called sys.exit\(3\)"),
        (13, r"\[404\] model 'nonsense': not there"),
        (14, "output_tensors of an InferenceResponse are pb_utils.Tensor"),
        (15, "has the dtype <U4, which Triton has not. Use np.object_"),
        (18, "error of an InferenceResponse is a pb_utils.TritonError"),
        (19, "execute raised KeyboardInterrupt"),
        (20, "500"),
    ],
)
def test_nonsense_is_an_error_that_says_what(served: Served, wish: int, words: str) -> None:
    with pytest.raises(InferenceServerException, match=words):
        ask(served.http, "nonsense", wish)
    assert ask(served.http, "nonsense", 0) == [1]


def test_what_is_no_nonsense_is_no_error(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(served.http, "nonsense", 17) == [1]
    with http_client.InferenceServerClient(served.http) as client:
        inputs = [tensor(http_client, "X", numbers(16))]
        assert client.infer("nonsense", inputs).as_numpy("Y") is None
        with pytest.raises(InferenceServerException, match="gave no output 'Y', which was asked for"):
            client.infer("nonsense", inputs, outputs=[http_client.InferRequestedOutput("Y")])
    place = served.catalogue.find("nonsense").config.parameters["place"].string_value
    assert ("to standard output" in capfd.readouterr().out) == (place != "process")  # ours is for who started us


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (0, "execute of a decoupled model returns None"),
        (1, "let the request go without a response that has the flag TRITONSERVER_RESPONSE_COMPLETE_FINAL"),
        (2, "execute raised ValueError: in the midst"),
        (4, "send takes a response, or the flag"),
        (5, "an error"),
        (6, "gave an output 'Z'"),
        (7, "send takes an InferenceResponse, not str"),
    ],
)
def test_nonsense_of_a_decoupled_model_ends_the_stream(served: Served, wish: int, words: str) -> None:
    with pytest.raises(InferenceServerException, match=words):
        streamed(served.grpc, "decoupled", wish)


def test_what_follows_a_final_response_reaches_nobody(served: Served) -> None:
    assert streamed(served.grpc, "decoupled", 3) == [1]
    assert streamed(served.grpc, "decoupled", 3) == [1]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def wait_until(is_so: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_ready(served: Served, model: str) -> bool:
    return Http(served.http).ask(f"/v2/models/{model}/ready", method="GET").status == 200


@pytest.mark.parametrize(("wish", "words"), [(1, "SIGSEGV"), (2, "exit code 7")])
def test_a_process_that_dies_is_told_at_once_and_is_there_again(models: Path, wish: int, words: str) -> None:
    write_model(models, "dies", KILLS_ITSELF)
    write_model(models, "other", PLUS_ONE)
    with serving(models) as served:
        for _ in range(2):
            before = ask(served.http, "dies", 0)
            began = time.monotonic()
            with pytest.raises(InferenceServerException, match=rf"\[503\] .*{words}.*starting again"):
                ask(served.http, "dies", wish)
            assert time.monotonic() - began < 1
            assert ask(served.http, "other", 1) == [2]
            wait_until(lambda: is_ready(served, "dies"))
            assert ask(served.http, "dies", 0) != before


def test_a_killed_process_takes_only_its_own_and_503_is_what_others_hear_until_it_is_back(models: Path) -> None:
    write_model(models, "dies", KILLS_ITSELF)
    with serving(models) as served:
        pid = ask(served.http, "dies", 0)[0]
        os.kill(pid, signal.SIGKILL)
        heard = set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and "well" not in heard:
            try:
                ask(served.http, "dies", 0)
                heard.add("well")
            except InferenceServerException as problem:
                heard.add(problem.status())
            time.sleep(0.01)
        assert heard == {"503", "well"}


def test_many_deaths_let_it_wait_longer_each_time(models: Path) -> None:
    write_model(models, "dies", KILLS_ITSELF)
    with serving(models) as served:
        pauses = []
        for _ in range(3):
            with pytest.raises(InferenceServerException):
                ask(served.http, "dies", 2)
            began = time.monotonic()
            wait_until(lambda: is_ready(served, "dies"))
            pauses.append(time.monotonic() - began)
        delay = served.catalogue.find("dies").backend.instances[0]._delay  # type: ignore[attr-defined]
        assert delay == pytest.approx(0.4)
        assert pauses[-1] > 0.4


def test_a_model_that_hangs_is_killed_once_nobody_waits_for_it(models: Path) -> None:
    write_model(models, "dies", KILLS_ITSELF, hang_seconds=0.3)
    with serving(models) as served:
        before = ask(served.http, "dies", 0)
        with pytest.raises(InferenceServerException, match=r"\[504\] .*within the request's timeout"):
            ask(served.http, "dies", 3, timeout=200_000)
        wait_until(lambda: not is_ready(served, "dies"))
        wait_until(lambda: is_ready(served, "dies"))
        assert ask(served.http, "dies", 0) != before


def test_a_client_that_leaves_is_told_to_the_model(models: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    for place in ("process", "thread"):
        write_model(models, place, WATCHES, place=place, path=told)
    with serving(models) as served:
        for place in ("process", "thread"):
            with grpc_client.InferenceServerClient(served.grpc) as client:
                call = client.async_infer(place, [tensor(grpc_client, "X", numbers(1))], lambda *_: None)
                wait_until(lambda: told.exists() and told.read_text() == "running")
                call.cancel()
                wait_until(lambda: told.read_text() == "cancelled")
            told.unlink()


@pytest.mark.parametrize("place", ["process", "thread"])
def test_a_stream_that_is_left_ends_a_model_that_looks(models: Path, tmp_path: Path, place: str) -> None:
    told = tmp_path / "told"
    write_model(models, "endless", ENDLESS, DECOUPLED, place=place, path=told)
    with serving(models) as served:
        came = threading.Event()
        with grpc_client.InferenceServerClient(served.grpc) as client:
            client.start_stream(lambda result, error: came.set())
            client.async_stream_infer("endless", [tensor(grpc_client, "X", numbers(1))])
            assert came.wait(10)
            client.stop_stream(cancel_requests=True)
        wait_until(told.exists)
        wait_until(lambda: served.catalogue.find("endless").backend.num_running == 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (
            "def initialize(self, args):\n    raise ValueError('no weights')\n" + PLUS_ONE,
            "initialize raised ValueError: no weights",
        ),
        (f"{STARTS}    sys.exit(2)\n{PLUS_ONE}", r"initialize called sys.exit\(2\)"),
        ("def other(self): pass", "must have a class TritonPythonModel with a method execute"),
        ("def execute(self, requests): this is no Python", "cannot be imported: SyntaxError"),
        ("import nobody_has_this\n" + PLUS_ONE, "cannot be imported: ModuleNotFoundError"),
        (f"{STARTS}    time.sleep(30)\n{PLUS_ONE}", r"in 0.5 s \(start_seconds\)"),
        (
            "def initialize(self, args):\n    os._exit(9)\n" + PLUS_ONE,
            "did not start: its process ended with exit code 9",
        ),
        ("time.sleep(30)\n" + PLUS_ONE, r"did not start in 0.5 s \(start_seconds\)"),
    ],
)
def test_a_model_that_does_not_start_is_refused_and_leaves_nothing(
    models: Path, place: str, methods: str, words: str
) -> None:
    if place != "process" and "os._exit" in methods:
        pytest.skip("this ends the server, which docs/python-models.md says")
    if place == "inline" and "sleep" in methods:
        pytest.skip("it is a thread that cannot be ended, as with place thread")
    more = {"start_seconds": 0.5} if "sleep" in methods else {}
    write_model(models, "broken", methods, place=place, **more)
    with serving(models, fail_if_a_model_fails=False) as served:
        reply = Http(served.http).ask("/v2/models/broken/infer", {"inputs": []})
        assert reply.status == 503
        assert re.search(words, reply.json()["error"]), reply.json()
        assert Http(served.http).ask("/v2/health/ready", method="GET").status == 503


def test_a_process_ends_with_its_server(models: Path) -> None:
    write_model(models, "dies", KILLS_ITSELF)
    write_model(models, "hangs", KILLS_ITSELF, hang_seconds=0.3)
    with serving(models, exit_timeout_seconds=0.3) as served:
        pids = [ask(served.http, name, 0)[0] for name in ("dies", "hangs")]
        threading.Thread(target=ask_and_be_cut_off, args=(served.http,), daemon=True).start()
        time.sleep(0.2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def ask_and_be_cut_off(address: str) -> None:
    with pytest.raises((InferenceServerException, OSError)):
        ask(address, "hangs", 3)


def test_memory_of_large_tensors_is_used_again(models: Path) -> None:
    write_model(models, "plus_one", PLUS_ONE)
    with serving(models) as served, http_client.InferenceServerClient(served.http) as client:
        value = np.zeros(500_000, np.int32)
        for _ in range(30):
            found = client.infer(
                "plus_one", [tensor(http_client, "X", value)], outputs=[http_client.InferRequestedOutput("Y")]
            ).as_numpy("Y")
            assert (found == 1).all()
        worker = served.catalogue.find("plus_one").backend.instances[0]._worker  # type: ignore[attr-defined]
        assert worker.arena.region_size < 6 * value.nbytes
        assert worker.region.size < 6 * value.nbytes


def test_with_processes_dying_every_request_is_answered_and_counted(models: Path) -> None:
    """Right, or an error that says that its process died or is not there; none hangs, none is lost."""
    methods = """
    def execute(self, requests):
        found = []
        for request in requests:
            x = request.inputs()[0].as_numpy()
            if x[0] % 37 == 0: os._exit(1)
            found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x + 1)]))
        return found
    """
    batching = "max_batch_size: 8 dynamic_batching {} instance_group { count: 2 kind: KIND_CPU }"
    write_model(models, "dies", methods, f"{NUMBERS} {batching}")
    told: list[tuple[int, Any]] = []

    def ask_many(start: int) -> None:
        with http_client.InferenceServerClient(served.http) as client:
            for value in range(start, start + 40):
                try:
                    given = tensor(http_client, "X", numbers(value).reshape(1, 1))
                    told.append((value, client.infer("dies", [given]).as_numpy("Y").tolist()))
                except InferenceServerException as problem:
                    told.append((value, problem.status()))
                    time.sleep(0.2)

    with serving(models) as served:
        threads = [threading.Thread(target=ask_many, args=(100 * index + 1,)) for index in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        wait_until(lambda: is_ready(served, "dies"), 30)
        with http_client.InferenceServerClient(served.http) as client:
            (counts,) = client.get_inference_statistics("dies")["model_stats"]
    assert len(told) == 240
    right = [value for value, answer in told if answer == [[value + 1]]]
    assert all(answer in ([[value + 1]], "503") for value, answer in told), told
    assert not [value for value in right if value % 37 == 0]
    assert counts["inference_stats"]["success"]["count"] == len(right)
    assert counts["inference_stats"]["fail"]["count"] == 240 - len(right)
    assert len(right) > 20


def test_dying_again_and_again_leaves_nothing_open(models: Path) -> None:
    write_model(models, "dies", KILLS_ITSELF)
    with serving(models) as served:
        instance = served.catalogue.find("dies").backend.instances[0]  # type: ignore[attr-defined]
        numbers_of_open: list[int] = []
        for _ in range(4):
            with pytest.raises(InferenceServerException):
                ask(served.http, "dies", 2)
            wait_until(lambda: is_ready(served, "dies"))
            instance._delay = 0.0
            ask(served.http, "dies", 0)
            numbers_of_open.append(len(os.listdir("/proc/self/fd")))
    assert numbers_of_open[-1] <= numbers_of_open[0] + 1
