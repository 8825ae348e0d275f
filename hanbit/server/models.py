"""The catalogue: which models there are, which of them are loaded, and why one is not.

All of it is used on the event loop; only the work of loading and closing happens in threads. A model that is loaded
again serves its former self until the new one is whole, and keeps it if that fails.
"""

import asyncio
import logging
import tempfile
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import HanbitError, RepositoryError
from hanbit.repository.config import is_ensemble
from hanbit.repository.layout import RepositoryModel, model_names, read_model
from hanbit.server.admission import Admission
from hanbit.server.backends.find import Loaded, Surroundings, load_backend
from hanbit.server.backends.hanbit import Backend as HanbitBackend
from hanbit.server.backends.hanbit_embed import Backend as EmbeddingBackend
from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.engines import Engines
from hanbit.server.ensemble import Ensemble
from hanbit.server.errors import RequestError, as_request_error, invalid
from hanbit.server.extensions.classification import read_labels
from hanbit.server.extensions.offered import Extensions
from hanbit.server.extensions.overrides import Override, new_scratch, override_of
from hanbit.server.language_model import LanguageModel
from hanbit.server.model import ServedModel
from hanbit.server.python_models.ask import Server
from hanbit.server.response_cache import ModelCache, ResponseCache, can_cache
from hanbit.server.warmup import warm_up

log = logging.getLogger(__name__)

_UNLOADED = "unloaded"
Scratch = tempfile.TemporaryDirectory[str]


@dataclass(frozen=True)
class State:
    """A line of the repository index. `state`: READY, LOADING, UNAVAILABLE, or empty if never asked for."""

    name: str
    version: str
    state: str
    reason: str


@dataclass
class _Entry:
    """`versions`: what is served, the newest last; `config` stays when a model is unloaded."""

    versions: dict[str, ServedModel] = field(default_factory=dict)
    state: str = ""
    reason: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Catalogue:
    """`can_change`: clients may load and unload models (`--model-control-mode explicit`). `completes`: what
    configurations leave open is completed from the models. `load_threads`: models that are loaded at once."""

    def __init__(
        self,
        repositories: Sequence[Path],
        engines: Engines,
        can_change: bool = False,
        completes: bool = True,
        load_threads: int = 4,
        extensions: Extensions | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self.extensions = extensions or Extensions()
        self.repositories = tuple(repositories)
        self.engines = engines
        self.can_change = can_change
        self._completes = completes
        self._cache = cache
        self._load_threads = load_threads
        self._works: set[asyncio.Task[None]] = set()  # loading and closing go on if nobody waits for them any more
        self.admission = Admission()
        self._server = Server(self.find, self.is_ready, self._change_by_model, lambda: self.admission.is_draining)
        self._patience = 30.0  # seconds for requests that run when their model is taken away
        self._has_started = False
        self._entries: dict[str, _Entry] = {}

    def names(self) -> list[str]:
        """Of every model in the repositories, loaded or not. Raises RepositoryError."""
        found: set[str] = set()
        for repository in self.repositories:
            names = set(model_names(repository))
            if found & names:
                raise RepositoryError(f"model {min(found & names)!r} is in two repositories. Rename one of them")
            found |= names
        return sorted(found)

    async def load_all(self, names: Iterable[str] | None = None) -> None:
        """Every model, or those named; a model that fails keeps the others from nothing (see `index`)."""
        slots = asyncio.Semaphore(self._load_threads)

        async def loaded(name: str) -> None:
            async with slots:
                try:
                    if self._entry(name).state == "":
                        await self.load(name)
                except RequestError as problem:
                    log.error("%s", problem)

        await asyncio.gather(*(loaded(name) for name in (self.names() if names is None else names)))
        self._has_started = True

    async def load(self, name: str, override: Override | None = None) -> None:
        """Load, or load again what has changed; an ensemble brings the members that are not there. RequestError."""
        if name not in self.names():
            raise RequestError("not_found", f"no model {name!r:.80} in the repository")
        await self._going_on(self._load(name, (), override))

    async def unload(self, name: str, with_members: bool = False) -> None:
        """Requests that run go on to their end. `with_members`: an ensemble takes its members along. One that is not
        loaded stays so. RequestError for one that there is not."""
        entry = self._entries.get(name)
        if entry is None or not entry.versions:
            if name not in self.names():
                raise RequestError("not_found", f"no model {name!r:.80} in the repository")
            return
        async with entry.lock:
            former, entry.versions = entry.versions, {}
            entry.state, entry.reason = "UNAVAILABLE", _UNLOADED
        await self._going_on(_close(former, self._patience))
        members = {step.model_name for model in former.values() for step in model.config.ensemble_scheduling.step}
        for member in sorted(members) if with_members else ():
            if self._entry(member).versions:
                await self.unload(member)

    async def forget(self, name: str) -> None:
        """A model that is no longer in any repository."""
        if self._entry(name).versions:
            await self.unload(name)
        self._entries.pop(name, None)

    async def load_by_client(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """`parameters`: of the protocol's load, a configuration and files. RequestError where clients may not."""
        self._check_can_change()
        override = override_of(name, parameters or {}, self.extensions.may_bring_files)
        await self.load(name, override)

    async def unload_by_client(self, name: str, with_members: bool) -> None:
        self._check_can_change()
        await self.unload(name, with_members)

    def find(self, name: str, version: str = "") -> ServedModel:
        """The newest version if none is named. RequestError: not found, or known and away."""
        entry = self._entries.get(name)
        if entry is None or entry.state == "":
            if entry is None and not any((repository / name).is_dir() for repository in self._safe(name)):
                raise RequestError("not_found", f"there is no model {name!r:.80}; ask for /v2/repository/index")
            raise RequestError("unavailable", f"model {name!r} is not loaded")
        if not entry.versions:
            raise RequestError("unavailable", f"model {name!r} is not ready: {entry.reason or entry.state.lower()}")
        if not version:
            return next(reversed(entry.versions.values()))
        if version not in entry.versions:
            raise RequestError("not_found", f"model {name!r} has no version {version!r:.40}: {list(entry.versions)}")
        return entry.versions[version]

    def served(self) -> list[ServedModel]:
        return [model for _, entry in sorted(self._entries.items()) for model in entry.versions.values()]

    def is_ready(self, name: str, version: str = "") -> bool:
        """An ensemble is ready if its members are. RequestError for a model that does not exist."""
        try:
            model = self.find(name, version)
        except RequestError as problem:
            if problem.kind == "unavailable":
                return False
            raise
        return model.is_ready and all(
            self._has_ready(step.model_name) for step in model.config.ensemble_scheduling.step
        )

    @property
    def is_server_ready(self) -> bool:
        """Whatever was asked to be loaded is there, and requests are let in."""
        are_there = all(entry.state in ("READY", "") or entry.reason == _UNLOADED for entry in self._entries.values())
        are_ready = all(model.is_ready for model in self.served())
        return self._has_started and are_there and are_ready and not self.admission.is_draining

    def index(self) -> list[State]:
        lines = []
        for name in self.names():
            entry = self._entries.get(name, _Entry())
            for version in entry.versions or [""]:
                lines.append(State(name, version, entry.state, entry.reason))
        return lines

    def language_models(self) -> dict[str, LanguageModel]:
        """By the names that chat protocols use: of the ensembles around an engine, and of engines in no ensemble."""
        engines = {model.name: model for model in self.served() if isinstance(model.backend, HanbitBackend)}
        found, inside = {}, set()
        for ensemble in self.served():
            for step in ensemble.config.ensemble_scheduling.step:
                if step.model_name in engines:
                    inside.add(step.model_name)
                    found[ensemble.name] = _language_model(ensemble, engines[step.model_name])
        found |= {name: _language_model(model, model) for name, model in engines.items() if name not in inside}
        return found

    def embedding_models(self) -> dict[str, EmbeddingModel]:
        return {
            model.name: EmbeddingModel(model.name, model.backend.service, model.created, (model.statistics,))
            for model in self.served()
            if isinstance(model.backend, EmbeddingBackend)
        }

    async def close(self) -> None:
        for work in list(self._works):
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        for entry in self._entries.values():
            former, entry.versions = entry.versions, {}
            await _close(former, 0)

    async def _going_on(self, work: Coroutine[Any, Any, None]) -> None:
        """What has begun comes to its end, even if the one who asked for it does not wait for that."""
        await asyncio.shield(self._in_background(work))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return task

    def _check_can_change(self) -> None:
        if not self.can_change:
            raise invalid("clients may not load and unload models here; start with --model-control-mode explicit")

    def _entry(self, name: str) -> _Entry:
        return self._entries.setdefault(name, _Entry())

    def _safe(self, name: str) -> tuple[Path, ...]:
        """A name from outside becomes a path only if it is a name."""
        return self.repositories if name in self.names() else ()

    def _has_ready(self, name: str) -> bool:
        entry = self._entries.get(name)
        return entry is not None and bool(entry.versions) and all(one.is_ready for one in entry.versions.values())

    async def _load(self, name: str, above: tuple[str, ...], override: Override | None = None) -> None:
        entry = self._entry(name)
        try:
            self._check_order(name, above, set())
        except RepositoryError as problem:
            raise self._failed(name, entry, problem) from None
        async with entry.lock:
            if above and entry.versions:  # another ensemble has brought it
                return
            entry.state, entry.reason = "LOADING", ""
            scratch = new_scratch() if override is not None and override.files else None
            try:
                model = self._read(name, override, scratch)
                await self._load_members(model.config, (*above, name))
                versions = await self._made(model, scratch)
            except Exception as problem:
                _clean(scratch)
                raise self._failed(name, entry, problem) from problem
            except BaseException as problem:  # the server is ending
                self._failed(
                    name, entry, RequestError("unavailable", f"the load was cut off: {type(problem).__name__}")
                )
                raise
            former, entry.versions = entry.versions, versions
            for version, one in former.items():
                one.successor = versions.get(version, next(reversed(versions.values())))
            entry.state = "READY"
        if former:
            self._in_background(_close(former, self._patience))

    def _failed(self, name: str, entry: _Entry, problem: Exception) -> RequestError:
        """What is served stays so."""
        entry.state = "READY" if entry.versions else "UNAVAILABLE"
        entry.reason = str(as_request_error(problem))
        return RequestError("invalid", f"model {name!r} cannot be loaded: {entry.reason}")

    def _check_order(self, name: str, above: tuple[str, ...], seen: set[str]) -> None:
        """Before a lock is held: two ensembles that are parts of each other would wait for one another."""
        if name in above:
            raise RepositoryError(f"ensemble {name!r} is a part of itself: {' -> '.join([*above, name])}")
        if name in seen:
            return
        seen.add(name)
        try:
            steps = self._read(name).config.ensemble_scheduling.step
        except HanbitError:  # said where it is loaded
            return
        for step in steps:
            self._check_order(step.model_name, (*above, name), seen)

    def _read(self, name: str, override: Override | None = None, scratch: Scratch | None = None) -> RepositoryModel:
        for repository in self.repositories:
            if (repository / name).is_dir():
                if override is not None:
                    return override.applied(name, repository / name, Path(scratch.name if scratch else ""))
                return read_model(repository, name, self._completes)
        raise RepositoryError(f"no repository has a model {name!r:.80}")

    async def _load_members(self, config: ModelConfig, above: tuple[str, ...]) -> None:
        for step in config.ensemble_scheduling.step:
            if step.model_name not in self.names():
                raise RepositoryError(f"ensemble {config.name!r} needs {step.model_name!r:.80}, which is not there")
            if not self._entry(step.model_name).versions:
                await self._load(step.model_name, above)

    async def _made(self, model: RepositoryModel, scratch: Scratch | None) -> dict[str, ServedModel]:
        versions = tuple(str(version) for version in model.versions)
        labels = read_labels(model.config, model.folder)
        made: dict[str, ServedModel] = {}
        try:
            for version in versions:
                loaded = await self._loaded(model, version)
                one = made[version] = ServedModel(
                    loaded.config, version, versions, loaded.backend, labels=labels, scratch=scratch
                )
                if can_cache(loaded.config) and self._cache is not None:
                    one.cache = ModelCache(self._cache, one.name, version, one.statistics)
                await warm_up(loaded.config, version, loaded.backend, model.folder)
        except BaseException:
            await _close(made, 0)
            raise
        return made

    async def _loaded(self, model: RepositoryModel, version: str) -> Loaded:
        if is_ensemble(model.config):
            return Loaded(model.config, Ensemble(model.config, self.find))
        around = Surroundings(self.engines, model.folder, version, self._server, self._completes)
        return await load_backend(model.config, around)

    async def _change_by_model(self, name: str, is_load: bool, with_members: bool) -> None:
        await (self.load_by_client(name) if is_load else self.unload_by_client(name, with_members))


def _language_model(asked: ServedModel, engine: ServedModel) -> LanguageModel:
    assert isinstance(engine.backend, HanbitBackend)
    statistics = (asked.statistics,) if asked is engine else (asked.statistics, engine.statistics)
    return LanguageModel(asked.name, engine.backend.service, engine.backend.adapter, asked.created, statistics)


async def _close(versions: dict[str, ServedModel], patience_seconds: float) -> None:
    """Requests that have begun are waited for, so long; cancelled, it closes without waiting."""
    try:
        await asyncio.gather(*(model.until_idle(patience_seconds) for model in versions.values()))
    finally:
        for model in versions.values():
            try:
                await asyncio.to_thread(model.backend.close)
            except HanbitError as problem:
                log.warning("model %s did not close: %s", model.name, problem)
            _clean(model.scratch)


def _clean(scratch: Scratch | None) -> None:
    """Of one load; all its versions know it."""
    if scratch is not None:
        scratch.cleanup()
