"""Disk images of a guest: its root file system, and the package `workbench` as it is now.

Two images, because they change at different rates: the root (Python, packages, programs; hundreds of megabytes) is made
when an installation changes, the project (a few megabytes) whenever a source file does. Both are ext4 without a
journal, made by ``mke2fs -d`` without privilege, and kept in the cache by a key of what is in them. A guest writes to a
copy that vanishes with it.
"""

from __future__ import annotations

import compileall
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workbench.errors import MissingCapability, RunFailed
from workbench.lab.cache import Cache
from workbench.lab.contents import SITE, contents, libraries, listing, project

__all__ = ("PROJECT", "make_ext4", "mke2fs", "project_image", "root_image")

PROJECT = "opt/workbench"
"""Where the package `workbench` is mounted in the guest."""

_RECIPE = "2"  # change it when the same files make another image
_FOLDERS = (
    "dev", "etc", "mnt", "opt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64",
    "var/lib", "var/log/nginx", "var/lib/nginx", "var/tmp", "var/cache", "out", PROJECT, SITE,
)  # fmt: skip
_LINKS = {
    "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "var/lock": "/run",
}  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/false\n"
    "redis:x:101:101::/tmp:/bin/false\nmemcache:x:102:102::/tmp:/bin/false\nnobody:x:65534:65534::/tmp:/bin/false\n",
    "etc/group": "root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:101:\nmemcache:x:102:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/hostname": "lab\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/os-release": 'ID=workbench-lab\nPRETTY_NAME="guest of the workbench"\n',
}
_UUID = "b7a35a1c-6e52-4f6e-9d5c-3a6f1c0e77aa"  # the same contents are the same file system

_UNIT = 16 << 20  # bytes; a memory module's size is a multiple of it

Say = Callable[[str], None]


def root_image(cache: Cache, busybox: Path, extracted: Path | None, say: Say) -> Path:
    """The root file system, made now unless the cache has it.

    Raises
    ------
    MissingCapability
        No mke2fs.
    RunFailed
        mke2fs fails, for example because the disk is full.
    """
    found = contents(extracted)
    key = _key(
        [_RECIPE, sys.executable, *listing(sorted(found.items())), *listing([("busybox", busybox)])]
    )
    with cache.locked("image"):
        image, notes = (
            cache.folder("images") / f"root-{key}.ext4",
            cache.folder("images") / f"root-{key}.json",
        )
        if image.exists() and _unchanged(notes):
            cache.touch(image)
            return image
        say(
            "making the image of the guest's root file system (once after each change of what is installed)"
        )
        linked = libraries(found, extracted)
        with _staging(cache) as staging:
            _place(staging, found | linked)
            _base(staging, busybox)
            make_ext4(staging, image)
        facts = {"libraries": {place: _fact(path) for place, path in linked.items()}}
        notes.write_text(json.dumps(facts, indent=1))
        cache.keep_newest("images", "root-*.ext4", 2)
        return image


def project_image(cache: Cache) -> Path:
    """The package `workbench` as it is on disk now; made in a fraction of a second when a file changed."""
    top = project()
    found = {
        f"workbench/{path.relative_to(top)}": path
        for path in sorted(top.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    key = _key([_RECIPE, str(top), *listing(sorted(found.items()))])
    with cache.locked("project"):
        image = cache.folder("images") / f"project-{key}.ext4"
        if not image.exists():
            for path in top.rglob("*.pyc"):
                found[f"workbench/{path.relative_to(top)}"] = path
            with _staging(cache) as staging:
                _place(staging, found)
                # Compiling is slow under an emulated processor; files that are up to date are left alone.
                compileall.compile_dir(staging, quiet=2, workers=1)
                make_ext4(staging, image)
            cache.keep_newest("images", "project-*.ext4", 3)
        cache.touch(image)
        return image


def make_ext4(tree: Path, image: Path, spare: int = 64 << 20) -> None:
    """Make an ext4 file system of the files in `tree`; `image` appears when it is whole.

    Parameters
    ----------
    tree : Path
        Becomes the root folder.
    image : Path
        A sparse file.
    spare : int
        Free bytes in it.
    """
    used = entries = 0
    for base, folders, files in os.walk(tree):
        entries += len(folders) + len(files)
        used += 4096 * len(folders)
        used += sum(((Path(base) / name).lstat().st_size + 8191) // 4096 * 4096 for name in files)
    size = (used + used // 16 + entries * 320 + spare) // 4096
    part = image.with_suffix(".part")
    command = [
        mke2fs(), "-q", "-F", "-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode", "-m", "0", "-b", "4096",
        "-N", str(entries + 4096), "-I", "256", "-U", _UUID,
        "-E", f"root_owner=0:0,hash_seed={_UUID},lazy_itable_init=1,nodiscard", "-d", str(tree), str(part), str(size),
    ]  # fmt: skip
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RunFailed(
                f"mke2fs could not make {image.name}: {(run.stderr.strip().splitlines() or ['no message'])[-1]}",
                f"is the disk of {image.parent} full? `workbench lab clean` frees what the lab keeps there",
            )
        os.truncate(part, -(-part.stat().st_size // _UNIT) * _UNIT)
        part.replace(image)
    finally:
        part.unlink(missing_ok=True)


def mke2fs() -> str:
    """The program that makes file systems.

    Raises
    ------
    MissingCapability
        It is not installed.
    """
    found = shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if not found:
        raise MissingCapability(
            "no program mke2fs on PATH, which makes a guest's disk",
            "Debian: apt-get install e2fsprogs",
        )
    return found


def _key(lines: list[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def _fact(path: Path) -> list[object]:
    about = path.stat()
    return [str(path), about.st_size, about.st_mtime_ns]


def _unchanged(notes: Path) -> bool:
    """Whether the machine's libraries are those that went into the image."""
    try:
        facts = json.loads(notes.read_text())["libraries"].values()
        return all(_fact(Path(one[0])) == one for one in facts)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _staging(cache: Cache) -> Iterator[Path]:
    folder = cache.workspace("staging")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(staging: Path, found: Mapping[str, Path]) -> None:
    """Put each file at its place: by a hard link where the file system and the rights allow one."""
    made: set[Path] = set()
    for place, source in found.items():
        target = staging / place
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if source.is_symlink():
            target.symlink_to(source.readlink())
            continue
        with contextlib.suppress(OSError):
            os.link(source, target)
            continue
        shutil.copy2(source, target)


def _base(staging: Path, busybox: Path) -> None:
    """Folders, links and small files that every system has; an applet of busybox for each tool that is missing."""
    for name in _FOLDERS:
        (staging / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        if not (staging / name).exists():
            (staging / name).symlink_to(target)
    for name, text in _FILES.items():
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).unlink(missing_ok=True)
        (staging / name).write_text(text)
    shutil.copy2(busybox, staging / "usr/bin/busybox")
    (staging / "usr/bin/busybox").chmod(0o755)
    listed = subprocess.run(
        [str(busybox), "--list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    for applet in listed.stdout.split():
        if not any(
            os.path.lexists(staging / folder / applet) for folder in ("usr/bin", "usr/sbin")
        ):
            (staging / "usr/bin" / applet).symlink_to("busybox")
    interpreter = Path(sys.executable).resolve()
    for name in ("python3", "python"):
        if not os.path.lexists(staging / "usr/bin" / name):
            (staging / "usr/bin" / name).symlink_to(interpreter)
    tool = staging / "usr/bin/workbench"
    tool.write_text('#!/bin/sh\nexec python3 -m workbench.cli "$@"\n')
    tool.chmod(0o755)
