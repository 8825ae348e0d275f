"""The kernels of every instruction set that this processor has, built for the session where they are not yet."""

import platform
from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.kernels.build import LIBRARY, build, compiler
from hanbit.kernels.library import Native, load, why_not


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not why_not.__wrapped__():  # not kept: another library is asked for in this process
        return LIBRARY
    if compiler() is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("kernels") / "native.so"
    build(path)
    return path


SETS = (
    ["portable", "avx2", "avx512", "avx512vnni"]
    if platform.machine().lower() in ("x86_64", "amd64")
    else ["portable", "neon"]
)


@pytest.fixture(scope="session", params=SETS)
def kernels(request: pytest.FixtureRequest, library: Path) -> Native:
    try:
        return load(library, request.param)
    except ConfigError:
        pytest.skip(f"no {request.param} here")
