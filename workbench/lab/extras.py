"""Programs that some experiments bring into a guest and the image does without, from the archive when asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability
from workbench.lab.apt import Apt, suite_of_system
from workbench.lab.cache import Cache

__all__ = ("EXTRAS", "extra", "fetch")

EXTRAS = {"coz": ("coz-profiler", "libdwarf++0", "libelf++0")}
"""Debian packages of each; not what they depend on for other purposes, such as a viewer."""

_FOLDER = "extras"


def extra(name: str, cache: Cache | None = None) -> Path:
    """The tree of an extra that was fetched, to be copied into a guest.

    Raises
    ------
    BadSpec
        There is none of that name.
    MissingCapability
        It was not fetched.
    """
    _packages(name)
    folder = (cache or Cache()).top / _FOLDER / name
    if not folder.is_dir():
        raise MissingCapability(
            f"{name} is not prepared for guests",
            f"get it once: `workbench lab prepare --with {name}`",
        )
    return folder


def fetch(name: str, cache: Cache, say: Callable[[str], None]) -> Path:
    """Download and extract an extra, unless it is there.

    Raises
    ------
    BadSpec
        There is none of that name.
    MissingCapability
        The archive cannot be reached.
    RunFailed
        A package is damaged, or the disk is full.
    """
    packages = _packages(name)
    folder = cache.folder(_FOLDER) / name
    if folder.is_dir():
        return folder
    tree = cache.workspace("extra")
    try:
        apt = Apt.of_system(cache.folder("apt"))
        apt.update(say)
        apt.extract(packages, tree, say, suite_of_system())
        tree.chmod(0o755)
        tree.replace(folder)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return folder


def _packages(name: str) -> tuple[str, ...]:
    if name not in EXTRAS:
        raise BadSpec(f"there is no extra {name!r} for guests", f"there is: {', '.join(EXTRAS)}")
    return EXTRAS[name]
