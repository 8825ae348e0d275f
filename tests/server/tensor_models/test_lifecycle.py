"""Models come, change and go while real clients ask: no answer is wrong, and a bad load takes nothing away."""

import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.server.python_models.written import PLUS_ONE, write_model
from tests.server.served import Served, serving
from tests.server.tensor_models.onnx_files import ONE_THREAD, matmul, slow, write

AWAY = ("not ready", "not loaded", "being unloaded")


def scaled(factor: float) -> Any:
    """Y = X with three rows of `factor`: the sum of a row of ones is 3 * factor, four times."""
    return matmul(weights=np.full((3, 4), factor, np.float32))


def put(repository: Path, name: str, factor: float, version: int = 1, config: str | None = None) -> None:
    """Whole or not at all, as a careful writer does."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    (folder / "new").write_bytes(scaled(factor).SerializeToString())
    os.replace(folder / "new", folder / "model.onnx")


def factor_of(client: Any, model: str, version: str = "") -> float:
    module = http_client if "http" in type(client).__module__ else grpc_client
    tensor = module.InferInput("X", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
    found = client.infer(model, [tensor], model_version=version).as_numpy("Y")
    assert found.shape == (1, 4)
    assert len(set(found.ravel().tolist())) == 1
    return float(found[0, 0]) / 3


@contextmanager
def clients(served: Served) -> Iterator[tuple[Any, Any]]:
    with (
        http_client.InferenceServerClient(served.http, network_timeout=120, connection_timeout=120) as http,
        grpc_client.InferenceServerClient(served.grpc) as grpc,
    ):
        yield http, grpc


@contextmanager
def traffic(served: Served, work: Callable[[Any], None], threads: int = 4) -> Iterator[list[Exception]]:
    """`work` again and again by as many clients, half of them over gRPC; what any of them fails with."""
    is_over = threading.Event()
    problems: list[Exception] = []

    def ask(module: Any, address: str) -> None:
        with module.InferenceServerClient(address) as client:
            while not is_over.is_set():
                try:
                    work(client)
                except Exception as problem:
                    problems.append(problem)

    places = [(http_client, served.http), (grpc_client, served.grpc)]
    workers = [threading.Thread(target=ask, args=place) for place in itertools.islice(itertools.cycle(places), threads)]
    for worker in workers:
        worker.start()
    try:
        yield problems
    finally:
        is_over.set()
        for worker in workers:
            worker.join(30)


@contextmanager
def serving_explicitly(repository: Path, **options: Any) -> Iterator[Served]:
    with serving(repository, clients_change_models=True, load=None, **options) as served:
        yield served


def test_loading_again_under_traffic_fails_nobody(tmp_path: Path) -> None:
    put(tmp_path, "scale", 1, config=ONE_THREAD)
    allowed = {1.0}

    def ask(client: Any) -> None:
        assert factor_of(client, "scale") in allowed

    with serving_explicitly(tmp_path) as served, clients(served) as (http, grpc):
        http.load_model("scale")
        with traffic(served, ask) as problems:
            for factor in range(2, 12):
                allowed.add(float(factor))
                put(tmp_path, "scale", factor)
                (http if factor % 2 else grpc).load_model("scale")
                assert factor_of(http, "scale") == factor  # whoever asks behind the load gets the new one
                allowed.discard(factor - 2.0)
            time.sleep(0.05)
        assert problems == []


def test_a_load_that_fails_leaves_what_is_served(tmp_path: Path) -> None:
    put(tmp_path, "scale", 5)

    def ask(client: Any) -> None:
        assert factor_of(client, "scale") == 5

    with serving_explicitly(tmp_path) as served, clients(served) as (http, _):
        http.load_model("scale")
        with traffic(served, ask) as problems:
            for content, config in ((b"junk", ""), (None, "max_batch_size: -1"), (None, "instance_group { kind: 9 }")):
                (tmp_path / "scale" / "config.pbtxt").write_text(config)
                if content is not None:
                    (tmp_path / "scale" / "1" / "model.onnx").write_bytes(content)
                with pytest.raises(InferenceServerException, match="cannot be loaded"):
                    http.load_model("scale")
                (line,) = http.get_model_repository_index()
                assert line["state"] == "READY"
                assert http.is_model_ready("scale")
                put(tmp_path, "scale", 5)
            (tmp_path / "scale" / "config.pbtxt").write_text('backend: "onnxruntime"')
            shutil.rmtree(tmp_path / "scale" / "1")
            with pytest.raises(InferenceServerException, match="no version"):
                http.load_model("scale")
        assert problems == []


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_loads_unloads_and_questions_gives_no_wrong_answer(seed: int, tmp_path: Path) -> None:
    """A hundred steps for each seed, over HTTP and gRPC, while three clients ask all the time."""
    names = {"a": 2.0, "b": 3.0, "c": 4.0}
    for name, factor in names.items():
        put(tmp_path, name, factor, config=ONE_THREAD)
    answered = itertools.count()

    def ask(client: Any) -> None:
        name = random.choice(list(names))
        try:
            found = factor_of(client, name)
        except InferenceServerException as problem:
            if not any(text in problem.message() for text in AWAY):
                raise
        else:
            assert found == names[name], name
            next(answered)

    chosen = random.Random(seed)
    with serving_explicitly(tmp_path, fail_if_a_model_fails=False) as served, clients(served) as both:
        loaded: set[str] = set()
        with traffic(served, ask, threads=3) as problems:
            for _ in range(100):
                name, client = chosen.choice(list(names)), chosen.choice(both)
                if chosen.random() < 0.5:
                    client.load_model(name)
                    loaded.add(name)
                elif name in loaded:
                    client.unload_model(name)
                    loaded.discard(name)
                assert {one for one in names if client.is_model_ready(one)} == loaded
                for one in loaded:
                    assert factor_of(client, one) == names[one]
        assert problems == []
        assert next(answered) > 20


def test_a_load_may_bring_a_configuration_in_tritons_older_words(tmp_path: Path) -> None:
    put(tmp_path, "scale", 5)
    with serving_explicitly(tmp_path) as served, clients(served) as (http, _):
        http.load_model("scale", config='{"platform": "onnxruntime_onnx", "max_batch_size": 2}')
        config = http.get_model_config("scale")
        assert (config["backend"], config["max_batch_size"]) == ("onnxruntime", 2)
        assert factor_of(http, "scale") == 5


def test_unloading_waits_for_those_who_are_being_answered(tmp_path: Path) -> None:
    write(slow(), tmp_path, "slow", ONE_THREAD)
    found: list[float] = []

    def ask(address: str) -> None:
        with http_client.InferenceServerClient(address) as client:
            tensor = http_client.InferInput("X", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
            found.append(client.infer("slow", [tensor]).as_numpy("Y").item())

    with serving_explicitly(tmp_path) as served, clients(served) as (http, _):
        http.load_model("slow")
        thread = threading.Thread(target=ask, args=[served.http])
        thread.start()
        while served.catalogue.find("slow").num_running == 0:
            time.sleep(0.005)
        http.unload_model("slow")
        thread.join(30)
        assert found == [300_000]
        with pytest.raises(InferenceServerException, match="not ready"):
            ask(served.http)


def test_versions_follow_the_policy_at_every_load(tmp_path: Path) -> None:
    put(tmp_path, "scale", 1, config="")
    with serving_explicitly(tmp_path) as served, clients(served) as (http, _):

        def loaded(config: str) -> list[str]:
            (tmp_path / "scale" / "config.pbtxt").write_text(config)
            http.load_model("scale")
            return http.get_model_metadata("scale")["versions"]

        assert loaded("") == ["1"]
        put(tmp_path, "scale", 2, version=2)
        put(tmp_path, "scale", 3, version=3)
        assert loaded("") == ["3"]
        assert loaded("version_policy { all {} }") == ["1", "2", "3"]
        assert [factor_of(http, "scale", str(version)) for version in (1, 2, 3)] == [1, 2, 3]
        assert factor_of(http, "scale") == 3
        assert loaded("version_policy { latest { num_versions: 2 } }") == ["2", "3"]
        assert loaded("version_policy { specific { versions: [ 1 ] } }") == ["1"]
        with pytest.raises(InferenceServerException, match="asks for versions"):
            loaded("version_policy { specific { versions: [ 7 ] } }")
        assert factor_of(http, "scale") == 1
        with pytest.raises(InferenceServerException, match="no version '3'"):
            factor_of(http, "scale", "3")


def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_watched_repository_is_followed(tmp_path: Path) -> None:
    put(tmp_path, "scale", 1)
    with serving(tmp_path, poll_seconds=0.1) as served, clients(served) as (http, _):

        def factor(name: str) -> float | None:
            try:
                return factor_of(http, name)
            except InferenceServerException:
                return None

        assert factor("scale") == 1
        with pytest.raises(InferenceServerException, match="explicit"):
            http.load_model("scale")
        put(tmp_path, "scale", 2)
        until(lambda: factor("scale") == 2)
        put(tmp_path, "more", 7)
        until(lambda: factor("more") == 7)
        put(tmp_path, "scale", 3, version=2)
        until(lambda: factor("scale") == 3)
        (tmp_path / "more" / "1" / "model.onnx").write_bytes(b"junk")
        until(lambda: any("no ONNX file" in line.get("reason", "") for line in http.get_model_repository_index()))
        assert factor("more") == 7
        shutil.rmtree(tmp_path / "more")
        until(lambda: factor("more") is None)
        assert factor("scale") == 3
        assert http.is_server_ready()


WARM = """
input { name: "X" data_type: TYPE_FP32 dims: [ 3 ] } output { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }
max_batch_size: 8
instance_group { count: 2 kind: KIND_CPU }
"""


def sample(what: str, more: str = "batch_size: 2 count: 3", dims: str = "[ 3 ]") -> str:
    inputs = f'inputs {{ key: "X" value {{ data_type: TYPE_FP32 dims: {dims} {what} }} }}'
    return f'{WARM} model_warmup {{ name: "first" {more} {inputs} }}'


@pytest.mark.parametrize("what", ["zero_data: true", "random_data: true", 'input_data_file: "x.bin"'])
def test_models_are_warm_before_anybody_asks(what: str, tmp_path: Path) -> None:
    put(tmp_path, "scale", 2, config=sample(what))
    (tmp_path / "scale" / "warmup").mkdir()
    (tmp_path / "scale" / "warmup" / "x.bin").write_bytes(np.ones((2, 3), np.float32).tobytes())
    with serving(tmp_path) as served, clients(served) as (http, _):
        instances = served.catalogue.find("scale").backend.instances  # type: ignore[attr-defined]
        assert [one.num_batches for one in instances] == [3, 3]
        assert factor_of(http, "scale") == 2
        (stats,) = http.get_inference_statistics("scale")["model_stats"]
        assert stats["inference_count"] == 1  # a warm-up is nobody's inference


def test_warm_ups_that_cannot_be_are_refused(tmp_path: Path) -> None:
    bad = {
        "shape": (sample("zero_data: true", dims="[ 4 ]"), "has shape"),
        "file": (sample('input_data_file: "none.bin"'), "cannot be read"),
        "above": (sample('input_data_file: "../1/model.onnx"'), "must be the name of a file"),
        "nothing": (sample(""), "needs zero_data"),
        "batch": (sample("zero_data: true", more="batch_size: 9"), "from 1 to 8"),
        "count": (sample("zero_data: true", more="count: 1000000"), "more than"),
        "fails": (sample("zero_data: true").replace("X", "Q"), "no input 'Q'"),
    }
    for name, (config, _) in bad.items():
        put(tmp_path, name, 1, config=config)
    with serving(tmp_path, fail_if_a_model_fails=False) as served, clients(served) as (http, _):
        index = {line["name"]: line for line in http.get_model_repository_index()}
    for name, (_, says) in bad.items():
        assert index[name]["state"] == "UNAVAILABLE", name
        assert says in index[name]["reason"], (name, index[name]["reason"])


SLOW_START = """
def initialize(self, args):
    with open("FOLDER/log", "a") as file:
        file.write("begin\\n")
        file.flush()
        time.sleep(0.3)
        file.write("end\\n")
"""


def test_several_models_load_at_once_and_no_more_than_may(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for index in range(6):
        start = SLOW_START.replace("FOLDER", str(tmp_path))
        write_model(tmp_path / "models", f"m{index}", f"{start}\n{PLUS_ONE}", place="thread")
    with serving(tmp_path / "models", load_threads=3):
        running, most = 0, 0
        for line in (tmp_path / "log").read_text().splitlines():
            running += 1 if line == "begin" else -1
            most = max(most, running)
    assert most == 3


def test_a_client_that_goes_away_from_its_load_leaves_it_going_on(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_model(folder, "m", PLUS_ONE, place="thread")
    with serving_explicitly(folder) as served, clients(served) as (http, grpc):
        http.load_model("m")
        source = (folder / "m" / "1" / "model.py").read_text()
        start = SLOW_START.replace("FOLDER", str(tmp_path)).replace("\n", "\n    ")
        (folder / "m" / "1" / "model.py").write_text(source.replace("x + 1", "x + 2") + start)
        with pytest.raises(InferenceServerException):
            grpc.load_model("m", client_timeout=0.1)

        def answer() -> int:
            tensor = http_client.InferInput("X", [1], "INT32")
            tensor.set_data_from_numpy(np.zeros(1, np.int32))
            return http.infer("m", [tensor]).as_numpy("Y").item()

        assert answer() == 1  # the former one answers meanwhile
        until(lambda: answer() == 2)
        assert http.get_model_repository_index()[0]["state"] == "READY"


DIES = """
def initialize(self, args):
    os.kill(os.getpid(), 9)
"""


def test_a_process_that_is_killed_while_it_loads_again_takes_nothing_away(tmp_path: Path) -> None:
    write_model(tmp_path, "m", PLUS_ONE)
    with serving_explicitly(tmp_path) as served, clients(served) as (http, _):
        http.load_model("m")
        source = (tmp_path / "m" / "1" / "model.py").read_text()
        (tmp_path / "m" / "1" / "model.py").write_text("import os\n" + source + DIES.replace("\n", "\n    "))
        with pytest.raises(InferenceServerException, match="cannot be loaded"):
            http.load_model("m")
        tensor = http_client.InferInput("X", [1], "INT32")
        tensor.set_data_from_numpy(np.zeros(1, np.int32))
        assert http.infer("m", [tensor]).as_numpy("Y").item() == 1


ENSEMBLE = """
platform: "ensemble" max_batch_size: 4
input {{ name: "X" data_type: TYPE_FP32 dims: [ 3 ] }} output {{ name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }}
ensemble_scheduling {{ step {{ model_name: "{member}" model_version: -1
  input_map {{ key: "X" value: "X" }} output_map {{ key: "Y" value: "Y" }} }} }}
"""


def test_ensembles_that_are_parts_of_each_other_are_refused_and_wait_for_nobody(tmp_path: Path) -> None:
    for name, member in (("one", "two"), ("two", "one"), ("three", "scale")):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(ENSEMBLE.format(member=member))
    put(tmp_path, "scale", 3)
    with serving(tmp_path, fail_if_a_model_fails=False) as served, clients(served) as (http, _):
        index = {line["name"]: line for line in http.get_model_repository_index()}
        assert factor_of(http, "three") == 3
    assert "a part of itself" in index["one"]["reason"]
    assert "a part of itself" in index["two"]["reason"]
