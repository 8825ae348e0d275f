"""`--model-control-mode poll`: the repository is looked at again and again, and what has changed is loaded.

Nobody tells the server when a writer is done, so a change counts once it looks the same twice. A change that cannot be
loaded leaves what is served, and is not tried again before the next change.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanbit.common.errors import RepositoryError
from hanbit.repository.layout import model_names
from hanbit.server.errors import RequestError

log = logging.getLogger(__name__)

Look = Mapping[str, object]  # what a model's folder looks like: equal if nothing has changed
_MOST_FILES = 100_000  # of a model


@dataclass(frozen=True)
class Changes:
    """Names of models: to load (new, or not as they were), and to unload (gone)."""

    load: tuple[str, ...] = ()
    unload: tuple[str, ...] = ()


@dataclass
class Watch:
    """Pure: looks in, changes out. `known`: what has been acted on."""

    known: dict[str, object] = field(default_factory=dict)
    before: dict[str, object] = field(default_factory=dict)

    def begin(self, look: Look) -> None:
        """What is there has been loaded."""
        self.known, self.before = dict(look), dict(look)

    def next(self, look: Look) -> Changes:
        gone = tuple(sorted(name for name in self.known if name not in look))
        changed = [name for name in sorted(look) if look[name] != self.known.get(name)]
        settled = tuple(name for name in changed if name in self.before and self.before[name] == look[name])
        for name in gone:
            del self.known[name]
        for name in settled:
            self.known[name] = look[name]
        self.before = dict(look)
        return Changes(settled, gone)


async def poll(
    repositories: Sequence[Path],
    seconds: float,
    watch: Watch,
    load: Callable[[str], Awaitable[None]],
    unload: Callable[[str], Awaitable[None]],
) -> None:
    """Until cancelled. `load` and `unload` may raise RequestError."""
    while True:
        await asyncio.sleep(seconds)
        try:
            changes = watch.next(await asyncio.to_thread(look_at, repositories))
        except (OSError, RepositoryError) as problem:
            log.error("the model repository cannot be read now: %s", problem)
            continue
        works = [*(unload(name) for name in changes.unload), *(load(name) for name in changes.load)]
        for result in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(result, RequestError):
                log.error("%s", result)
            elif isinstance(result, BaseException):
                log.error("a changed model could not be taken over", exc_info=result)


def look_at(repositories: Sequence[Path]) -> dict[str, object]:
    """By model: every file with its size and time. A repository that is away is an OSError, not an empty one."""
    found: dict[str, object] = {}
    for repository in repositories:
        os.stat(repository)
        for name in model_names(repository):
            found[name] = tuple(_files(repository / name))
    return found


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    count = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one != "__pycache__")
        yield place, 0, 0, 0
        for name in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            try:
                info = os.stat(os.path.join(place, name))
            except OSError:  # gone since the listing
                continue
            yield os.path.join(place, name), info.st_size, info.st_mtime_ns, info.st_ino
