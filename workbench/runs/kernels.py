"""Kernels for batch runs: this interpreter, private local sockets, nothing left on disk.

A registered kernel specification may point at any interpreter (or at none), so Python notebooks always run on the
interpreter that runs the workbench. The transport is Unix sockets in a folder of mode 0700: ipykernel warns, rightly,
that its TCP ports are open to every user of the machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

__all__ = ("NotebookKernelManager", "RuntimeFolder", "speaks_python")

_LONGEST_BASE = 64  # a Unix socket path holds 107 bytes; folder, file and port take about 30
_ABANDONED_AFTER = 3600.0  # seconds; a folder without a lock file is being made, or its maker died making it


class RuntimeFolder:
    """A short-lived private folder for one kernel's connection file and sockets.

    Held by a file lock, so that the next start can tell folders of processes that were killed and remove them.
    """

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        if len(str(base)) > _LONGEST_BASE:
            base = Path("/tmp")
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix="wb-kernel-", dir=base))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete the folder; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _sweep(base: Path) -> None:
    """Remove the folders of processes of this user that were killed."""
    for folder in base.glob("wb-kernel-*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
        except FileNotFoundError:
            try:
                if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(folder, ignore_errors=True)
            except OSError:
                pass
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def speaks_python(nb: Any) -> bool:
    """Whether a notebook is written in Python (also when it does not say)."""
    metadata = nb.metadata
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    return str(language or "python").lower() == "python"


class NotebookKernelManager(AsyncKernelManager):
    """A kernel on this interpreter (``python_kernel=True``) or on a registered specification."""

    def __init__(self, *, python_kernel: bool = True, kernel_name: str = "python3") -> None:
        self._folder = RuntimeFolder()
        self._python_kernel = python_kernel
        super().__init__(
            kernel_name="python3" if python_kernel else kernel_name,
            transport="ipc",
            ip=str(self._folder.path / "k"),
            connection_file=str(self._folder.path / "k.json"),
        )

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """How the kernel is launched."""
        if not self._python_kernel:
            return super().kernel_spec
        return KernelSpec(
            argv=[sys.executable, "-m", "workbench.runs.kernel", "-f", "{connection_file}"],
            display_name="Python 3 (workbench)",
            language="python",
            interrupt_mode="signal",
        )

    @property
    def process_group(self) -> int:
        """Process group of the kernel and of what its cells started; 0 before the start."""
        return int(getattr(self.provisioner, "pgid", None) or 0)

    def remove_runtime_folder(self) -> None:
        """Delete sockets and connection file."""
        self._folder.remove()
