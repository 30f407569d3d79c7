"""Cells on a real kernel, one after the other, as nbclient (and so papermill and nbconvert) runs them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from workbench.runs.kernels import NotebookKernelManager

__all__ = ("LiveKernel", "after")


class LiveKernel:
    """A kernel and the notebook that grows with every cell; use as a context manager."""

    def __init__(self, folder: Path, session: str = "") -> None:
        self.nb = nbformat.v4.new_notebook()
        self._manager = NotebookKernelManager()
        self._client = NotebookClient(
            self.nb, km=self._manager, timeout=60, resources={"metadata": {"path": str(folder)}}
        )
        variables = dict(os.environ)
        for name in ("JPY_SESSION_NAME", "WORKBENCH_OUTPUT"):
            variables.pop(name, None)
        if session:  # Jupyter Server names the session of a kernel that somebody looks at
            variables["JPY_SESSION_NAME"] = session
        self._variables = variables

    def __enter__(self) -> LiveKernel:
        self._context = self._client.setup_kernel(env=self._variables)
        self._context.__enter__()
        self.pid = int(self.value("import os; os.getpid()"))
        self.cell("%load_ext workbench\nimport workbench as wb, time, threading")
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.__exit__(*exception)
        self._manager.remove_runtime_folder()

    def cell(self, source: str, error: bool = False) -> list[Any]:
        """Run one cell; its outputs. `error` says whether it must fail."""
        cell = nbformat.v4.new_code_cell(source)
        self.nb.cells.append(cell)
        failed = False
        try:
            self._client.execute_cell(cell, len(self.nb.cells) - 1)
        except CellExecutionError as raised:
            failed = True
            assert error, str(raised)
        assert failed == error, f"the cell should have failed: {source}"
        return cell.outputs

    def value(self, source: str) -> str:
        """Plain text of the value of a cell's last expression."""
        results = [one for one in self.cell(source) if one.output_type == "execute_result"]
        return str(results[-1].data["text/plain"])

    @property
    def connection_file(self) -> str:
        """For another client of the same kernel."""
        return str(self._manager.connection_file)

    def interrupt(self) -> None:
        """As the notebook's own Interrupt does: the kernel and what it started get SIGINT."""
        group = os.getpgid(self.pid)
        assert group != os.getpgrp()
        os.killpg(group, signal.SIGINT)


def after(path: Path, action: Callable[[], Any]) -> threading.Thread:
    """Do something once a cell has made a file: the cell is then certainly running."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not path.exists():
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
