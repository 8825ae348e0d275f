"""The part of the install that pyproject.toml cannot say: compile the native kernels, where there is a compiler.

Without one, or where it refuses, the install succeeds and PyTorch computes (docs/kernels.md).
"""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# By its path: the package needs torch, which an isolated build does not have
KERNELS = runpy.run_path(str(Path(__file__).parent / "hanbit" / "kernels" / "build.py"))


class BuildKernels(build_ext):
    """A plain shared library in place of a Python extension."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_name(KERNELS["LIBRARY"].name))

    def build_extension(self, extension: Extension) -> None:
        library = Path(self.get_ext_fullpath(extension.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        try:
            KERNELS["build"](library)
        except KERNELS["BuildError"] as problem:
            sys.stderr.write(f"the native kernels are left out, PyTorch computes instead: {problem}\n")


setup(
    ext_modules=[Extension("hanbit.kernels.native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels},
)
