"""The lab's part of the user's cache folder: kernels, images, package lists.

kernels/RELEASE/   vmlinux, config, modules, BTF and kernel.json
images/            root-KEY.ext4, project-KEY.ext4, KEY.cpio
programs/          Debian packages that this machine has not installed, extracted
extras/            programs that some experiments bring along, extracted
apt/               package lists of the archive
work/              what is being made; emptied by the next that finds it without an owner
chosen.json        the kernel that a guest gets by default
accelerators.json  where KVM was tried, and what came of it
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import RunFailed
from workbench.objects.compile import cache_folder

__all__ = ("Cache",)


class Cache:
    """Folders, small facts and locks below ``<cache>/lab``."""

    def __init__(self, top: Path | None = None) -> None:
        self.top = top or cache_folder() / "lab"

    def folder(self, name: str) -> Path:
        """The folder `name`, made if it is missing."""
        path = self.top / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock `name`: one process makes a thing, others that want it wait and find it made."""
        path = self.folder(".") / f".{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def facts(self, name: str) -> dict[str, Any]:
        """The JSON object in file `name`; empty when there is none, or a damaged one."""
        try:
            found = json.loads((self.top / name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """Write the JSON object of file `name`, whole or not at all."""
        path = self.folder(".") / name
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(facts, indent=1))
        part.replace(path)

    def touch(self, path: Path) -> None:
        """Remember that `path` was used now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def keep_newest(self, folder: str, pattern: str, count: int) -> None:
        """Remove all but the `count` files that were used last, with their notes; a guest keeps what it has open."""
        files = sorted(
            self.folder(folder).glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True
        )
        for path in files[count:]:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)

    def workspace(self, name: str) -> Path:
        """A new folder of this process below `work`; those of processes that are gone are removed."""
        top = self.folder("work")
        for path in top.iterdir():
            owner = path.name.split("-")[1] if path.name.count("-") >= 2 else ""
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(path, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=top))

    def size(self, name: str = "") -> int:
        """Bytes on disk of everything below `name`."""
        total = 0
        for base, _, files in os.walk(self.top / name):
            for file in files:
                with contextlib.suppress(OSError):
                    total += (Path(base) / file).lstat().st_blocks * 512
        return total

    def remove(self, *names: str) -> int:
        """Remove these folders or files, or everything; bytes that were freed."""
        before = self.size()
        for path in [self.top / name for name in names] or [self.top]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            if path.exists():
                raise RunFailed(f"{path} could not be removed", "remove it by hand")
        return before - self.size()
