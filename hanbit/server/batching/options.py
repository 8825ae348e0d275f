"""What config.pbtxt says of queues, batches and instances, as plain values. What cannot be raises RepositoryError."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from hanbit.common.errors import RepositoryError

MOST_WAITING = 1024  # requests of a level, where the file names no bound
MOST_INSTANCES = 256
_MICROSECOND = 1_000  # nanoseconds


@dataclass(frozen=True)
class QueuePolicy:
    """Of one priority level. `timeout_ns`: how long a request may wait, 0 is for ever; `delays`: one that waited so
    long goes behind the others of its level instead of being refused; `requests_may_shorten`: by their `timeout`."""

    max_size: int = MOST_WAITING
    timeout_ns: int = 0
    delays: bool = False
    requests_may_shorten: bool = False


@dataclass(frozen=True)
class BatchOptions:
    """
    max_rows: of a batch, along its first dim; 1 where the model takes no batches.
    is_dynamic: requests that wait are joined.
    preferred_rows: sizes that go at once, the smallest first; max_delay_ns: how long the first may wait for more.
    levels: priority 1 is the first of them; default_level: that of a request that names none, or one there is not.
    ragged: inputs whose dims may differ within a batch.
    """

    max_rows: int = 1
    is_dynamic: bool = False
    preferred_rows: tuple[int, ...] = ()
    max_delay_ns: int = 0
    preserve_ordering: bool = False
    levels: tuple[QueuePolicy, ...] = field(default=(QueuePolicy(),))
    default_level: int = 1
    ragged: frozenset[str] = frozenset()

    def level_of(self, priority: int) -> int:
        """Index of the level for a request's `priority`; 0 is none."""
        return (priority if 1 <= priority <= len(self.levels) else self.default_level) - 1


@dataclass(frozen=True)
class InstancePlace:
    """Where one instance of a model is to compute. `kind`: KIND_CPU or KIND_GPU; `device`: the GPU's number."""

    name: str
    kind: str
    device: int


def batch_options(config: ModelConfig) -> BatchOptions:
    rows = max(1, config.max_batch_size)
    ragged = frozenset(one.name for one in config.input if one.allow_ragged_batch)
    if not config.HasField("dynamic_batching"):
        return BatchOptions(rows, ragged=ragged)
    asked = config.dynamic_batching
    preferred = tuple(sorted(set(asked.preferred_batch_size)))
    if preferred and not 1 <= preferred[0] <= preferred[-1] <= rows:
        raise _wrong(config, f"preferred_batch_size {list(preferred)}: each is from 1 to max_batch_size, {rows}")
    num_levels = asked.priority_levels
    if num_levels > 1000:
        raise _wrong(config, f"priority_levels: {num_levels} is more than 1000")
    default = asked.default_priority_level if num_levels else 1
    if num_levels and not 1 <= default <= num_levels:
        raise _wrong(config, f"default_priority_level: {default} must be from 1 to priority_levels, {num_levels}")
    return BatchOptions(
        max_rows=rows,
        is_dynamic=True,
        preferred_rows=preferred,
        max_delay_ns=asked.max_queue_delay_microseconds * _MICROSECOND,
        preserve_ordering=asked.preserve_ordering,
        levels=_levels(config, max(1, num_levels), asked.default_queue_policy, asked.priority_queue_policy),
        default_level=default,
        ragged=ragged,
    )


def instance_places(config: ModelConfig, gpus: tuple[int, ...]) -> list[InstancePlace]:
    """One an instance, as `instance_group` has them; `gpus`: those of this machine. A group that names no kind is for
    the GPUs where there are any and it may, else for the CPU; without a group there is one instance."""
    groups = list(config.instance_group) or [ModelInstanceGroup()]
    found = []
    for index, group in enumerate(groups):
        kind = _kind(config, group, gpus)
        name = group.name or f"{config.name}_{index}"
        devices = _devices(config, group, gpus) if kind == "KIND_GPU" else (0,)
        places = [device for device in devices for _ in range(max(1, group.count))]
        found += [InstancePlace(f"{name}_{number}", kind, device) for number, device in enumerate(places)]
    if len(found) > MOST_INSTANCES:
        raise _wrong(config, f"instance_group asks for {len(found)} instances; at most {MOST_INSTANCES} are made")
    return found


def _kind(config: ModelConfig, group: ModelInstanceGroup, gpus: tuple[int, ...]) -> str:
    if group.kind not in ModelInstanceGroup.Kind.values():
        raise _wrong(
            config, f"instance_group has kind {group.kind}; there are {', '.join(ModelInstanceGroup.Kind.keys())}"
        )
    kind = ModelInstanceGroup.Kind.Name(group.kind)
    if kind == "KIND_GPU" and not gpus:
        raise _wrong(config, "instance_group asks for KIND_GPU, and this machine has none. Use KIND_CPU or KIND_AUTO")
    if kind == "KIND_AUTO":
        return "KIND_GPU" if gpus and group.gpus else "KIND_CPU"
    return kind


def _devices(config: ModelConfig, group: ModelInstanceGroup, gpus: tuple[int, ...]) -> tuple[int, ...]:
    asked = tuple(group.gpus) or gpus
    missing = sorted(set(asked) - set(gpus))
    if missing:
        raise _wrong(config, f"instance_group names GPU {missing[0]}; this machine has {list(gpus)}")
    return asked


def _levels(
    config: ModelConfig, count: int, usual: ModelQueuePolicy, by_level: Mapping[int, ModelQueuePolicy]
) -> tuple[QueuePolicy, ...]:
    unknown = sorted(level for level in by_level if not 1 <= level <= count)
    if unknown:
        raise _wrong(config, f"priority_queue_policy is for level {unknown[0]}; levels are from 1 to {count}")
    return tuple(_policy(by_level.get(level, usual)) for level in range(1, count + 1))


def _policy(given: ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_size=given.max_queue_size or MOST_WAITING,
        timeout_ns=given.default_timeout_microseconds * _MICROSECOND,
        delays=given.timeout_action == ModelQueuePolicy.DELAY,
        requests_may_shorten=given.allow_timeout_override,
    )


def _wrong(config: ModelConfig, what: str) -> RepositoryError:
    return RepositoryError(f"model {config.name!r}: {what}")
