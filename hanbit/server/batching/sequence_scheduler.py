"""The back end of models that remember: requests of one sequence go to one instance, in their order.

`sequences.py` decides, `sequence_tensors.py` makes what the model gets besides; here are the event loop, the jobs and
the states between two requests of a sequence.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.server.batching.instance import Instance
from hanbit.server.batching.job import Job
from hanbit.server.batching.queue import QueueFull, Waiting
from hanbit.server.batching.scheduler import Clock, Kind, Scheduler
from hanbit.server.batching.sequence_tensors import SequenceTensors, sequence_of, sequence_options
from hanbit.server.batching.sequences import NotBegun, Sequences
from hanbit.server.errors import RequestError, invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.requested import timeout_seconds_of
from hanbit.server.tensors import Tensor


def scheduler_of(config: ModelConfig, instances: Sequence[Kind], folder: Path) -> Scheduler[Kind]:
    """The one that the configuration asks for; `folder`: the model's. Raises RepositoryError."""
    if config.HasField("sequence_batching"):
        return SequenceScheduler(config, instances, folder)
    return Scheduler(config, instances)


class SequenceScheduler(Scheduler[Kind]):
    def __init__(
        self, config: ModelConfig, instances: Sequence[Kind], folder: Path, clock: Clock = time.monotonic_ns
    ) -> None:
        self._tensors = SequenceTensors(config, folder)
        self._sequences = Sequences(len(instances), sequence_options(config))
        self._kept: dict[Hashable, dict[str, Tensor]] = {}
        super().__init__(config, instances, clock)

    @property
    def num_waiting(self) -> int:
        return len(self._sequences)

    def refuse_all(self, problem: RequestError) -> None:
        for one in self._sequences:
            self._sequences.take(one)
            _job(one).fail(problem)
        self._fail_orphans()

    def _job(self, request: InferRequest) -> "_SequenceJob":
        id, begins, ends = sequence_of(request)
        self._tensors.check_id(id)
        if self._takes_batches and any(one.shape[0] != 1 for one in request.inputs.values()):
            raise invalid(f"model {self._name!r} takes one row a request: its batches are of several sequences")
        shapes = tuple(sorted((name, one.shape) for name, one in request.inputs.items()))
        may_wait_ns = int((timeout_seconds_of(request) or 0) * 1e9)
        return _SequenceJob(request, shapes, may_wait_ns, id, begins, ends, self._keep)

    def _submit(self, job: Job) -> None:
        assert isinstance(job, _SequenceJob)
        if self._is_closed or not self.is_ready:
            raise self._away()
        try:
            self._sequences.arrive(job.id, job, job.begins, job.ends, self._clock())
        except QueueFull as problem:
            raise RequestError("busy", f"model {self._name!r}: {problem}; come again later") from None
        except NotBegun:
            raise invalid(
                f"sequence {job.id!r:.80} of model {self._name!r} has not begun, or is over: the first request of a "
                "sequence must have sequence_start"
            ) from None
        self._choose()

    def _choose(self) -> None:
        if self._is_choosing:
            return
        self._is_choosing = True
        try:
            again_at = self._all_that_may_go()
        finally:
            self._is_choosing = False
        ends = [at for at in (again_at, self._sequences.next_end) if at is not None]
        self._look_again(min(ends) if ends else None)

    def _all_that_may_go(self) -> int | None:
        """When to look again."""
        while True:
            now, later, is_over = self._clock(), [], True
            self._sequences.expire(now)
            for index, instance in enumerate(self.instances):
                if not instance.is_ready or instance in self._running:
                    continue
                choice = self._sequences.choose(index, now)
                if choice.batch:
                    self._begin(instance, choice.batch)
                    is_over = False
                elif choice.again_at is not None:
                    later.append(choice.again_at)
            if is_over:
                return min(later) if later else None

    def _begin(self, instance: Kind, batch: Sequence[Waiting]) -> None:
        jobs: list[Job] = []
        for one in batch:
            job = _job(one)
            slot = self._sequences.slot_of(one) if self._sequences.options.is_direct else len(jobs)
            while len(jobs) < slot:  # the row of a sequence that has nothing to say now
                jobs.append(_nobody(self._tensors.nobody(_job(batch[0]).asked)))
            kept = self._kept.get(job.id, {})
            job.request = self._tensors.extended(job.asked, job.begins, job.ends, job.id, kept)
            jobs.append(job)
        self._execute(instance, jobs)

    def _done(self, instance: Instance) -> None:
        now = self._clock()
        for job in self._running.get(instance, ()):
            if isinstance(job, _SequenceJob):
                self._sequences.ended(job, now)
        super()._done(instance)
        for id in [one for one in self._kept if not self._sequences.is_known(one)]:
            del self._kept[id]

    def _take_out(self, job: Job) -> None:
        if isinstance(job, _SequenceJob):
            self._sequences.begin(job)

    def _withdraw(self, job: Job) -> bool:
        return self._sequences.take(job)

    def _keep(self, job: "_SequenceJob", response: InferResponse) -> InferResponse:
        outputs, states = self._tensors.parted(response.outputs)
        if states and self._sequences.is_known(job.id):
            self._kept[job.id] = {**self._kept.get(job.id, {}), **states}
        return InferResponse(outputs, response.is_last, response.parameters)

    def _is_late(self, job: Job) -> None:
        super()._is_late(job)
        self._fail_orphans()
        self._choose()

    def _leave(self, job: Job) -> None:
        super()._leave(job)
        self._fail_orphans()
        self._choose()

    def _fail_orphans(self) -> None:
        orphans, self._sequences.orphans = self._sequences.orphans, []
        for one in orphans:
            _job(one).fail(invalid("the first request of this sequence was withdrawn before it was computed"))

    def _instance_changed(self) -> None:
        for index, instance in enumerate(self.instances):
            if not instance.is_ready:
                for one in self._sequences.drop(index):
                    _job(one).fail(self._away())
        super()._instance_changed()


class _SequenceJob(Job):
    """`asked`: the request as it came; `request`: as the model gets it. `keep` parts states from a response."""

    __slots__ = ("asked", "begins", "ends", "id", "keep")

    def __init__(
        self,
        request: InferRequest,
        shapes: Hashable,
        may_wait_ns: int,
        id: Hashable,
        begins: bool,
        ends: bool,
        keep: "Callable[[_SequenceJob, InferResponse], InferResponse]",
    ) -> None:
        super().__init__(request, 1, shapes, 0, may_wait_ns)
        self.asked, self.id, self.begins, self.ends, self.keep = request, id, begins, ends, keep

    def send(self, response: InferResponse) -> None:
        super().send(self.keep(self, response))


def _job(one: Waiting) -> _SequenceJob:
    assert isinstance(one, _SequenceJob)
    return one


def _nobody(request: InferRequest) -> Job:
    job = Job(request)
    job.leave()
    return job
