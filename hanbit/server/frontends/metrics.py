"""`/metrics`: what the engines have done, as Prometheus reads it, under the names that vLLM's dashboards know, and what
the models have, under Triton's (triton_metrics.py).

An engine is named by the first of the models that share it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanbit.engine.embedding_service import EmbeddingService
from hanbit.engine.service import Service
from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.frontends import triton_metrics
from hanbit.server.language_model import LanguageModel
from hanbit.server.model import ServedModel

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Models(Protocol):
    """What is needed of the data plane's catalogue."""

    def language_models(self) -> Mapping[str, LanguageModel]: ...

    def embedding_models(self) -> Mapping[str, EmbeddingModel]: ...

    def served(self) -> Sequence[ServedModel]: ...


@dataclass(frozen=True)
class _Metric:
    """`values` of one engine: a number for each set of further labels."""

    name: str
    kind: str
    means: str
    values: tuple[tuple[Mapping[str, str], float], ...]


def routes(models: Models) -> list[Route]:
    async def metrics(request: Request) -> Response:
        return Response(text_of(models), headers={"Cache-Control": "no-store"}, media_type=_MEDIA_TYPE)

    return [Route("/metrics", metrics)]


def text_of(models: Models) -> str:
    names: dict[Service | EmbeddingService, str] = {}
    for name, model in models.language_models().items():
        names.setdefault(model.service, name)
    for name, embedding in models.embedding_models().items():
        names.setdefault(embedding.service, name)
    families: dict[str, list[str]] = {}
    for service, name in names.items():
        for metric in _metrics(service):
            head = [f"# HELP {metric.name} {metric.means}", f"# TYPE {metric.name} {metric.kind}"]
            lines = families.setdefault(metric.name, head)
            lines += [f"{metric.name}{_labels(name, more)} {value:.17g}" for more, value in metric.values]
    engines = (line for lines in families.values() for line in lines)
    return "".join(f"{line}\n" for line in (*engines, *triton_metrics.lines_of(models.served())))


def _metrics(service: Service | EmbeddingService) -> Iterator[_Metric]:
    counts = service.counts()
    for kind, name, means, value in (
        ("gauge", "num_requests_running", "Answers that are being made.", counts.running),
        ("gauge", "num_requests_waiting", "Prompts that wait for their turn.", counts.waiting),
        ("counter", "prompt_tokens_total", "Tokens of prompts.", counts.prompt_tokens),
    ):
        yield _Metric(f"vllm:{name}", kind, means, (({}, value),))
    if isinstance(service, Service):
        yield from _metrics_of_answers(service)


def _metrics_of_answers(service: Service) -> Iterator[_Metric]:
    counts, cache, guesses = service.counts(), service.cache_counts, service.speculation_counts
    used = cache.blocks_used / cache.blocks
    for kind, name, means, value in (
        ("gauge", "kv_cache_usage_perc", "Share of the cache's blocks in use; 1 is all.", used),
        ("counter", "num_preemptions_total", "Times that an answer gave its blocks up.", cache.preempted),
        ("counter", "generation_tokens_total", "Tokens of answers.", counts.generated_tokens),
        ("counter", "prefix_cache_queries_total", "Tokens that were to be read.", cache.read_tokens),
        ("counter", "prefix_cache_hits_total", "Those of them that were in the cache.", cache.cached_tokens),
        ("counter", "spec_decode_num_drafts_total", "Guesses that were tried.", guesses.drafts),
        ("counter", "spec_decode_num_draft_tokens_total", "Tokens of guesses.", guesses.draft_tokens),
        ("counter", "spec_decode_num_accepted_tokens_total", "Those that were right.", guesses.accepted_tokens),
    ):
        yield _Metric(f"vllm:{name}", kind, means, (({}, value),))
    by_position = tuple(({"position": str(place)}, n) for place, n in enumerate(guesses.accepted_by_position))
    name, means = "vllm:spec_decode_num_accepted_tokens_per_pos_total", "Guesses that were right at this place."
    if by_position:
        yield _Metric(name, "counter", means, by_position)


def _labels(name: str, more: Mapping[str, str]) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return "{" + ",".join(f'{key}="{value}"' for key, value in {"model_name": escaped, **more}.items()) + "}"
