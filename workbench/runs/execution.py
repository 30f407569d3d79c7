"""Run the cells of a notebook on a kernel, and end both cleanly whatever happens.

One coroutine owns the kernel from start to end. Signals arrive as callbacks of its event loop, never as exceptions
inside it: the running cell is interrupted in the kernel, so that the notebook's own cleanup runs and its traceback
is saved, and only then does the caller get its KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.log import logger

from workbench.runs.kernels import NotebookKernelManager, speaks_python
from workbench.runs.manager import ExecutionManager
from workbench.runs.progress import ProgressCallback

__all__ = ("execute",)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def execute(
    nb: Any,
    kernel_name: str | None,
    *,
    output_path: str | None,
    progress_bar: bool | dict[str, Any],
    log_output: bool,
    autosave_cell_every: int,
    progress: ProgressCallback | None,
    execution_timeout: float | None,
    start_timeout: float,
    grace: float,
    stdout_file: Any = None,
    stderr_file: Any = None,
    **_: Any,
) -> Any:
    """Execute `nb` in place; see `WorkbenchEngine.execute_notebook`."""
    manager = ExecutionManager(
        nb,
        output_path=output_path,
        log_output=log_output,
        progress_bar=progress_bar,
        autosave_cell_every=autosave_cell_every,
        progress=progress,
    )
    manager.notebook_start()
    python = speaks_python(nb)
    client = _Client(
        manager,
        grace=grace,
        python_kernel=python,
        kernel_name=kernel_name or "python3",
        timeout=execution_timeout,
        startup_timeout=start_timeout,
        log=logger,
        log_output=log_output,
        stdout_file=stdout_file,
        stderr_file=stderr_file,
    )
    try:
        client.execute()
    except BaseException as error:
        manager.notebook_failed(_reason(error))
        raise
    finally:
        manager.cleanup_pbar()
        manager.notebook_complete()
    return manager.nb


def _reason(error: BaseException) -> str:
    if isinstance(error, DeadKernelError):
        return "the kernel died"
    if isinstance(error, CellTimeoutError):
        return "a cell ran out of time"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        return "terminated"
    return f"{type(error).__name__}: {error}"


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """nbclient with an owner for the kernel: starts it, interrupts it, ends it."""

    def __init__(self, nb_man: ExecutionManager, *, grace: float, python_kernel: bool, **options: Any) -> None:
        super().__init__(nb_man, **options)
        self._grace = grace
        self._python_kernel = python_kernel
        self._signal = 0  # the first signal that asked to stop
        self._ending = False
        self._timed_out = False
        self._cell_runs = False  # the kernel has begun with the current cell
        self._main: asyncio.Task[Any] | None = None
        self._cell: asyncio.Task[Any] | None = None
        self._interrupter: asyncio.Task[Any] | None = None

    # From here to `_drive`: in which thread and under whose signals the coroutine runs.

    def execute(self, **_: Any) -> Any:
        """Execute all cells; on return or exception the kernel is gone."""
        self.reset_execution_trackers()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if threading.current_thread() is threading.main_thread():
                self._run_under_signals()
            else:
                _run(self._drive())
        else:
            self._run_beside_loop()
        if self._signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if self._signal:
            raise KeyboardInterrupt
        return self.nb

    def _run_under_signals(self) -> None:
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        async def drive() -> None:
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.stop, number)
            try:
                await self._drive()
            finally:
                for number in _SIGNALS:
                    loop.remove_signal_handler(number)

        try:
            _run(drive())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_beside_loop(self) -> None:
        """A loop runs in this thread (Jupyter): use another one, and pass the user's interrupt on to it."""
        loops: Future[asyncio.AbstractEventLoop] = Future()
        result: Future[None] = Future()

        async def drive() -> None:
            loops.set_result(asyncio.get_running_loop())
            await self._drive()

        def work() -> None:
            try:
                _run(drive())
            except BaseException as error:
                result.set_exception(error)
            else:
                result.set_result(None)

        thread = threading.Thread(target=work, name="notebook")
        thread.start()
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                loops.result().call_soon_threadsafe(self.stop, signal.SIGINT)
        result.result()

    # From here on: inside the coroutine's loop.

    async def _drive(self) -> None:
        self._main = asyncio.current_task()
        km = self.km = NotebookKernelManager(python_kernel=self._python_kernel, kernel_name=self.kernel_name)
        try:
            if not self._signal:
                await self.async_start_new_kernel()
                await self.async_start_new_kernel_client()
                reply = await self.kc.kernel_info(reply=True, timeout=self.startup_timeout)
                self.nb.metadata["language_info"] = reply["content"]["language_info"]
                await self._run_cells()
                self.set_widgets_metadata()
        except asyncio.CancelledError:
            if not self._signal:
                raise
        finally:
            self._ending = True
            await self._end(km)

    async def _end(self, km: NotebookKernelManager) -> None:
        group = km.process_group
        try:
            self.km = km  # a failed start has forgotten it already
            await self._async_cleanup_kernel()
        finally:
            if group:
                # What the cells started and did not wait for is in the kernel's process group.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            km.remove_runtime_folder()

    async def _run_cells(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            if self._signal:
                return
            self._cell_runs = self._timed_out = False
            self.nb_man.cell_start(cell, index)
            self._cell = asyncio.ensure_future(self.async_execute_cell(cell, index))
            try:
                await self._cell
            except CellExecutionError as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                if self._timed_out:
                    raise self._timeout_error(cell) from None
                break
            except (DeadKernelError, asyncio.CancelledError):
                # nbclient turns the cancellation of a cell into a dead kernel: tell them apart.
                if self._signal:
                    name = signal.Signals(self._signal).name
                    self._fail(index, "KeyboardInterrupt", f"stopped by {name}, did not end within {self._grace} s")
                    return
                if self._timed_out:
                    self._fail(index, "TimeoutError", f"ran longer than {self.timeout} s and ignored the interrupt")
                    raise self._timeout_error(cell) from None
                self._fail(index, "DeadKernelError", "the kernel died while this cell ran")
                raise DeadKernelError(f"the kernel died in cell {index}") from None
            except BaseException as error:
                self._fail(index, type(error).__name__, str(error))
                raise
            finally:
                self._cell = None
                if self._interrupter is not None:
                    self._interrupter.cancel()
                    self._interrupter = None
                self.nb_man.cell_complete(cell, cell_index=index)

    def _fail(self, index: int, ename: str, evalue: str) -> None:
        self.nb_man.cell_failed(self.nb.cells[index], index, ename, evalue)

    def _timeout_error(self, cell: Any) -> CellTimeoutError:
        return CellTimeoutError.error_from_timeout_and_cell("Cell execution timed out", self.timeout, cell)

    def stop(self, number: int) -> None:
        """End the notebook: politely the first time, by killing the kernel the second."""
        if self._signal:
            self.shutdown_kernel = "immediate"
            if self.km is not None and self.km.process_group:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.km.process_group, signal.SIGKILL)
            return
        self._signal = number
        if self._cell is not None:
            self._interrupt_cell()
        elif self._main is not None and not self._ending:
            self._main.cancel()

    def _interrupt_cell(self) -> None:
        if self._interrupter is None and self._cell is not None:
            self._interrupter = asyncio.ensure_future(self._interrupt(self._cell))

    async def _interrupt(self, cell: asyncio.Task[Any]) -> None:
        """Interrupt a cell once, and give it up when it has not ended within the grace."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        # An idle kernel ignores interrupts: wait until it has begun with the cell.
        while not self._cell_runs and loop.time() < deadline:
            await asyncio.sleep(0.02)
        await self.km.interrupt_kernel()
        await asyncio.wait({cell}, timeout=max(0.0, deadline - loop.time()))
        self.shutdown_kernel = "immediate"  # it ignored an interrupt: asking again would only cost time
        cell.cancel()

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> None:
        self._timed_out = True
        self._interrupt_cell()

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """As nbclient; notes when the kernel begins with the cell."""
        if msg["msg_type"] == "execute_input":
            self._cell_runs = True
        return super().process_message(msg, cell, cell_index)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(coroutine)
