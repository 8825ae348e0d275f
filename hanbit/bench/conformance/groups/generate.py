"""Plain JSON for models that speak, whole and streamed."""

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import FIRST, ONES, REPEAT, SIMPLE, SUM, TEXT, ok, refused

GROUP = Group("generate", "Triton: extension_generate (provisional; no server lists it)")


def _path(model: str, kind: str = "generate") -> str:
    return f"/v2/models/{model}/{kind}"


@GROUP.check("text", "a key becomes the input of its name, a single element comes back as it is")
def _text(server: Server) -> None:
    found = ok(server.post(_path(TEXT), {"text_input": "abc"}))
    wanted = {"model_name": TEXT, "model_version": "1", "text_output": "cba"}
    equal(found, wanted, "the answer")


@GROUP.check("list", "a list becomes several elements and comes back as a list")
def _list(server: Server) -> None:
    equal(ok(server.post(_path(TEXT), {"text_input": ["ab", "c"]}))["text_output"], ["ba", "c"], "text_output")


@GROUP.check("input-beside", "every input may be given so")
def _beside(server: Server) -> None:
    equal(ok(server.post(_path(TEXT), {"text_input": "ab", "times": 2}))["text_output"], "baba", "text_output")


@GROUP.check("parameters", "what is under `parameters` reaches the model too")
def _parameters(server: Server) -> None:
    body = {"text_input": "ab", "parameters": {"times": 3}}
    equal(ok(server.post(_path(TEXT), body))["text_output"], "bababa", "text_output")


@GROUP.check("id", "the id comes back")
def _id(server: Server) -> None:
    equal(ok(server.post(_path(TEXT), {"id": "5", "text_input": "ab"}))["id"], "5", "id")


@GROUP.check("unknown", "a key that is no input is no error")
def _unknown(server: Server) -> None:
    equal(ok(server.post(_path(TEXT), {"text_input": "ab", "other": 5}))["text_output"], "ba", "text_output")


@GROUP.check("batch", "where a model has batches it is a batch of one")
def _batch(server: Server) -> None:
    equal(ok(server.post(_path(SIMPLE), {"INPUT0": FIRST, "INPUT1": ONES}))["OUTPUT0"], SUM, "OUTPUT0")


@GROUP.check("version", "a version in the path is the one that answers")
def _version(server: Server) -> None:
    equal(ok(server.post(_path(f"{PREFIX}double/versions/1"), {"IN": [1, 2]}))["OUT"], [3, 5], "OUT")


@GROUP.check("stream", "generate_stream sends each response as an event `data: {...}`")
def _stream(server: Server) -> None:
    reply = server.post(_path(REPEAT, "generate_stream"), {"IN": [4, 5, 6]})
    equal((reply.status, reply.headers.get_content_type()), (200, "text/event-stream"), "status and type")
    found = [(event["OUT"], event["INDEX"], event["model_name"]) for event in reply.events()]
    equal(found, [(4, 0, REPEAT), (5, 1, REPEAT), (6, 2, REPEAT)], "events")


@GROUP.check("stream-id", "every event has the id")
def _stream_id(server: Server) -> None:
    reply = server.post(_path(REPEAT, "generate_stream"), {"IN": [4, 5], "id": "7"})
    equal([event["id"] for event in reply.events()], ["7", "7"], "ids")


@GROUP.check("stream-of-one", "generate_stream of a model of one response has one event")
def _one(server: Server) -> None:
    reply = server.post(_path(TEXT, "generate_stream"), {"text_input": "abc"})
    equal([event["text_output"] for event in reply.events()], ["cba"], "events")


@GROUP.check("stream-of-none", "generate_stream without a response is 200 without an event")
def _no_event(server: Server) -> None:
    reply = server.post(_path(REPEAT, "generate_stream"), {"IN": []})
    equal((reply.status, reply.content), (200, b""), "the answer")


@GROUP.check("stream-error", "an error after the first event is an event {error}, after a 200")
def _late(server: Server) -> None:
    reply = server.post(_path(REPEAT, "generate_stream"), {"IN": [4], "FAIL": True})
    events = reply.events()
    equal((reply.status, events[0]["OUT"], list(events[-1])), (200, 4, ["error"]), "status and events")
    true("asked to fail" in events[-1]["error"], f"{events[-1]} has the model's text")


@GROUP.check("stream-first-error", "an error before the first event has its own status")
def _early(server: Server) -> str:
    reply = server.post(_path(REPEAT, "generate_stream"), {"IN": [], "FAIL": True})
    true(reply.status >= 400 and b"asked to fail" in reply.content, f"it is an error, not {reply}")
    return str(reply)


@GROUP.check("one-of-a-stream", "generate of a decoupled model that answers once is that answer")
def _once(server: Server) -> None:
    equal(ok(server.post(_path(REPEAT), {"IN": [4]}))["OUT"], 4, "OUT")


@GROUP.check("two-of-a-stream", "generate of a model that answers twice is an error, of status 4xx")
def _two(server: Server) -> str:
    return refused(server.post(_path(REPEAT), {"IN": [4, 5]}))


@GROUP.check("model-error", "an error that the model makes is an error with its text")
def _model_error(server: Server) -> str:
    reply = server.post(_path(f"{PREFIX}failing"), {"IN": 1})
    true(reply.status >= 400 and "one is refused" in str(reply.error), f"it is an error with the text, not {reply}")
    return str(reply)


@GROUP.check("missing", "an input that is missing is refused")
def _missing(server: Server) -> str:
    return refused(server.post(_path(TEXT), {}))


@GROUP.check("stream-missing", "an input that is missing is refused in a stream too")
def _stream_missing(server: Server) -> str:
    return refused(server.post(_path(REPEAT, "generate_stream"), {}))


@GROUP.check("twice", "a key given twice, once under parameters, is refused")
def _twice(server: Server) -> str:
    return refused(server.post(_path(TEXT), {"text_input": "a", "parameters": {"text_input": "b"}}))


@GROUP.check("type", "a number for a text is refused")
def _type(server: Server) -> str:
    return refused(server.post(_path(TEXT), {"text_input": 5}))


@GROUP.check("not-json", "a body that is no JSON is refused")
def _not_json(server: Server) -> str:
    return refused(server.post(_path(TEXT), b"{"))


@GROUP.check("no-model", "a model that does not exist is 404")
def _no_model(server: Server) -> str:
    return refused(server.post(_path(f"{PREFIX}none"), {"text_input": "a"}), 404)


@GROUP.check("by-get", "a GET is 405")
def _by_get(server: Server) -> str:
    return refused(server.get(_path(TEXT)), 405)
