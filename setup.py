"""Compiles the kernels when the package is built; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # builds in isolation do not look here

from build_kernels import SOURCES, KernelBuildError, compile_kernels, find_compiler, library_name

KERNELS = "streamward.kernels._kernels"


class BuildKernels(build_ext):
    """Builds a library that ctypes loads: no module of Python, and named without a version of it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's file, below the folder of packages."""
        return str(Path(*fullname.split(".")[:-1], library_name(sys.platform)))

    def build_extension(self, extension: Extension) -> None:
        """Compile the kernels, or fail with one sentence."""
        try:
            compile_kernels(Path(self.get_ext_fullpath(extension.name)), compiler=find_compiler())
        except KernelBuildError as error:
            sys.exit(f"error: {error}")


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(KERNELS, sources=[], depends=[str(path) for path in sorted(SOURCES.glob("*.[ch]"))]),
    ],
)
