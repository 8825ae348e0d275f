"""What has been done, counted."""

from typing import Any

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import FIRST, ONES, REPEAT, SIMPLE, ok, pair, refused, tensor

GROUP = Group("statistics", "Triton: extension_statistics", "statistics")
_PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def _of(server: Server, model: str) -> dict[str, Any]:
    return ok(server.get(f"/v2/models/{model}/stats"))["model_stats"][0]


@GROUP.check("fields", "statistics have counts, durations, batches and responses, each by its name")
def _fields(server: Server) -> None:
    server.infer(SIMPLE, pair())
    found = _of(server, SIMPLE)
    missing = {
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats",
        "response_stats", "batch_stats", "memory_usage",
    } - set(found)  # fmt: skip
    equal(missing, set(), "what is missing")
    for part in _PARTS:
        equal(set(found["inference_stats"][part]), {"count", "ns"}, part)


@GROUP.check("success", "a request counts once, in success and in every part of its time")
def _success(server: Server) -> None:
    before = _of(server, SIMPLE)["inference_stats"]
    server.infer(SIMPLE, pair())
    after = _of(server, SIMPLE)["inference_stats"]
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        equal(after[part]["count"] - before[part]["count"], 1, part)


@GROUP.check("durations", "the parts of the time are not longer than the whole, and computing takes some")
def _durations(server: Server) -> str:
    before = _of(server, SIMPLE)["inference_stats"]
    server.infer(SIMPLE, pair())
    after = _of(server, SIMPLE)["inference_stats"]
    spent = {part: after[part]["ns"] - before[part]["ns"] for part in _PARTS}
    inside = sum(spent[part] for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    true(0 < spent["compute_infer"] <= inside <= spent["success"], f"the parts fit the whole: {spent}")
    return f"{spent['success']} ns"


@GROUP.check("batch", "a batch of 3 counts 3 inferences in 1 execution, and under batch_size 3")
def _batch(server: Server) -> None:
    before = _of(server, SIMPLE)
    server.infer(SIMPLE, [tensor("INPUT0", "INT32", FIRST * 3, [3, 16]), tensor("INPUT1", "INT32", ONES * 3, [3, 16])])
    after = _of(server, SIMPLE)
    counted = tuple(after[name] - before[name] for name in ("inference_count", "execution_count"))
    equal(counted, (3, 1), "inferences and executions")
    line = next((one for one in after["batch_stats"] if one["batch_size"] == 3), None)
    true(line is not None and line["compute_infer"]["count"] >= 1, "there is a line of batch_size 3")


@GROUP.check("failure", "a request that fails in the model counts under fail, not under success")
def _failure(server: Server) -> None:
    model = f"{PREFIX}failing"
    before = _of(server, model)["inference_stats"]
    server.infer(model, [tensor("IN", "INT32", [1])])
    after = _of(server, model)["inference_stats"]
    counted = tuple(after[part]["count"] - before[part]["count"] for part in ("success", "fail"))
    equal(counted, (0, 1), "success and fail")


@GROUP.check("last-inference", "last_inference is the time of the last one, in milliseconds since 1970")
def _last(server: Server) -> None:
    before = _of(server, SIMPLE)["last_inference"]
    server.infer(SIMPLE, pair())
    after = _of(server, SIMPLE)["last_inference"]
    true(after >= before and 1.6e12 < after < 1e13, f"{after} is such a time, not before {before}")


@GROUP.check("ensemble", "a request of an ensemble counts for it and for the versions of its steps")
def _ensemble(server: Server) -> None:
    def counts() -> list[int]:
        paths = (f"{PREFIX}pipeline", f"{PREFIX}double/versions/1", f"{PREFIX}double/versions/3")
        return [_of(server, path)["inference_stats"]["success"]["count"] for path in paths]

    before = counts()
    server.infer(f"{PREFIX}pipeline", [tensor("IN", "INT32", [1], [1, 1])])
    equal([one - other for one, other in zip(counts(), before, strict=True)], [1, 1, 1], "counted")


@GROUP.check("responses", "response_stats of a decoupled model count each response by its place")
def _responses(server: Server) -> None:
    def counts() -> list[int]:
        found = _of(server, REPEAT)["response_stats"]
        return [found.get(str(place), {}).get("success", {}).get("count", 0) for place in range(3)]

    before = counts()
    server.post(f"/v2/models/{REPEAT}/generate_stream", {"IN": [4, 5]})
    equal([one - other for one, other in zip(counts(), before, strict=True)][:2], [1, 1], "counted")


@GROUP.check("all", "/v2/models/stats has every version of every model")
def _all(server: Server) -> None:
    found = ok(server.get("/v2/models/stats"))["model_stats"]
    lines = [(one["name"], one["version"]) for one in found]
    true({(f"{PREFIX}double", "1"), (f"{PREFIX}double", "3"), (SIMPLE, "1")} <= set(lines), "they are there")


@GROUP.check("no-model", "statistics of a model that does not exist are refused")
def _none(server: Server) -> str:
    return refused(server.get(f"/v2/models/{PREFIX}none/stats"))
