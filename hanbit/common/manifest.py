"""`hanbit.json`: what a folder is, and the SHA-256 of every file that must be in it.

Every stage writes one last, so that a folder with a manifest that matches is whole. Readers call `verify`
before they believe a byte. The manifest itself is data: it is parsed as JSON and never names code.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_json
from hanbit.common.errors import HanbitError

NAME = "hanbit.json"
FORMAT_VERSION = 1


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, kind: str, files: list[str], **facts: Any) -> None:
    """Write `folder/hanbit.json` over `files` (paths relative to `folder`). `facts` must be JSON values."""
    write_manifest_with(folder, kind, files, {}, facts)


def write_manifest_with(
    folder: Path, kind: str, files: list[str], digests: Mapping[str, str], facts: dict[str, Any]
) -> None:
    """`digests`: file -> SHA-256, of those that were hashed while they were written."""
    entries = {}
    for name in sorted(files):
        path = folder / name
        entries[name] = {"bytes": path.stat().st_size, "sha256": digests.get(name) or sha256_of(path)}
    write_json(folder / NAME, {"kind": kind, "format_version": FORMAT_VERSION, **facts, "files": entries})


def renew_manifest(folder: Path, kind: str, error: type[HanbitError]) -> None:
    """After files of a whole folder were meant to change: the same list and facts, with what the files hold now."""
    manifest = read_manifest(folder, kind, error)
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "format_version", "files")}
    write_manifest(folder, kind, list(manifest["files"]), **facts)


def read_manifest(folder: Path, kind: str, error: type[HanbitError]) -> dict[str, Any]:
    """The manifest of `folder`, checked for kind and version; raises `error` with the way out."""
    path = folder / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{folder} has no {NAME}: it is not a {kind} made by hanbit, or it was never finished") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path} is damaged ({problem}). Make the {kind} again or restore it from a copy") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind or not isinstance(manifest.get("files"), dict):
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise error(f"{path} describes a {found!r}, expected a {kind!r}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise error(
            f"{path} has format_version {manifest.get('format_version')}, this hanbit reads {FORMAT_VERSION}. "
            "Use the hanbit version that wrote it"
        )
    return manifest


def verify(folder: Path, manifest: dict[str, Any], error: type[HanbitError], content: bool = True) -> None:
    """Compare the folder's files with its manifest: existence and size always, SHA-256 if `content`."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise error(f"{folder / NAME} names a file outside its folder: {name!r}")
        if not path.is_file():
            raise error(f"{path} is missing, though {folder / NAME} lists it")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise error(f"{path} has {size} bytes, {NAME} says {entry['bytes']}: it is truncated or was changed")
        if content and sha256_of(path) != entry["sha256"]:
            raise error(f"{path} does not have the SHA-256 that {NAME} lists: its content was changed or damaged")
