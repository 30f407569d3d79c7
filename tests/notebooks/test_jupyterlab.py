"""The tour in JupyterLab in a real browser: run all cells, press Stop while one runs, look at the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from jupyterlab_page import Lab, NotebookPage
from webdriver import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.needs("Chromium", "perf_event BPF", "uprobe_multi", "hardware breakpoint"),
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("WORKBENCH_SCREENSHOTS", ROOT / "out" / "screenshots"))
COUNTS = (
    "Object.fromEntries([...document.querySelectorAll('.wb-recorder tr[data-collector]')].map((row) =>"
    " [row.dataset.collector, Number(row.querySelector('.wb-events').textContent.replaceAll(',', ''))]))"
)
PHASE = "document.querySelector('.wb-recorder')?.dataset.phase"
STOP = "document.querySelector('.wb-stop')"
LINES = "document.querySelectorAll('.wb-recorder .wb-sparkline path[fill=none]').length"
FLAME = "document.querySelector('.wb-chart[data-kind=flamegraph][data-ready]')"


def notebook(folder: Path, *sources: str) -> str:
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(one) for one in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(made, folder / "made.ipynb")
    return "made.ipynb"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Path]]:
    root = tmp_path_factory.mktemp("notebooks")
    with Lab(root, tmp_path_factory.mktemp("lab")) as server:
        yield server, root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(tmp_path_factory.mktemp("profile")), 1280, 1000) as one:
        yield one


@pytest.fixture
def screenshot(browser: Browser, request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep a picture of the page of a test that failed."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.screenshot(SCREENSHOTS / f"{request.node.name}.png")


@pytest.mark.usefixtures("screenshot")
def test_tour_stops_at_the_button_and_shows_what_was_recorded(
    lab: tuple[Lab, Path], browser: Browser
) -> None:
    server, root = lab
    tour = nbformat.read(ROOT / "notebooks" / "00-tour.ipynb", 4)
    parameters = next(one for one in tour.cells if "parameters" in one.metadata.get("tags", ()))
    # Only the button can end this recording in time.
    parameters.source += '\nseconds = 600\nsource = "live"'
    nbformat.write(tour, root / "tour.ipynb")
    page = NotebookPage(server, browser, "tour.ipynb")
    page.run_all()
    page.until(STOP)
    page.until(f"{COUNTS}.cpu > 50 && {COUNTS}.watch > 0")
    page.until(f"{LINES} === 3")
    assert "[*]:" in page.prompts(), "the cell with the recorder should still run"
    assert browser.run(f"return {PHASE}") == "recording"
    browser.click(".wb-stop")
    page.until(f"{PHASE} === 'done'")
    page.until_done()
    assert page.errors() == []
    assert "complete: stopped by the user" in page.output(1)
    counts = browser.run(f"return {COUNTS}")
    assert set(counts) == {"cpu", "uprobe", "watch"} and all(counts.values())
    assert browser.run(f"return {STOP}") is None
    assert browser.run(f"return {LINES}") == 3
    page.until(f"{FLAME}?.querySelectorAll('.wb-box').length > 20")
    assert "sqlite3" in browser.run(f"return {FLAME}.innerText")
    outputs = [one for cell in page.save(root / "tour.ipynb")["cells"] for one in cell.get("outputs", [])]
    view = next(one for one in outputs if "wb-recorder" in str(one.get("data", {}).get("text/html")))
    assert set(view["data"]) == {"text/plain", "text/html"}, "saved as its end, not as a widget"
    assert "stopped by the user" in "".join(view["data"]["text/plain"])


@pytest.mark.usefixtures("screenshot")
def test_recorder_in_the_background_stops_while_a_later_cell_runs(
    lab: tuple[Lab, Path], browser: Browser
) -> None:
    server, root = lab
    page = NotebookPage(
        server,
        browser,
        notebook(
            root,
            "import workbench as wb\n%load_ext workbench\n"
            "recorder = wb.record('cpu:499', seconds=600).start()\nrecorder",
            "while recorder.state().phase == 'recording':\n    sum(range(1000))\nprint('the cell saw the end')",
            "%%wb_record -c cpu:499\nsum(range(20_000_000))",
            "wb.record('cpu:12000')",
        ),
    )
    page.run_all()
    page.until(STOP)
    page.until(f"{COUNTS}.cpu > 50")
    assert page.prompts()[:2] == ["[1]:", "[*]:"]
    browser.click(".wb-stop")
    page.until_done()
    assert "the cell saw the end" in page.output(1)
    browser.until(f"return {PHASE} === 'done'")
    assert "stopped by the user" in page.output(0)
    assert "the cell ended" in page.output(2)
    assert browser.run("return document.querySelectorAll('.wb-chart[data-ready]').length") == 1
    (error,) = page.errors()
    assert error.startswith("BadSpec: ") and "Traceback" not in error
