"""Python models that ask other models: alone, several at once, decoupled ones, ensembles, an engine; and load them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from hanbit.bench.three_steps import ENSEMBLE, write_three_steps
from hanbit.repository.deploy import deploy
from tests.server.asking import Http
from tests.server.python_models.test_answers import numbers, streamed, tensor
from tests.server.python_models.written import COUNT, DECOUPLED, PLUS_ONE, write_model
from tests.server.served import Served, serving

TEXTS = 'input { name: "T" data_type: TYPE_STRING dims: [ 1 ] } output { name: "U" data_type: TYPE_STRING dims: [ 1 ] }'
TWICE = """
def execute(self, requests):
    found = []
    for request in requests:
        tensor = request.inputs()[0]
        for _ in range(2):
            asked = pb_utils.InferenceRequest(
                model_name="plus_one", requested_output_names=["Y"], inputs=[pb_utils.Tensor("X", tensor.as_numpy())])
            answer = asked.exec()
            if answer.has_error():
                raise pb_utils.TritonModelException(answer.error().message())
            tensor = pb_utils.get_output_tensor_by_name(answer, "Y")
        found.append(pb_utils.InferenceResponse([tensor]))
    return found
"""
MANY = """
async def execute(self, requests):
    found = []
    for request in requests:
        asked = [pb_utils.InferenceRequest(model_name="plus_one", requested_output_names=["Y"],
                                           inputs=[pb_utils.Tensor("X", np.array([n], np.int32))]) for n in range(20)]
        answers = await asyncio.gather(*(one.async_exec() for one in asked))
        total = sum(one.output_tensors()[0].as_numpy() for one in answers)
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", total)]))
    return found
"""
SUM_OF_PIECES = """
def execute(self, requests):
    found = []
    for request in requests:
        x = request.inputs()[0]
        asked = pb_utils.InferenceRequest(model_name="count", requested_output_names=["Y"], inputs=[x])
        pieces = [one for one in asked.exec(decoupled=True) if one.output_tensors()]
        total = sum(int(one.output_tensors()[0].as_numpy()[0]) for one in pieces)
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([total, len(pieces)], np.int32))]))
    return found
"""
FIRST_PIECE = """
def execute(self, requests):
    x = requests[0].inputs()[0]
    asked = pb_utils.InferenceRequest(model_name="count", requested_output_names=["Y"], inputs=[x])
    pieces = asked.exec(decoupled=True)
    first = next(pieces)
    pieces.cancel()
    return [pb_utils.InferenceResponse(first.output_tensors())]
"""
PASSES_ON = """
def execute(self, requests):
    for request in requests:
        threading.Thread(target=self.pass_on, args=(request.get_response_sender(), request.inputs()[0].as_numpy())
                         ).start()

def pass_on(self, sender, x):
    x = pb_utils.Tensor("X", x)
    asked = pb_utils.InferenceRequest(model_name="count", requested_output_names=["Y"], inputs=[x])
    for answer in asked.exec(decoupled=True):
        if answer.output_tensors():
            sender.send(pb_utils.InferenceResponse(answer.output_tensors()))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
ASKS_TEXT = """
def execute(self, requests):
    text = requests[0].inputs()[0]
    asked = pb_utils.InferenceRequest(model_name="three_steps", requested_output_names=["BACK"],
                                      inputs=[pb_utils.Tensor("TEXT", text.as_numpy())])
    return [pb_utils.InferenceResponse([pb_utils.Tensor("U", asked.exec().output_tensors()[0].as_numpy())])]
"""
ASKS_ENGINE = """
def execute(self, requests):
    inputs = [pb_utils.Tensor("text_input", requests[0].inputs()[0].as_numpy()),
              pb_utils.Tensor("max_tokens", np.array([4], np.int32)),
              pb_utils.Tensor("temperature", np.array([0], np.float32)),
              pb_utils.Tensor("stream", np.array([True]))]
    asked = pb_utils.InferenceRequest(model_name="small", requested_output_names=["text_output"], inputs=inputs)
    pieces = [one for one in asked.exec(decoupled=True)]
    for one in pieces:
        if one.has_error(): raise pb_utils.TritonModelException(one.error().message())
    text = b"".join(one.output_tensors()[0].as_numpy()[0] for one in pieces)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("U", np.array([text], object))])]
"""
WRONG = """
def execute(self, requests):
    wish = int(requests[0].inputs()[0].as_numpy()[0])
    x = pb_utils.Tensor("X", np.array([1], np.int32))
    if wish == 0: asked = pb_utils.InferenceRequest(model_name="nobody", requested_output_names=["Y"], inputs=[x])
    if wish == 1: asked = pb_utils.InferenceRequest(model_name="plus_one", requested_output_names=["Z"], inputs=[x])
    if wish == 2: asked = pb_utils.InferenceRequest(model_name="plus_one", requested_output_names=["Y"], inputs=[])
    if wish == 3: asked = pb_utils.InferenceRequest(requested_output_names=["Y"], inputs=[x])
    if wish == 4: asked = requests[0]
    if wish == 5:
        asked = pb_utils.InferenceRequest(model_name="slow", requested_output_names=["Y"], inputs=[x], timeout=50000)
    if wish == 6: asked = pb_utils.InferenceRequest(model_name="count", requested_output_names=["Y"], inputs=[
        pb_utils.Tensor("X", np.array([3], np.int32))])
    answer = asked.exec()
    error = answer.error()
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"code {error.code()}: {error.message()}"))]
"""
SLOW = "def execute(self, requests):\n    time.sleep(1)\n" + PLUS_ONE.replace("def execute(self, requests):\n", "")
LOADS = """
def execute(self, requests):
    wish = int(requests[0].inputs()[0].as_numpy()[0])
    if wish == 1: pb_utils.load_model(model_name="plus_one")
    if wish == 2: pb_utils.unload_model(model_name="plus_one")
    if wish == 3: pb_utils.load_model(model_name="plus_one", config="{}")
    is_ready = pb_utils.is_model_ready(model_name="plus_one")
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([is_ready], np.int32))])]
"""
LOGS = """
def execute(self, requests):
    pb_utils.Logger.log_info("a line")
    pb_utils.Logger.log_warn("two\\nlines")
    pb_utils.Logger.log("at a level", pb_utils.Logger.ERROR)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", requests[0].inputs()[0].as_numpy())])]
"""


@pytest.fixture(scope="module", params=["process", "thread"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_folder: Path
) -> Iterator[Served]:
    folder, place = tmp_path_factory.mktemp("models"), request.param
    write_three_steps(folder, place)
    deploy(model_folder, "small", folder)
    write_model(folder, "plus_one", PLUS_ONE, place=place)
    write_model(folder, "count", COUNT, DECOUPLED, place=place)
    write_model(folder, "slow", SLOW, place=place)
    for name, methods in (("twice", TWICE), ("many", MANY), ("sum", SUM_OF_PIECES), ("first", FIRST_PIECE)):
        write_model(folder, name, methods, place=place)
    write_model(folder, "passes_on", PASSES_ON, DECOUPLED, place=place)
    write_model(folder, "asks_text", ASKS_TEXT, TEXTS, place=place)
    write_model(folder, "asks_engine", ASKS_ENGINE, TEXTS, place=place)
    for name, methods in (("wrong", WRONG), ("loads", LOADS), ("logs", LOGS)):
        write_model(folder, name, methods, place=place)
    with serving(folder, clients_change_models=True, load=tuple(path.name for path in folder.iterdir())) as found:
        yield found


def asked(address: str, model: str, *values: int) -> list[int]:
    with http_client.InferenceServerClient(address) as client:
        return client.infer(model, [tensor(http_client, "X", numbers(*values))]).as_numpy("Y").tolist()


def asked_text(address: str, model: str, text: str) -> str:
    with http_client.InferenceServerClient(address) as client:
        given = tensor(http_client, "T", np.array([text.encode()], object), "BYTES")
        return client.infer(model, [given]).as_numpy("U")[0].decode()


def test_a_model_asks_another_and_waits(served: Served) -> None:
    assert asked(served.http, "twice", 1, 2, 3) == [3, 4, 5]
    assert asked(served.http, "twice", *range(40_000)) == list(range(2, 40_002))  # through shared memory


def test_many_are_asked_at_once(served: Served) -> None:
    assert asked(served.http, "many", 0) == [sum(range(1, 21))]


def test_the_responses_of_a_decoupled_model_are_iterated(served: Served) -> None:
    assert asked(served.http, "sum", 100) == [sum(range(100)), 100]


def test_an_iterator_that_is_left_ends_the_other_model(served: Served) -> None:
    assert asked(served.http, "first", 1000) == [0]
    assert asked(served.http, "sum", 3) == [3, 3]


def test_responses_pass_through_a_decoupled_model_from_a_thread_of_its_own(served: Served) -> None:
    assert streamed(served.grpc, "passes_on", 30) == list(range(30))


def test_an_ensemble_and_an_engine_are_asked_like_any_model(served: Served) -> None:
    assert asked_text(served.http, "asks_text", "abc") == "cba"
    right = Http(served.http).ask(
        "/v2/models/small/generate", {"text_input": "The quick", "max_tokens": 4, "temperature": 0}
    )
    assert asked_text(served.http, "asks_engine", "The quick") == right.json()["text_output"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (0, "code 2: there is no model 'nobody'"),
        (1, "code 3: model 'plus_one' has no output 'Z'"),
        (2, "code 3: model 'plus_one' needs the input 'X'"),
        (3, "needs model_name, inputs and requested_output_names"),
        (4, "this request was given to the model"),
        (5, "code 7: model 'slow' did not answer within the request's timeout"),
        (6, r"the model gave several responses: exec\(decoupled=True\)"),
    ],
)
def test_what_goes_wrong_comes_back_as_the_others_error(served: Served, wish: int, words: str) -> None:
    with pytest.raises(InferenceServerException, match=words):
        asked(served.http, "wrong", wish)


def test_many_clients_ask_models_that_ask(served: Served) -> None:
    wrong: list[object] = []

    def ask_often(start: int) -> None:
        for value in range(start, start + 10):
            if asked(served.http, "twice", value) != [value + 2]:
                wrong.append(value)

    threads = [threading.Thread(target=ask_often, args=(100 * index,)) for index in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_a_model_loads_and_unloads_another_where_clients_may(served: Served) -> None:
    assert asked(served.http, "loads", 0) == [1]
    assert asked(served.http, "loads", 2) == [0]
    assert asked(served.http, "loads", 1) == [1]
    with pytest.raises(InferenceServerException, match="edit the repository"):
        asked(served.http, "loads", 3)


def test_a_models_lines_are_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hanbit.models.logs"):
        assert asked(served.http, "logs", 1) == [1]
    lines = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "hanbit.models.logs"]
    assert lines == [("INFO", "a line"), ("WARNING", "two\\nlines"), ("ERROR", "at a level")]


def test_an_inline_model_asks_with_coroutines_and_is_told_so(tmp_path: Path) -> None:
    write_three_steps(tmp_path, "inline")
    write_model(tmp_path, "plus_one", PLUS_ONE, place="inline")
    write_model(tmp_path, "many", MANY, place="inline")
    write_model(tmp_path, "twice", TWICE, place="inline")
    with serving(tmp_path) as served:
        assert served.catalogue.find(ENSEMBLE)
        assert asked(served.http, "many", 0) == [sum(range(1, 21))]
        with pytest.raises(InferenceServerException, match="would stop the server if the model is inline"):
            asked(served.http, "twice", 1)
