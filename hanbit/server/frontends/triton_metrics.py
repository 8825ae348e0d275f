"""The metrics of every served model under Triton's names, by model and version:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html

Counts begin with each loading of a model. Durations are sums of microseconds.
"""

from collections.abc import Callable, Iterator, Sequence

from hanbit.server.model import ServedModel

_Read = Callable[[ServedModel], int]

_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    (
        "nv_inference_request_success",
        "Requests that were answered, all batch sizes.",
        lambda one: one.statistics.success.count,
    ),
    ("nv_inference_count", "Inferences: a batch of n counts n times.", lambda one: one.statistics.inferences),
    ("nv_inference_exec_count", "Executions of the model.", lambda one: one.statistics.executions),
    (
        "nv_inference_request_duration_us",
        "Of answered requests, from end to end.",
        lambda one: one.statistics.success.ns // 1000,
    ),
    ("nv_inference_queue_duration_us", "In the queue.", lambda one: one.statistics.queue.ns // 1000),
    (
        "nv_inference_compute_input_duration_us",
        "Making inputs ready.",
        lambda one: one.statistics.compute.input.ns // 1000,
    ),
    ("nv_inference_compute_infer_duration_us", "Computing.", lambda one: one.statistics.compute.infer.ns // 1000),
    (
        "nv_inference_compute_output_duration_us",
        "Taking outputs.",
        lambda one: one.statistics.compute.output.ns // 1000,
    ),
)


def lines_of(models: Sequence[ServedModel]) -> Iterator[str]:
    """In Prometheus' text format."""
    for name, means, read in _COUNTERS:
        yield from _family(name, "counter", means, [(one, "", read(one)) for one in models])
    failed = [(one, f',reason="{reason}"', n) for one in models for reason, n in one.statistics.reasons.items()]
    yield from _family("nv_inference_request_failure", "counter", "Requests that were not, by reason.", failed)
    waiting = [(one, "", int(getattr(one.backend, "num_waiting", 0))) for one in models]
    yield from _family("nv_inference_pending_request_count", "gauge", "Requests that wait for an instance.", waiting)


def _family(name: str, kind: str, means: str, values: Sequence[tuple[ServedModel, str, int]]) -> Iterator[str]:
    if values:
        yield f"# HELP {name} {means}"
        yield f"# TYPE {name} {kind}"
    for one, more, value in values:
        yield f'{name}{{model="{one.name}",version="{one.version}"{more}}} {value}'
