"""What Triton calls its back ends: the older word `platform`, and the file that each looks for in a version."""

from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError


@dataclass(frozen=True)
class KnownBackend:
    """`files`: of the first that is there, the name is the model's file."""

    backend: str
    platform: str
    files: tuple[str, ...]


KNOWN = (
    KnownBackend("onnxruntime", "onnxruntime_onnx", ("model.onnx",)),
    KnownBackend("pytorch", "pytorch_libtorch", ("model.pt", "model.pt2")),
    KnownBackend("tensorrt", "tensorrt_plan", ("model.plan",)),
    KnownBackend("python", "", ("model.py",)),
)
_ELSEWHERE = ("ensemble",)


def same_in_triton(config: ModelConfig, source: str) -> None:
    """`backend` from `platform` and the other way round, as both words are read. Raises RepositoryError."""
    for known in KNOWN:
        if known.platform and config.platform == known.platform:
            if config.backend not in ("", known.backend):
                raise RepositoryError(
                    f"{source}: platform {config.platform!r} is backend {known.backend!r}, not {config.backend!r:.40}"
                )
            config.backend = known.backend
        elif config.backend == known.backend and not config.platform:
            config.platform = known.platform
    if config.platform and not config.backend and config.platform not in _ELSEWHERE:
        platforms = [known.platform for known in KNOWN if known.platform]
        raise RepositoryError(
            f"{source}: there is no platform {config.platform!r:.80}; there are {', '.join([*platforms, *_ELSEWHERE])}"
        )


def fill_names(config: ModelConfig, folder: Path) -> bool:
    """The backend, its platform and its file's name, where they are left out, by the files of the model's versions.
    Whether the backend is known then."""
    known = next((one for one in KNOWN if one.backend == config.backend), None)
    if known is None and not config.backend:
        known = _by_files(config.default_model_filename, folder)
    if known is None:
        return bool(config.backend)
    config.backend, config.platform = known.backend, known.platform or config.platform
    if not config.default_model_filename:
        there = [file for file in known.files if _has(folder, file)]
        config.default_model_filename = (there or known.files)[0]
    return True


def usual_file(config: ModelConfig) -> str:
    """The one that is meant where config.pbtxt names none."""
    known = next(one for one in KNOWN if one.backend == config.backend)
    return config.default_model_filename or known.files[0]


def _by_files(named: str, folder: Path) -> KnownBackend | None:
    for known in KNOWN:
        endings = {Path(file).suffix for file in known.files}
        files = known.files if not named else (named,) if Path(named).suffix in endings else ()
        if any(_has(folder, file) for file in files):
            return known
    return None


def _has(folder: Path, file: str) -> bool:
    return "/" not in file and any((version / file).is_file() for version in folder.glob("[1-9]*"))
