"""Is the server there, are its models, and what do they say of themselves."""

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import SIMPLE, ok, refused

GROUP = Group("health", "KServe v2 predict protocol: Health, Server Metadata, Model Metadata")
_DOUBLE = f"/v2/models/{PREFIX}double"


@GROUP.check("live", "GET /v2/health/live is 200 with an empty body")
def _live(server: Server) -> None:
    reply = server.get("/v2/health/live")
    equal((reply.status, reply.content), (200, b""), "the answer")


@GROUP.check("ready", "GET /v2/health/ready is 200 with an empty body")
def _ready(server: Server) -> None:
    reply = server.get("/v2/health/ready")
    equal((reply.status, reply.content), (200, b""), "the answer")


@GROUP.check("model-ready", "GET /v2/models/M/ready is 200, with a version and without")
def _model_ready(server: Server) -> None:
    for path in (f"/v2/models/{SIMPLE}/ready", f"{_DOUBLE}/versions/3/ready"):
        equal(server.get(path).status, 200, path)


@GROUP.check("no-model-ready", "the readiness of a model that does not exist is an error of 4xx")
def _no_model(server: Server) -> str:
    return refused(server.get(f"/v2/models/{PREFIX}none/ready"))


@GROUP.check("no-version-ready", "the readiness of a version that does not exist is an error of 4xx")
def _no_version(server: Server) -> str:
    return refused(server.get(f"{_DOUBLE}/versions/2/ready"))


@GROUP.check("server-metadata", "GET /v2 has a name, a version and a list of extensions")
def _metadata(server: Server) -> str:
    found = ok(server.get("/v2"))
    true(isinstance(found["name"], str) and isinstance(found["version"], str), "name and version are texts")
    true(all(isinstance(one, str) for one in found["extensions"]), "extensions are texts")
    return f"{found['name']} {found['version']}"


@GROUP.check("model-metadata", "model metadata has name, versions, platform, inputs and outputs with the batch dim")
def _model_metadata(server: Server) -> None:
    found = ok(server.get(f"/v2/models/{SIMPLE}"))
    one = {"datatype": "INT32", "shape": [-1, 16]}
    wanted = {
        "name": SIMPLE,
        "versions": ["1"],
        "platform": "python",
        "inputs": [{"name": "INPUT0", **one}, {"name": "INPUT1", **one}],
        "outputs": [{"name": "OUTPUT0", **one}, {"name": "OUTPUT1", **one}],
    }
    equal(found, wanted, "the metadata")


@GROUP.check("versions", "the metadata of a model lists all its versions")
def _versions(server: Server) -> None:
    equal(ok(server.get(_DOUBLE))["versions"], ["1", "3"], "versions")


@GROUP.check("one-version", "the metadata of one version lists that version")
def _one_version(server: Server) -> None:
    equal(ok(server.get(f"{_DOUBLE}/versions/3"))["versions"], ["3"], "versions")


@GROUP.check("platform-of-ensemble", "the platform of an ensemble is `ensemble`")
def _ensemble(server: Server) -> None:
    equal(ok(server.get(f"/v2/models/{PREFIX}pipeline"))["platform"], "ensemble", "platform")


@GROUP.check("no-model", "the metadata of a model that does not exist is 404 with an error")
def _no_metadata(server: Server) -> str:
    return refused(server.get(f"/v2/models/{PREFIX}none"), 404)


@GROUP.check("no-version", "the metadata of a version that does not exist is 404 with an error")
def _no_version_metadata(server: Server) -> str:
    return refused(server.get(f"{_DOUBLE}/versions/2"), 404)


@GROUP.check("no-path", "a path that is none is 404 with an error")
def _no_path(server: Server) -> str:
    return refused(server.get("/v2/nothing"), 404)


@GROUP.check("wrong-method", "a POST where only GET is known is 405 with an error")
def _wrong_method(server: Server) -> str:
    return refused(server.post(f"/v2/models/{SIMPLE}"), 405)


@GROUP.check("infer-by-get", "a GET of infer is 405 with an error")
def _infer_by_get(server: Server) -> str:
    return refused(server.get(f"/v2/models/{SIMPLE}/infer"), 405)
