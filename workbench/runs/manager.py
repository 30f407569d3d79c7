"""Truthful bookkeeping of a running notebook: statuses of cells, progress events, saves.

The part of the engine that needs papermill; imported only when a notebook is executed.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

import nbformat
from papermill.engines import NotebookExecutionManager

from workbench.runs.progress import CellProgress, ProgressCallback, line

__all__ = ("ExecutionManager",)


class ExecutionManager(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's manager, except that what it writes about a cell is what happened to the cell."""

    SKIPPED = "skipped"

    def __init__(
        self,
        nb: Any,
        *,
        output_path: str | None,
        log_output: bool,
        progress_bar: bool | dict[str, Any],
        autosave_cell_every: int,
        progress: ProgressCallback | None,
    ) -> None:
        if progress is None and progress_bar and not sys.stderr.isatty():
            progress = _print_line
        super().__init__(
            nb,
            output_path=output_path,
            log_output=log_output,
            progress_bar=progress_bar if progress is None else False,
            autosave_cell_every=autosave_cell_every,
        )
        self._progress = progress
        runs = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
        self._numbers = {index: number for number, index in enumerate(runs, start=1)}
        self._began = self._cell_began = monotonic()
        self._first_cell_began: float | None = None

    def cell_start(self, cell: Any, cell_index: int | None = None, **options: Any) -> None:
        """A cell is about to run."""
        super().cell_start(cell, cell_index, **options)
        self._cell_began = monotonic()
        if self._first_cell_began is None:
            self._first_cell_began = self._cell_began
        self._emit(cell, cell_index)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **options: Any) -> None:
        """A cell ended, well or not."""
        super().cell_complete(cell, cell_index, **options)
        self._emit(cell, cell_index)

    def cell_exception(self, cell: Any, cell_index: int | None = None, **options: Any) -> None:
        """A cell raised; ``sys.exit()`` without a status ends a notebook well and is no failure."""
        error = options.get("exception")
        if getattr(error, "ename", "") == "SystemExit" and getattr(error, "evalue", "") in ("", "0"):
            return
        super().cell_exception(cell, cell_index, **options)

    def cell_failed(self, cell: Any, cell_index: int, ename: str, evalue: str) -> None:
        """A cell failed without an error of its own making; say why where the reader of the notebook looks."""
        self.cell_exception(cell, cell_index=cell_index)
        if cell.cell_type == "code" and not any(out.output_type == "error" for out in cell.outputs):
            cell.outputs.append(
                nbformat.v4.new_output(  # type: ignore[no-untyped-call]
                    "error", ename=ename, evalue=evalue, traceback=[f"{ename}: {evalue}"]
                )
            )

    def notebook_failed(self, reason: str) -> None:
        """The notebook did not end well for a reason that is not one of its cells'."""
        self.nb.metadata.papermill["exception"] = True
        self.nb.metadata.papermill["reason"] = reason

    def notebook_complete(self, **options: Any) -> None:
        """Give every cell its final status and save."""
        for index, cell in enumerate(self.nb.cells):
            record = cell.metadata.papermill
            if record["status"] == self.PENDING:
                record["status"] = self.SKIPPED
                self._emit(cell, index, seconds=0.0)
            elif record["status"] == self.RUNNING:
                record["status"] = self.FAILED
                record["exception"] = True
                self.nb.metadata.papermill["exception"] = True
        if self.nb.metadata.papermill["exception"] is None:
            self.nb.metadata.papermill["exception"] = False
        super().notebook_complete(**options)

    def complete_pbar(self) -> None:
        """Leave the bar where the notebook ended; papermill fills it whatever happened."""

    def _emit(self, cell: Any, index: int | None, seconds: float | None = None) -> None:
        number = self._numbers.get(-1 if index is None else index)
        if self._progress is None or number is None:
            return
        now = monotonic()
        status = cell.metadata.papermill["status"]
        done = number - 1 if status == self.RUNNING else number
        total = len(self._numbers)
        left = None
        if done and status in (self.RUNNING, self.COMPLETED):
            left = (now - (self._first_cell_began or now)) / done * (total - done)
        self._progress(
            CellProgress(
                number=number,
                total=total,
                status=status,
                title=next((text.strip() for text in cell.source.splitlines() if text.strip()), "")[:80],
                seconds=now - self._cell_began if seconds is None else seconds,
                elapsed=now - self._began,
                left=left,
            )
        )


def _print_line(event: CellProgress) -> None:
    if event.status != "running":
        print(line(event), file=sys.stderr, flush=True)
