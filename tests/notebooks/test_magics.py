"""The magics in a real kernel, run as papermill and nbconvert run them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live_kernel import LiveKernel, after

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("perf_event BPF")

PROBES = """
import pathlib
def probes():
    names = []
    for one in pathlib.Path("/proc/self/fd").iterdir():
        try:
            names.append(str(one.readlink()))
        except FileNotFoundError:
            pass
    return [name for name in names if "bpf" in name or "perf_event" in name]
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveKernel]:
    with LiveKernel(tmp_path_factory.mktemp("kernel")) as one:
        one.cell(PROBES)
        yield one


def text(outputs: list[Any]) -> str:
    return "\n".join(
        "\n".join(one.traceback) if one.output_type == "error"
        else one.text if one.output_type == "stream" else one.data.get("text/plain", "")
        for one in outputs
    )  # fmt: skip


def test_a_cell_is_recorded_shown_and_has_its_value(kernel: LiveKernel) -> None:
    outputs = kernel.cell(
        "%%wb_record -c cpu:499 --into mine\n"
        "end = time.monotonic() + 0.6\nturns = 0\nwhile time.monotonic() < end:\n    turns += 1\nturns > 0"
    )
    assert [one.output_type for one in outputs] == ["display_data", "display_data", "execute_result"]
    view, chart, value = outputs
    assert "complete: the cell ended" in view.data["text/plain"]
    assert 'data-phase="done"' in view.data["text/html"]
    assert 'data-kind="flamegraph"' in chart.data["text/html"]
    assert "_PyEval_EvalFrameDefault" in chart.data["text/plain"]
    assert value.data["text/plain"] == "True"
    assert kernel.value("turns > 0 and set(mine.samples.pid) == {os.getpid()}") == "True"
    # 0.6 s at 499 Hz; a loaded machine gives the loop less than a whole CPU.
    assert int(kernel.value("len(mine.samples)")) > 60
    assert kernel.value("probes()") == "[]"


def test_interrupt_detaches_and_keeps_the_data(kernel: LiveKernel, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    waiting = after(ready, kernel.interrupt)
    outputs = kernel.cell(
        "%%wb_record -c cpu:999 --into cut\nbegin = time.monotonic()\nwhile True:\n"
        f"    if time.monotonic() - begin > 0.5:\n        open({str(ready)!r}, 'w').close()",
        error=True,
    )
    waiting.join()
    error = outputs[-1]
    assert error.ename == "KeyboardInterrupt"
    assert len(error.traceback) == 1 and "what was recorded is in `cut`" in error.traceback[0]
    assert "interrupted: interrupted by the user" in text(outputs)
    assert kernel.value("cut.status") == "'interrupted'"
    assert int(kernel.value("len(cut.samples)")) > 100
    assert kernel.value("wb.load(cut.path).status, probes()") == "('interrupted', [])"


def test_errors_say_what_to_do_and_fail_the_cell(kernel: LiveKernel) -> None:
    outputs = kernel.cell("%%wb_record -c cpu:12000\n1", error=True)
    assert outputs[-1].ename == "BadSpec"
    assert "outside 1 to 10000" in text(outputs)
    assert "Traceback" not in text(outputs) and len(outputs[-1].traceback) <= 3
    outputs = kernel.cell("wb\nwb.record('nonsense').start()", error=True)
    assert "hint: " in text(outputs)
    assert "line 2: wb.record('nonsense').start()" in text(outputs)
    assert kernel.value("probes()") == "[]"


def test_debug_brings_the_traceback_back(kernel: LiveKernel) -> None:
    kernel.cell("%wb_debug on")
    assert "Traceback" in text(kernel.cell("wb.record('nonsense')", error=True))
    kernel.cell("%wb_debug off")
    assert "Traceback" not in text(kernel.cell("wb.record('nonsense')", error=True))
    assert "%wb_debug on, or %wb_debug off" in text(kernel.cell("%wb_debug maybe", error=True))


def test_an_error_of_the_cell_itself_is_shown_whole(kernel: LiveKernel) -> None:
    outputs = kernel.cell(
        "%%wb_record --no-figure --into failed\ndef divide():\n    return 1 / 0\ndivide()", error=True
    )
    assert outputs[-1].ename == "ZeroDivisionError"
    shown = text(outputs)
    assert "1" in shown and "divide" in shown and "magics.py" not in shown
    assert kernel.value("failed.status, failed.manifest.notes['ended_by']") == (
        "('complete', 'the cell raised ZeroDivisionError')"
    )


def test_syntax_errors_and_await_are_found_before_anything_is_attached(kernel: LiveKernel) -> None:
    kernel.cell("made = None")
    assert kernel.cell("%%wb_record --into made\nx = = 1", error=True)[-1].ename == "SyntaxError"
    outputs = kernel.cell("%%wb_record --into made\nimport asyncio\nawait asyncio.sleep(0)", error=True)
    assert "with wb.record(...)" in text(outputs)
    assert kernel.value("made is None") == "True"


def test_line_magic_records_a_command(kernel: LiveKernel) -> None:
    program = "print(sum(range(9000000)))"
    outputs = kernel.cell(f"%wb_record -c cpu:999 --into sums -- python3 -c '{program}'")
    assert "40499995500000" in text(outputs)
    assert "complete: the target exited" in text(outputs)
    assert kernel.value("sums.manifest.command[0], len(sums.samples) > 10") == "('python3', True)"
    outputs = kernel.cell("%wb_record --no-figure --into three -- sh -c 'exit 3'", error=True)
    assert outputs[-1].ename == "RunFailed" and "status 3" in text(outputs)
    assert kernel.value("three.status") == "'complete'"
    assert "name one target" in text(kernel.cell("%wb_record -c cpu:99", error=True))


def test_names_of_python_reach_the_options(kernel: LiveKernel) -> None:
    outputs = kernel.cell(
        "shop = wb.workload('sqlite')\n%wb_record -p {shop.pid} -s 0.4 --into other --quiet\n"
        "shop.close()\nassert other.manifest.pid == shop.pid"
    )
    assert "data-phase" not in str(outputs)
    assert any("of          pid" in one.data.get("text/plain", "") for one in outputs)
    assert kernel.value("set(other.samples.pid) == {shop.pid}") == "True"


def test_report_and_doctor(kernel: LiveKernel) -> None:
    outputs = kernel.cell("%wb_report mine --top 3")
    assert "Functions by CPU samples" in outputs[0].data["text/plain"]
    assert "wb-report" in outputs[0].data["text/html"]
    path = kernel.value("str(mine.path)").strip("'")
    assert "Functions by CPU samples" in text(kernel.cell(f"%wb_report {path}"))
    assert "there is no recording" in text(kernel.cell("%wb_report /nowhere/at/all", error=True))
    shown = text(kernel.cell("%wb_doctor 'perf_event BPF'"))
    assert "ok  perf_event BPF" in shown and "1 of 1 capabilities" in shown


def test_help_does_nothing_else(kernel: LiveKernel) -> None:
    outputs = kernel.cell("ran = False")
    outputs = kernel.cell("%%wb_record --help\nran = True")
    assert "--into NAME" in text(outputs)
    assert kernel.value("ran") == "False"
