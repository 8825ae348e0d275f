"""The kernels of every instruction set that this processor has, built for the session where they are not yet; and those
of ARM, emulated."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.kernels.build import LIBRARY, build, compiler
from hanbit.kernels.library import Native, load, why_not
from tests.kernels.emulated import PROCESSORS, Emulated, build_for_arm


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not why_not.__wrapped__():  # not kept: another library is asked for in this process
        return LIBRARY
    if compiler() is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("kernels") / "native.so"
    build(path)
    return path


IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
SETS = ["portable", "avx2", "avx512", "avx512vnni"] if IS_X86 else ["neon", "neondot"]
EMULATED = [pytest.param(name, marks=pytest.mark.proof) for name in PROCESSORS] if IS_X86 else []


@pytest.fixture(scope="session")
def library_for_arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_for_arm(tmp_path_factory.mktemp("arm"))


@pytest.fixture(scope="session", params=[*SETS, *EMULATED])
def kernels(request: pytest.FixtureRequest) -> Iterator[Native]:
    name = request.param
    if name not in SETS:
        emulated = Emulated(request.getfixturevalue("library_for_arm"), PROCESSORS[name])
        yield emulated.native()
        emulated.close()
        return
    try:
        found = load(request.getfixturevalue("library"), name)
    except ConfigError:
        pytest.skip(f"no {name} here")
    yield found
