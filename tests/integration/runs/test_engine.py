"""The papermill engine: statuses stay true however a notebook ends, and no kernel survives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from runs_support import Announcement, NotebookMaker, died, statuses

SLEEP = "import time; time.sleep(300)"
# keeps the interpreter lock, so that no Python thread runs, and is woken by no SIGINT
HOLD_INTERPRETER = (
    "import ctypes, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); ctypes.PyDLL(None).sleep(300)"
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_papermill_finds_the_engine_by_name(notebook: NotebookMaker, tmp_path: Path) -> None:
    events = []
    nb = papermill.execute_notebook(
        notebook("x = 6", "x * 7", parameters="y = 1"),
        tmp_path / "out.ipynb",
        {"y": 2},
        engine_name="workbench",
        kernel_name="python3",
        language="python",
        progress=events.append,
    )
    assert statuses(nb) == ["completed"] * 4
    assert nb.metadata.papermill["exception"] is False
    assert nb.cells[-1].outputs[0].data["text/plain"] == "42"
    assert [(e.number, e.total, e.status) for e in events] == [
        (number, 4, status) for number in (1, 2, 3, 4) for status in ("running", "completed")
    ]
    assert events[0].left is None and events[-1].left == 0.0


def test_kernel_is_this_interpreter_over_private_sockets(
    notebook: NotebookMaker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nb = papermill.execute_notebook(
        notebook(
            "import json, os, sys, ipykernel\n"
            "info = json.load(open(ipykernel.get_connection_file()))\n"
            "mode = oct(os.stat(os.path.dirname(info['ip'])).st_mode & 0o777)\n"
            "print(json.dumps([sys.executable, info['transport'], mode, info['ip']]))"
        ),
        tmp_path / "out.ipynb",
        engine_name="workbench",
    )
    executable, transport, mode, address = json.loads(nb.cells[0].outputs[0].text)
    assert (executable, transport, mode) == (sys.executable, "ipc", "0o700")
    assert not Path(address).parent.exists(), "sockets were left behind"
    printed = capfd.readouterr()
    assert "encryption" not in printed.out + printed.err
    assert "cell 1/1 completed" in printed.err, "one line of text per cell where there is no terminal"


def test_failing_cell_skips_the_rest(notebook: NotebookMaker, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        papermill.execute_notebook(notebook("1", "1 / 0", "3"), out, engine_name="workbench")
    nb = read(out)
    assert statuses(nb) == ["completed", "failed", "skipped"]
    assert nb.metadata.papermill["exception"] is True


def test_killed_kernel(notebook: NotebookMaker, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    with pytest.raises(DeadKernelError):
        papermill.execute_notebook(
            notebook("print('kept')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "3"),
            out,
            engine_name="workbench",
        )
    nb = read(out)
    assert statuses(nb) == ["completed", "failed", "skipped"]
    assert nb.metadata.papermill["exception"] is True
    assert nb.cells[0].outputs[0].text == "kept\n"
    assert nb.cells[1].outputs[-1].ename == "DeadKernelError"


@pytest.mark.parametrize(
    ("body", "shown"), [(SLEEP, "KeyboardInterrupt"), (HOLD_INTERPRETER, "TimeoutError")], ids=["sleeps", "hangs"]
)
def test_timeout(body: str, shown: str, notebook: NotebookMaker, tmp_path: Path) -> None:
    """A cell that can be interrupted shows where it was; one that cannot is killed after the grace."""
    out, pid = tmp_path / "out.ipynb", tmp_path / "pid"
    source = notebook("1", f"import os, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n{body}", "3")
    with pytest.raises(CellTimeoutError):
        papermill.execute_notebook(source, out, engine_name="workbench", execution_timeout=1, grace=1)
    nb = read(out)
    assert statuses(nb) == ["completed", "failed", "skipped"]
    assert nb.metadata.papermill["exception"] is True
    assert nb.metadata.papermill["reason"] == "a cell ran out of time"
    assert nb.cells[1].outputs[-1].ename == shown
    assert not Path(f"/proc/{pid.read_text()}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_to_papermill(
    number: signal.Signals, notebook: NotebookMaker, announcement: Announcement, tmp_path: Path
) -> None:
    """The cell's own cleanup runs and its output is kept; a process it started dies with the kernel."""
    out = tmp_path / "out.ipynb"
    source = notebook(
        "1",
        "import subprocess\nchild = subprocess.Popen(['sleep', '300'])",
        announcement.cleaning_up("'detached', child.pid"),
        "3",
    )
    command = [sys.executable, "-m", "papermill", "--engine", "workbench", str(source), str(out)]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kernel = announcement.wait()
    runner.send_signal(number)
    assert runner.wait() == (143 if number == signal.SIGTERM else 1)
    assert died(kernel)
    nb = read(out)
    assert statuses(nb) == ["completed", "completed", "failed", "skipped"]
    assert nb.metadata.papermill["exception"] is True
    word, child = nb.cells[2].outputs[0].text.split()
    assert word == "detached"
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


def test_runner_killed_takes_the_kernel_along(
    notebook: NotebookMaker, announcement: Announcement, tmp_path: Path
) -> None:
    """Also a kernel whose interpreter is stuck in C, where ipykernel's own parent poller never gets to run."""
    source = notebook(announcement.cell(HOLD_INTERPRETER))
    code = "import sys, papermill; papermill.execute_notebook(*sys.argv[1:], engine_name='workbench')"
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out.ipynb")], stderr=subprocess.DEVNULL
    )
    kernel = announcement.wait()
    runner.kill()
    runner.wait()
    assert died(kernel)
    leftovers = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("wb-kernel-*"))
    papermill.execute_notebook(
        notebook("1", name="next"), tmp_path / "next-out.ipynb", engine_name="workbench", progress_bar=False
    )
    assert leftovers and any(not folder.exists() for folder in leftovers), "the next start cleans up"


def test_inside_a_running_event_loop(notebook: NotebookMaker, tmp_path: Path) -> None:
    async def cell_of_a_notebook() -> nbformat.NotebookNode:
        return papermill.execute_notebook(
            notebook("2 + 2"), tmp_path / "out.ipynb", engine_name="workbench", progress_bar=False
        )

    assert statuses(asyncio.run(cell_of_a_notebook())) == ["completed"]
