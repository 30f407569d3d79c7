"""Build of the wheel: the native core and the BPF objects are compiled into the package.

Everything else about the distribution is in pyproject.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))


class BuildWithBinaries(build_py):
    """Compile what is older than its sources, then let package-data pick the results up."""

    def run(self) -> None:
        if not self.editable_mode:
            from workbench.native.build import build as build_core
            from workbench.objects.build import build as build_objects

            build_core()
            build_objects()
        super().run()


class PlatformDistribution(Distribution):
    """Not pure Python, though no extension module is declared."""

    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """The core is reached through ctypes: tied to the platform, not to a Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithBinaries, "bdist_wheel": PlatformWheel},
)
