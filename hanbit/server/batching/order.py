"""`preserve_ordering`: responses leave in the order in which requests came, though instances finish as they can."""

from collections import deque

from hanbit.server.batching.job import Job


class Order:
    """The first job that has not ended speaks freely; those behind it are held until it has."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def add(self, job: Job) -> None:
        job.is_held = bool(self._jobs)
        self._jobs.append(job)

    def ended(self) -> None:
        """Some job has ended or was left: whoever is first now may speak."""
        while self._jobs and (self._jobs[0].is_over or self._jobs[0].is_left):
            self._jobs.popleft().release()
        if self._jobs:
            self._jobs[0].release()
