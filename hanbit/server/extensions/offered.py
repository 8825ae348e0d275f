"""Which extensions a server has, by its options: what its frontends share beside the models, and what it says of it."""

from dataclasses import dataclass, field

from hanbit.server.extensions.log_settings import LogOptions, LogSettings
from hanbit.server.extensions.shared_memory import SharedMemory
from hanbit.server.extensions.trace import Tracing
from hanbit.server.extensions.trace_settings import TraceOptions

_ALWAYS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "model_configuration",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
    "generate",
)


@dataclass
class Extensions:
    """`may_bring_files`: a load by a client may bring files of the model. Ends with `close`."""

    shared_memory: SharedMemory = field(default_factory=SharedMemory)
    tracing: Tracing = field(default_factory=lambda: Tracing(TraceOptions()))
    logs: LogSettings | None = None
    may_bring_files: bool = False

    def names(self) -> list[str]:
        """As server metadata lists them: system shared memory where it is allowed."""
        return sorted([*_ALWAYS, *(["system_shared_memory"] if self.shared_memory.is_allowed else [])])

    @property
    def log_settings(self) -> LogSettings:
        if self.logs is None:
            self.logs = LogSettings(LogOptions())
        return self.logs

    def close(self) -> None:
        self.shared_memory.unregister()
        self.tracing.close()
        if self.logs is not None:
            self.logs.close()
