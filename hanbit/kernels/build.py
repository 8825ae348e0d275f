"""Compile the kernels: `python -m hanbit.kernels.build`, and setup.py at install. Standard library only.

Some sources are compiled once for each instruction set; which one is used is decided when the library is loaded, so
that a wheel runs on any processor of its family.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "native"
LIBRARY = SOURCES.with_name("native.so")

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-ffp-contract=fast",  # multiply and add as one instruction, where there is one
    "-Wall",
    "-Wextra",
)
_UNFINISHED = "native.so-"  # temporary folders beside the library
_BY_SET = ("kernels.cpp", "blocks.cpp", "attention.cpp")
_SETS = {"baseline": ()}  # namespace: flags; NEON is part of every 64-bit ARM
_SETS_OF_ARM: dict[str, tuple[str, ...]] = {"neondot": ("-march=armv8.2-a+dotprod",)}
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_SETS_OF_X86: dict[str, tuple[str, ...]] = {
    "avx2": _AVX2,
    "avx512": (*_AVX2, "-mavx512f"),
    "avx512vnni": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
}


class BuildError(Exception):
    """No compiler, one that refused, or no place for what it makes; the message says which."""


def digest() -> str:
    """SHA-256 of the sources and of how they are compiled: a library of others is not used."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def compiler() -> list[str] | None:
    """The command of the C++ compiler: $CXX, or the first that is found. Raises BuildError if $CXX is no command."""
    if named := os.environ.get("CXX", "").strip():
        try:
            return shlex.split(named)
        except ValueError as problem:
            raise BuildError(f"CXX={named} is no command ({problem}). Give a compiler, such as g++") from None
    return next(([found] for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)


def build(library: Path = LIBRARY) -> None:
    """Compile all and replace `library` at once: a process that has the old one loaded keeps it. Raises BuildError."""
    command = compiler()
    if command is None:
        raise BuildError("there is no C++ compiler (Debian: apt install g++)")
    try:
        with (
            _alone(library.parent),
            tempfile.TemporaryDirectory(dir=library.parent, prefix=_UNFINISHED) as folder,
        ):
            _compile(command, Path(folder)).replace(library)
    except OSError as problem:
        raise BuildError(f"{library} cannot be written: {problem.strerror}. Build as its owner, with room") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time, so that what an earlier one has left there, killed, can be told and removed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders: the remains stay
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _compile(command: list[str], folder: Path) -> Path:
    """The library, in `folder`."""
    parts, made = _parts(command, folder), folder / LIBRARY.name
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda part: _run([*command, *_FLAGS, *part]), parts))
    _run([*command, "-shared", "-pthread", "-o", str(made), *map(str, sorted(folder.glob("*.o")))])
    if not made.exists():
        raise BuildError(f"{shlex.join(command)} ended well and made nothing. CXX names the compiler")
    return made


def _target(command: list[str]) -> str:
    """The processor that this compiler makes code for, which need not be the one it runs on."""
    done = _ended([*command, "-dumpmachine"])
    said = "" if done.returncode else done.stdout.partition("-")[0].strip()
    return (said or platform.machine()).lower()


def _sets_of(target: str) -> dict[str, tuple[str, ...]]:
    if target in ("x86_64", "amd64"):
        return _SETS_OF_X86
    return _SETS_OF_ARM if target in ("aarch64", "arm64") else {}


def _parts(command: list[str], folder: Path) -> list[list[str]]:
    """What to tell the compiler of every object file."""
    parts = [
        ["-c", str(path), "-o", str(folder / f"{path.stem}.o"), f'-DHANBIT_SOURCES="{digest()}"']
        for path in sorted(SOURCES.glob("*.cpp"))
        if path.name not in _BY_SET
    ]
    for name, flags in {**_SETS, **_sets_of(_target(command))}.items():
        for source in _BY_SET:
            output = str(folder / f"{Path(source).stem}_{name}.o")
            parts.append(["-c", str(SOURCES / source), "-o", output, f"-DHANBIT_SET=set_{name}", *flags])
    return parts


def _ended(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        raise BuildError(f"{command[0]} cannot be run: {problem.strerror}. CXX names the compiler") from None


def _run(command: list[str]) -> None:
    done = _ended(command)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    if done.stderr:
        sys.stderr.write(done.stderr)


if __name__ == "__main__":
    try:
        build()
    except BuildError as problem:
        sys.exit(f"error: {problem}")
