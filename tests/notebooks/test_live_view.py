"""Recorders in the background of a notebook: what is shown, what is saved, and Stop while a cell runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from live_kernel import LiveKernel, after

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("perf_event BPF")

WIDGET = "application/vnd.jupyter.widget-view+json"
BUSY = "while recorder.state().phase == 'recording':\n    sum(range(1000))\n"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveKernel]:
    """As papermill has it: nobody looks on."""
    with LiveKernel(tmp_path_factory.mktemp("batch")) as one:
        yield one


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveKernel]:
    """As Jupyter Server starts a kernel for a notebook that somebody has open."""
    with LiveKernel(tmp_path_factory.mktemp("watched"), session="tour.ipynb") as one:
        yield one


def bundle(outputs: list[Any]) -> dict[str, Any]:
    shown = [one for one in outputs if one.output_type == "display_data"]
    assert len(shown) == 1 and len(outputs) == 1
    data: dict[str, Any] = shown[0].data
    return data


def test_executed_notebook_holds_the_last_state(batch: LiveKernel) -> None:
    outputs = batch.cell("recorder = wb.record('cpu:99').start()\nrecorder")
    first = bundle(outputs)
    assert WIDGET not in first
    assert first["text/plain"].startswith(f"Recording process {batch.pid}: ")
    batch.cell("recorder.stop(reason='enough'); recorder.wait(); time.sleep(1.2)")
    # The saved notebook is that same list of outputs.
    last = bundle(outputs)
    assert last["text/plain"].startswith(f"Recorded process {batch.pid} for ")
    assert "complete: enough" in last["text/plain"] and "cpu: " in last["text/plain"]
    assert 'data-phase="done"' in last["text/html"]
    assert "widgets" not in batch.nb.metadata


def test_time_to_go_is_shown(batch: LiveKernel) -> None:
    data = bundle(batch.cell("timed = wb.record('cpu:99', seconds=60).start()\ntimed"))
    assert " s to go" in data["text/plain"] and "progressbar" in data["text/html"]
    batch.cell("timed.stop(); timed.wait()")


def test_finished_and_unstarted_recorders_show_as_they_are(batch: LiveKernel) -> None:
    data = bundle(batch.cell("made = wb.record('cpu:99')\nmade"))
    assert data["text/plain"].startswith(f"Recorder of process {batch.pid}: not started")
    batch.cell("made.start(); made.stop(); made.wait()")
    assert 'data-phase="done"' in bundle(batch.cell("made"))["text/html"]


def test_progress_is_saved_as_its_end(batch: LiveKernel) -> None:
    outputs = batch.cell(
        "from workbench.notebook import progress\nprogress.PATIENCE = 0\n"
        "with progress.Progress('counting') as one:\n"
        "    for step in range(4):\n        one.update(step / 4)\n        time.sleep(0.4)"
    )
    data = bundle(outputs)  # one output, no stream with carriage returns
    assert data["text/plain"].startswith("counting: done after ")
    outputs = batch.cell(
        "with progress.Progress('failing') as one:\n    one.update(0.5)\n    raise ValueError", error=True
    )
    assert outputs[0].data["text/plain"].startswith("failing: stopped at 50 % after ")


def test_states_can_be_awaited_while_other_coroutines_run(batch: LiveKernel) -> None:
    batch.cell(
        "import asyncio\nturns = 0\n"
        "async def other():\n    global turns\n    while True:\n        turns += 1\n        await asyncio.sleep(0.01)\n"
        "task = asyncio.create_task(other())\n"
        "recorder = wb.record('cpu:999', seconds=1.2).start()\n"
        "states = [state async for state in wb.updates(recorder, every=0.1)]\n"
        "task.cancel();"
    )
    assert batch.value("states[-1].phase, recorder.recording.status") == "('done', 'complete')"
    assert int(batch.value("len({state.collectors[0].events for state in states})")) > 2
    assert int(batch.value("turns")) > 10
    assert batch.value("len(states[-1].collectors), states[-1].collectors[0].events > 0") == "(1, True)"


def button(kernel: LiveKernel) -> str:
    return kernel.value(
        "from ipywidgets.widgets.widget import _instances\n"
        "next(key for key, one in _instances.items() if type(one).__name__ == 'Button')"
    ).strip("'")


def click(kernel: LiveKernel, comm: str) -> None:
    """What JupyterLab 4.4 sends when a button is pressed: a comm message on a subshell."""
    client = BlockingKernelClient(connection_file=kernel.connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        request = client.session.msg("create_subshell_request")
        client.control_channel.send(request)
        reply = client.get_control_msg(timeout=20)
        data = {"method": "custom", "content": {"event": "click"}}
        message = client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        message["header"]["subshell_id"] = reply["content"]["subshell_id"]
        client.shell_channel.send(message)
    finally:
        client.stop_channels()


def test_stop_works_while_a_cell_runs(watched: LiveKernel, tmp_path: Path) -> None:
    shown = watched.cell("recorder = wb.record('cpu:99', seconds=60).start()\nrecorder")
    live = bundle(shown)
    assert live[WIDGET]["model_id"] and "cpu" in live["text/plain"]
    comm, ready = button(watched), tmp_path / "ready"
    pressing = after(ready, lambda: click(watched, comm))
    watched.cell(f"open({str(ready)!r}, 'w').close()\n{BUSY}print(recorder.state().elapsed < 50)")
    pressing.join()
    assert watched.nb.cells[-1].outputs[0].text.strip() == "True"
    watched.cell("recorder.wait(); time.sleep(0.6)")
    end = bundle(shown)
    assert WIDGET not in end, "a saved notebook has no button that nobody can press"
    assert "complete: stopped by the user" in end["text/plain"]


def test_stop_from_another_thread(watched: LiveKernel) -> None:
    watched.cell("recorder = wb.record('cpu:99', seconds=60).start()\nrecorder")
    watched.cell(f"threading.Timer(0.2, recorder.stop).start()\n{BUSY}")
    assert watched.value("recorder.wait(30), recorder.recording.status") == "(True, 'complete')"


def test_without_ipywidgets_the_view_is_plain_html(watched: LiveKernel) -> None:
    watched.cell(
        "import workbench.notebook.widget as view\nfind = view.find_spec\n"
        "view.find_spec = lambda name: None if name == 'ipywidgets' else find(name)"
    )
    try:
        data = bundle(watched.cell("recorder = wb.record('cpu:99').start()\nrecorder"))
    finally:
        watched.cell("view.find_spec = find; recorder.stop(); recorder.wait()")
    assert WIDGET not in data and "wb-sparkline" in data["text/html"]
