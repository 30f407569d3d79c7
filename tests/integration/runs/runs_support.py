"""Real notebooks on real kernels; what a test must not wait for by sleeping, it waits for through a FIFO or a pidfd."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

NotebookMaker = Callable[..., Path]


def notebook_maker(folder: Path) -> NotebookMaker:
    """A function that writes a notebook of code cells; `parameters` becomes its tagged first cell."""

    def make(*cells: str, name: str = "question", parameters: str | None = None) -> Path:
        nb = nbformat.v4.new_notebook()
        if parameters is not None:
            cell = nbformat.v4.new_code_cell(parameters)
            cell.metadata["tags"] = ["parameters"]
            nb.cells.append(cell)
        nb.cells.extend(nbformat.v4.new_code_cell(source) for source in cells)
        path = folder / f"{name}.ipynb"
        nbformat.write(nb, path)
        return path

    return make


class Announcement:
    """A cell announces its kernel's pid through a FIFO, then blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    @property
    def line(self) -> str:
        """A statement that announces: for the place from which on a signal must find the cell ready."""
        return f"__import__('pathlib').Path({str(self.path)!r}).write_text(str(__import__('os').getpid()))"

    def cell(self, then: str) -> str:
        """Source of a cell that announces itself and goes on with `then`."""
        return f"{self.line}\n{then}"

    def cleaning_up(self, words: str) -> str:
        """Source of a cell that announces itself, sleeps, and when interrupted prints `words`."""
        return f"import time\ntry:\n    {self.line}\n    time.sleep(300)\nfinally: print({words})"

    def wait(self) -> int:
        """A pidfd of the announced kernel, readable once the kernel is dead."""
        return os.pidfd_open(int(self.path.read_text()))


def died(pidfd: int, timeout: float = 20.0) -> bool:
    """Whether the process ends within `timeout` seconds; closes the pidfd."""
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


def statuses(nb: Any) -> Sequence[str | None]:
    """Status of every cell that the notebook's author wrote."""
    return [
        cell.metadata.papermill["status"]
        for cell in nb.cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
