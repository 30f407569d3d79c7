"""The papermill engine ``workbench``: cell statuses that are true however a notebook ends.

papermill marks a cell ``completed`` after its kernel was killed or its time ran out, and every cell that never ran
as well. With ``papermill --engine workbench in.ipynb out.ipynb`` (or ``engine_name="workbench"``) each cell of the
saved notebook is ``completed``, ``failed`` or ``skipped``, the notebook's own ``exception`` is set unless every cell
completed, the failing cell shows why as an error output, and no kernel and none of the processes that its cells
started in its process group stay behind.

This module imports nothing of papermill: papermill imports it, while papermill itself is still being imported.
"""

from __future__ import annotations

from typing import Any

from workbench.runs.progress import ProgressCallback

__all__ = ("WorkbenchEngine",)


class WorkbenchEngine:
    """A papermill engine (papermill asks for these three class methods, not for a base class).

    On SIGINT or SIGTERM in the main thread the running cell is interrupted and given `grace` seconds to end, the
    rest is marked ``skipped``, the notebook is saved, the kernel is shut down, and then KeyboardInterrupt or
    SystemExit(143) is raised. A second signal kills the kernel at once. It also works where an event loop already
    runs, as in a notebook.
    """

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str | None,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        *,
        progress: ProgressCallback | None = None,
        execution_timeout: float | None = None,
        start_timeout: float = 60,
        grace: float = 5.0,
        **options: Any,
    ) -> Any:
        """Execute a notebook in place, saving it to `output_path` after every cell.

        Parameters
        ----------
        nb : nbformat.NotebookNode
            The notebook; outputs and statuses (``cell.metadata.papermill.status``) are written into it.
        kernel_name : str | None
            Used for notebooks of other languages; Python runs on this interpreter.
        output_path : str | None
            Where to save; None does not save.
        progress_bar : bool | dict
            papermill's own bar; replaced by one line of text per cell where standard error is not a terminal.
        log_output, autosave_cell_every
            As papermill.
        progress : callable, optional
            Called with a `CellProgress` when a cell starts and ends; no bar is shown then.
        execution_timeout : float | None
            Seconds each cell may run; then it is interrupted, and killed after `grace` more.
        start_timeout : float
            Seconds the kernel may take to start.
        grace : float
            Seconds an interrupted cell gets to end by itself (to detach probes and keep its data).

        Raises
        ------
        nbclient.exceptions.DeadKernelError
            The kernel died.
        nbclient.exceptions.CellTimeoutError
            A cell ran longer than `execution_timeout`.
        KeyboardInterrupt, SystemExit
            SIGINT, SIGTERM.
        """
        from workbench.runs.execution import execute

        return execute(
            nb,
            kernel_name,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
            progress=progress,
            execution_timeout=execution_timeout,
            start_timeout=start_timeout,
            grace=grace,
            **options,
        )

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Kernel name of a notebook; ``python3`` for one that does not say."""
        return str(name or nb.metadata.get("kernelspec", {}).get("name") or "python3")

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Language of a notebook; ``python`` for one that does not say."""
        metadata = nb.metadata
        return str(
            language
            or metadata.get("kernelspec", {}).get("language")
            or metadata.get("language_info", {}).get("name")
            or "python"
        )
