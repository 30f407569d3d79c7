"""Kernel headers for bcc: those of the running kernel, else a distribution's, merged into one tree.

Debian splits its headers into a package for all architectures (``-common``) and one per flavour; bcc reads a single
tree. The merged tree is made of symbolic links in the user's cache, so it costs no space and no time.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import MissingCapability

__all__ = ("Headers", "find_headers", "merge")

_MODULES = Path("/lib/modules")
_SOURCES = Path("/usr/src")
_KHEADERS = Path("/sys/kernel/kheaders.tar.xz")


@dataclass(frozen=True, slots=True)
class Headers:
    """A tree that bcc can compile against.

    Parameters
    ----------
    release : str
        Kernel release that the headers describe.
    path : Path or None
        What BCC_KERNEL_SOURCE must name; None where bcc finds the running kernel's headers by itself.
    running : bool
        They describe the running kernel exactly, so struct offsets are right.
    """

    release: str
    path: Path | None
    running: bool


def find_headers(
    cache: Path,
    *,
    release: str = "",
    modules: Path = _MODULES,
    sources: Path = _SOURCES,
    kheaders: Path = _KHEADERS,
) -> Headers:
    """The best headers on this machine; a merged tree is made in `cache` when one is needed.

    Raises
    ------
    MissingCapability
        There are none.
    """
    release = release or os.uname().release
    if named := os.environ.get("BCC_KERNEL_SOURCE"):  # the user chose; we only judge
        described = _described(Path(named))
        return Headers(described or f"unknown ({named})", Path(named), described == release)
    if (modules / release / "build").is_dir() or kheaders.exists():
        return Headers(release, None, True)
    found = [path for path in sources.glob("linux-headers-*") if _described(path)]
    for folder in sorted(found, key=lambda path: _order(_described(path)), reverse=True):
        described = _described(folder)
        if (folder / "include/linux/kconfig.h").exists():
            return Headers(described, folder, described == release)
        if common := _common(folder):
            tree = merge(common, folder, cache / f"linux-headers-{described}")
            return Headers(described, tree, described == release)
    raise MissingCapability(
        "bcc needs kernel headers and none are installed",
        "Debian: apt-get install linux-headers-$(uname -r), or any linux-headers-cloud-* for programs that read no "
        "kernel struct",
    )


def _described(folder: Path) -> str:
    """The release that a flavour's headers are generated for; empty for other folders."""
    try:
        text = (folder / "include/generated/utsrelease.h").read_text()
    except OSError:
        return ""
    match = re.search(r'UTS_RELEASE "([^"]+)"', text)
    return match[1] if match else ""


def _order(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _common(flavour: Path) -> Path | None:
    name = flavour.name
    while "-" in name:
        name = name.rpartition("-")[0]
        if (common := flavour.with_name(f"{name}-common")).is_dir():
            return common
    return None


def merge(common: Path, flavour: Path, target: Path) -> Path:
    """A tree of links that shows `flavour` on top of `common`; made once, replaced when either moved or changed."""
    stamp = target / ".merged-from"
    key = "\n".join(f"{path} {path.stat().st_mtime_ns}" for path in (common, flavour))
    if stamp.is_file() and stamp.read_text() == key:
        return target
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _overlay([flavour, common], part)
        (part / ".merged-from").write_text(key)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _overlay(layers: list[Path], target: Path) -> None:
    """Link what one layer has; where several have a folder, make it and look inside."""
    target.mkdir(parents=True)
    names = {entry.name for layer in layers for entry in layer.iterdir()}
    for name in sorted(names):
        having = [layer / name for layer in layers if (layer / name).exists()]
        folders = [path for path in having if path.is_dir()]
        if len(folders) > 1 and folders[0] == having[0]:
            _overlay(folders, target / name)
        elif having:
            (target / name).symlink_to(having[0].resolve())
