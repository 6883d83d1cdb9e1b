"""Compiles the kernels when the package is built, and says for which platform; all else is in pyproject.toml.

Two variables of the environment replace the compiler, for wheels of other platforms (release/wheels.py):
STREAMWARD_KERNELS, a compiled library, and STREAMWARD_PLATFORM, the platform of the wheel's tag.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # builds in isolation do not look here

from build_kernels import SOURCES, KernelBuildError, compile_kernels, find_compiler, library_name

COMPILED = os.environ.get("STREAMWARD_KERNELS")


class BuildKernels(build_ext):
    """Builds a library that ctypes loads: no module of Python, and named without a version of it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's file, below the folder of packages."""
        name = Path(COMPILED).name if COMPILED else library_name(sys.platform)
        return str(Path(*fullname.split(".")[:-1], name))

    def build_extension(self, extension: Extension) -> None:
        """Compile the kernels, or fail with one sentence."""
        target = Path(self.get_ext_fullpath(extension.name))
        if COMPILED:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(COMPILED, target)
            return
        try:
            compile_kernels(target, compiler=find_compiler())
        except KernelBuildError as error:
            sys.exit(f"error: {error}")


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3 of a platform: the kernels are loaded with ctypes and need no headers of it."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return `py3`, `none` and the platform."""
        return "py3", "none", os.environ.get("STREAMWARD_PLATFORM") or super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
    ext_modules=[
        Extension(
            "streamward.kernels._kernels", sources=[], depends=[str(path) for path in sorted(SOURCES.glob("*.[ch]"))]
        ),
    ],
)
