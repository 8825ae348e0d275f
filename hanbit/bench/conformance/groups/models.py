"""What models are configured to be, and which are there: configuration, index, load, unload."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX, model_source
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import SIMPLE, data_of, ok, refused, tensor

CONFIGURATION = Group("configuration", "Triton: extension_model_configuration", "model_configuration")
REPOSITORY = Group("repository", "Triton: extension_model_repository", "model_repository")
_LAZY = f"{PREFIX}lazy"
_PATH = f"/v2/repository/models/{_LAZY}"
_TENSOR = {"data_type": "TYPE_INT32", "dims": [1]}
_CONFIG = {
    "backend": "python",
    "input": [{"name": "IN", **_TENSOR}],
    "output": [{"name": "OUT", **_TENSOR}],
}


@CONFIGURATION.check("json", "the configuration is a ModelConfig as JSON: names, types and dims as in the file")
def _json(server: Server) -> None:
    found = ok(server.get(f"/v2/models/{SIMPLE}/config"))
    equal((found["name"], found["backend"], found["max_batch_size"]), (SIMPLE, "python", 8), "name, backend, batch")
    first = found["input"][0]
    equal((first["name"], first["data_type"], first["dims"]), ("INPUT0", "TYPE_INT32", [16]), "the first input")
    equal(found["output"][0]["label_filename"], "labels.txt", "label_filename")


@CONFIGURATION.check("numbers", "64-bit numbers are numbers, not texts")
def _numbers(server: Server) -> None:
    found = ok(server.get(f"/v2/models/{PREFIX}pipeline/config"))
    steps = found["ensemble_scheduling"]["step"]
    equal([step["model_version"] for step in steps], [1, -1], "versions of the steps")


@CONFIGURATION.check("completed", "what a file leaves out is filled in: version_policy, instance_group")
def _completed(server: Server) -> None:
    found = ok(server.get(f"/v2/models/{SIMPLE}/config"))
    equal(found["version_policy"], {"latest": {"num_versions": 1}}, "version_policy")
    true(found["instance_group"] and found["instance_group"][0]["count"] >= 1, "there is an instance group")


@CONFIGURATION.check("version", "the configuration of one version")
def _version(server: Server) -> None:
    equal(ok(server.get(f"/v2/models/{PREFIX}double/versions/3/config"))["name"], f"{PREFIX}double", "name")


@CONFIGURATION.check("no-model", "the configuration of a model that does not exist is 404")
def _no_config(server: Server) -> str:
    return refused(server.get(f"/v2/models/{PREFIX}none/config"), 404)


def _index(server: Server, body: Any = b"") -> dict[str, list[dict[str, str]]]:
    """Lines by the model's name."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in ok(server.post("/v2/repository/index", body)):
        found.setdefault(line["name"], []).append(line)
    return found


def _load(server: Server, **parameters: Any) -> Any:
    return server.post(f"{_PATH}/load", {"parameters": parameters} if parameters else b"")


def _sum(server: Server) -> int:
    """1 plus what the model adds."""
    return data_of(ok(server.infer(_LAZY, [tensor("IN", "INT32", [1])])), "OUT")[0]


def _config(add: int, **more: Any) -> str:
    return json.dumps({**_CONFIG, "parameters": {"add": {"string_value": str(add)}}, **more})


def _restored(look: Callable[[Server], Any]) -> Callable[[Server], Any]:
    """The model is there again as its folder has it, whatever was seen."""

    def whole(server: Server) -> Any:
        try:
            return look(server)
        finally:
            server.post(f"{_PATH}/unload")
            _load(server)

    return whole


@REPOSITORY.check("index", "POST /v2/repository/index lists every version of every model with its state")
def _listed(server: Server) -> None:
    found = _index(server)[f"{PREFIX}double"]
    equal([(line["version"], line["state"]) for line in found], [("1", "READY"), ("3", "READY")], "lines")


@REPOSITORY.check("index-of-repository", "a repository may be named in the path of the index")
def _named(server: Server) -> None:
    true(isinstance(ok(server.post("/v2/repository/some/index")), list), "the index is a list")


@REPOSITORY.check("index-not-json", "an index asked for with no JSON is refused")
def _index_broken(server: Server) -> str:
    return refused(server.post("/v2/repository/index", b"{"))


@REPOSITORY.check("unload", "an unloaded model is not ready, its infer is 4xx or 503; loaded again it answers")
@_restored
def _unload(server: Server) -> None:
    equal(server.post(f"{_PATH}/unload").status, 200, "status of unload")
    true(server.get(f"/v2/models/{_LAZY}/ready").status != 200, "it is not ready")
    refused(server.infer(_LAZY, [tensor("IN", "INT32", [1])]), 400, 404, 503)
    equal(_load(server).status, 200, "status of load")
    equal((server.get(f"/v2/models/{_LAZY}/ready").status, _sum(server)), (200, 101), "ready and the sum")


@REPOSITORY.check("index-of-unloaded", "the index tells an unloaded model with its reason, not among the ready")
@_restored
def _unloaded(server: Server) -> str:
    server.post(f"{_PATH}/unload")
    deadline = time.monotonic() + 10
    while (line := _index(server)[_LAZY][0])["state"] != "UNAVAILABLE" and time.monotonic() < deadline:
        time.sleep(0.1)
    equal((line["state"], line.get("reason")), ("UNAVAILABLE", "unloaded"), "state and reason")
    true(_LAZY not in _index(server, {"ready": True}), "it is not among the ready ones")
    return line["state"]


@REPOSITORY.check("load-again", "a model that is loaded may be loaded again and answers all the while")
def _load_again(server: Server) -> None:
    equal((_load(server).status, _sum(server)), (200, 101), "status and sum")


@REPOSITORY.check("load-config", "load with the parameter `config` takes that configuration")
@_restored
def _load_config(server: Server) -> None:
    equal(_load(server, config=_config(7)).status, 200, "status")
    equal(_sum(server), 8, "the sum")


@REPOSITORY.check("load-config-is-seen", "the configuration that was given is the one that is told")
@_restored
def _config_told(server: Server) -> None:
    _load(server, config=_config(7))
    found = ok(server.get(f"/v2/models/{_LAZY}/config"))
    equal(found["parameters"]["add"]["string_value"], "7", "the parameter")


@REPOSITORY.check(
    "load-files", "load with `config` and `file:<version>/<name>` takes those files instead of the folder's"
)
@_restored
def _load_files(server: Server) -> None:
    program = model_source("lazy").replace("one + self.add", "one - self.add")
    files = {"file:1/model.py": base64.b64encode(program.encode()).decode()}
    equal(_load(server, config=_config(7), **files).status, 200, "status")
    equal(_sum(server), -6, "the sum")


@REPOSITORY.check("load-other-files", "other files with the same `config` are taken too")
@_restored
def _other_files(server: Server) -> None:
    program = model_source("lazy").replace("one + self.add", "one - self.add")
    equal(_load(server, config=_config(7)).status, 200, "status")
    _load(server, config=_config(7), **{"file:1/model.py": base64.b64encode(program.encode()).decode()})
    equal(_sum(server), -6, "the sum")


@REPOSITORY.check("load-fails", "a load that fails says so and leaves the model that was there")
@_restored
def _load_fails(server: Server) -> str:
    files = {"file:1/model.py": base64.b64encode(b"raise ValueError('broken')").decode()}
    seen = refused(_load(server, config=_config(7), **files), 400, 500)
    equal(_sum(server), 101, "the sum afterwards")
    return seen


def _refusing(**parameters: Any) -> Callable[[Server], str]:
    def look(server: Server) -> str:
        seen = refused(_load(server, **parameters))
        equal(_sum(server), 101, "the sum afterwards")
        return seen

    return look


_B64 = base64.b64encode(b"x").decode()
for _name, _what, _given in (
    ("config-no-json", "a configuration that is no JSON", {"config": "nope"}),
    ("config-number", "a configuration that is no text", {"config": 5}),
    ("config-other-name", "a configuration with another model's name", {"config": _config(7, name="other")}),
    ("parameter-unknown", "a parameter that load does not know", {"other": "x"}),
    ("files-without-config", "files without a configuration", {"file:1/model.py": _B64}),
    ("file-above", "a file above the model's folder", {"config": _config(7), "file:../../x": _B64}),
    ("file-absolute", "a file with an absolute path", {"config": _config(7), "file:/tmp/conform_x": _B64}),
    ("file-no-base64", "a file that is no base64", {"config": _config(7), "file:1/model.py": "***"}),
):
    REPOSITORY.add(f"load-{_name}", f"load with {_what} is refused, and the model stays", _refusing(**_given))


@REPOSITORY.check("load-no-model", "load of a model that is in no repository is refused")
def _load_none(server: Server) -> str:
    return refused(server.post(f"/v2/repository/models/{PREFIX}none/load"))


@REPOSITORY.check("load-traversal", "load of a name that is a path is refused")
def _load_path(server: Server) -> str:
    return refused(server.post("/v2/repository/models/..%2f..%2fetc/load"))


@REPOSITORY.check("load-of-repository", "load from a repository that is named is refused as not supported")
def _load_named(server: Server) -> str:
    return refused(server.post(f"/v2/repository/some/models/{_LAZY}/load"), 501)


@REPOSITORY.check("unload-twice", "unload of a model that is not loaded is no error")
@_restored
def _twice(server: Server) -> None:
    equal([server.post(f"{_PATH}/unload").status for _ in range(2)], [200, 200], "statuses")


@REPOSITORY.check(
    "unload-dependents",
    "unload_dependents of an ensemble unloads what it was loaded with",
    "model_repository(unload_dependents)",
)
def _dependents(server: Server) -> None:
    path = f"/v2/repository/models/{PREFIX}pipeline"
    try:
        status = server.post(f"{path}/unload", {"parameters": {"unload_dependents": True}}).status
        equal(status, 200, "status")
        true(server.get(f"/v2/models/{PREFIX}pipeline/ready").status != 200, "the ensemble is not ready")
    finally:
        server.post(f"/v2/repository/models/{PREFIX}double/load")
        server.post(f"{path}/load")
    equal(server.get(f"/v2/models/{PREFIX}pipeline/ready").status, 200, "readiness after load")
