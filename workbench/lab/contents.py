"""What a guest's root file system is made of: files of this machine by their place in the guest.

The guest runs this machine's Python with the packages that the workbench records with, and the programs that
experiments observe. Plotting and notebooks stay on the host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

from workbench.lab.libraries import closure, is_elf, named

__all__ = ("PACKAGES", "PROGRAMS", "SITE", "contents", "libraries", "listing", "project")

_DISTRIBUTIONS = (
    "numpy",
    "pandas",
    "pyarrow",
    "PyYAML",
    "capstone",
    "pyelftools",
    "llvmlite",
    "iced-x86",
)
_LIBRARIES = ("libbpf.so.1", "libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2")

PROGRAMS = {
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "redis-benchmark": "redis-tools",
    "memcached": "memcached",
    "nginx": "nginx",
    "ab": "apache2-utils",
    "sqlite3": "sqlite3",
    "bash": "bash",
}
"""Programs of the image, and the Debian package of each."""

PACKAGES = tuple(dict.fromkeys(PROGRAMS.values()))
"""Debian packages that the image takes from this machine, or else from the archive."""

_NO_STDLIB = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages",
}  # fmt: skip
_NO_PACKAGE = {"tests", "include", "testing_data"}
_NO_SUFFIX = {".pyx", ".pxd", ".h", ".hpp", ".a", ".c", ".cpp", ".pyi"}
_NO_FOLDER = (
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
)
SITE = "opt/site-packages"
"""Folder of Python packages in the guest."""


def contents(extracted: Path | None = None) -> dict[str, Path]:
    """Files and links of the root file system.

    Parameters
    ----------
    extracted : Path, optional
        A tree of Debian packages that this machine has not installed.

    Returns
    -------
    dict of str to Path
        By path in the guest, relative to its root and with ``/usr`` merged.
    """
    found: dict[str, Path] = {}
    for source in _standard_library():
        found[_merged(source)] = source
    for place, source in _site_packages():
        found[f"{SITE}/{place}"] = source
    if extracted:
        for source in _below(extracted):
            place = _merged(Path("/") / source.relative_to(extracted))
            if not place.startswith(_NO_FOLDER):
                found[place] = source
    for name, package in PROGRAMS.items():
        if path := shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin"):
            found.setdefault(_merged(Path(path)), Path(path))
            for source in _owned(package):
                found.setdefault(_merged(source), source)
    interpreter = Path(sys.executable).resolve()
    found[_merged(interpreter)] = interpreter
    return found


def libraries(found: dict[str, Path], extracted: Path | None = None) -> dict[str, Path]:
    """Shared libraries that the files of `contents` need and do not bring; by path in the guest, as there."""
    folders = _library_folders(extracted) if extracted else []
    brought = {path.resolve() for path in found.values()}
    listed = set(named(*_LIBRARIES))
    own = [path for path in found.values() if path.is_file() and not path.is_symlink()]
    return {
        _merged(library): library.resolve()
        for library in sorted(closure([*own, *listed], folders) | listed)
        if library.resolve() not in brought
    }


def project() -> Path:
    """The folder of the package `workbench` that is running."""
    return Path(__file__).resolve().parents[1]


def _merged(path: Path) -> str:
    """The path in a root with merged /usr, without the leading slash: /bin/x and /usr/bin/x are one."""
    text = os.path.normpath(str(path)).lstrip("/")
    if text.split("/", 1)[0] in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        return f"usr/{text}"
    return text


def _below(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        for name in (*files, *(one for one in folders if (Path(base) / one).is_symlink())):
            yield Path(base) / name


def _standard_library() -> Iterator[Path]:
    for name in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        top = Path(name)
        for base, folders, files in os.walk(top):
            if Path(base) == top:
                folders[:] = [
                    one
                    for one in folders
                    if one not in _NO_STDLIB and not one.startswith("config-")
                ]
            folders[:] = [one for one in folders if one not in ("test", "tests", "idle_test")]
            for file in files:
                if (
                    ".opt-" not in file
                    and not file.endswith(".a")
                    and not file.startswith("_tkinter")
                ):
                    yield Path(base) / file


def _site_packages() -> Iterator[tuple[str, Path]]:
    """Place below the folder of packages and source, for every distribution that recording needs."""
    for distribution in _distributions():
        for file in distribution.files or ():
            path = PurePosixPath(str(file))
            if (
                path.is_absolute()
                or ".." in path.parts
                or _NO_PACKAGE & set(path.parts)
                or path.suffix in _NO_SUFFIX
            ):
                continue
            source = Path(str(distribution.locate_file(file)))
            if source.is_file():
                yield str(path), source


def _distributions() -> list[metadata.Distribution]:
    """`_DISTRIBUTIONS` and what they need; those that are not installed are left out."""
    waiting, found = list(_DISTRIBUTIONS), dict[str, metadata.Distribution]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        needed = [one for one in found[name].requires or () if "extra ==" not in one]
        waiting += [match[0] for one in needed if (match := re.match(r"[A-Za-z0-9._-]+", one))]
    return list(found.values())


def _owned(package: str) -> Iterator[Path]:
    """Files of an installed Debian package that this user can read, without its documentation."""
    if not shutil.which("dpkg-query"):
        return
    run = subprocess.run(
        ["dpkg-query", "-L", package],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in run.stdout.splitlines():
        path = Path(line)
        if _merged(path).startswith(_NO_FOLDER) or not path.is_absolute():
            continue
        if path.is_file() and os.access(
            path, os.R_OK
        ):  # folders, and links to them such as /lib, are made anyway
            yield path


def _library_folders(tree: Path) -> list[Path]:
    """Folders of a tree that hold shared libraries."""
    return sorted({path.parent for path in _below(tree) if ".so" in path.name and is_elf(path)})


def listing(files: Iterable[tuple[str, Path]]) -> Iterator[str]:
    """A line per file: place, size, time of change; what the cache is keyed by."""
    for place, source in files:
        about = source.lstat()
        yield f"{place}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_mode:o}\n"
