"""The interactive charts, used in a real browser: click, search, keys, themes, several charts on one page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from frameset import HOSTILE, FrameSet, database
from webdriver import Browser

from workbench.notebook.html import (
    interactive_flamegraph,
    interactive_heatmap,
    interactive_latency,
    interactive_timeline,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("Chromium")

STATUS = "return document.querySelectorAll('.wb-status')[0].textContent"
FOCUS = "return document.activeElement.dataset.name"


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(tmp_path_factory.mktemp("profile"))) as one:
        yield one


@pytest.fixture
def page(browser: Browser, recording: FrameSet, tmp_path: Path) -> Browser:
    charts = [
        interactive_flamegraph(recording),
        interactive_flamegraph(recording, "offcpu"),
        interactive_timeline(recording),
        interactive_heatmap(recording, "samples"),
        interactive_latency(recording, "calls"),
    ]
    body = "".join(chart.to_html() for chart in charts)
    path = tmp_path / "page.html"
    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body style='background:#fff'>{body}", encoding="utf-8"
    )
    browser.open(path.as_uri())
    return browser


def box(name: str) -> str:
    """JavaScript for the first drawn box of a function."""
    return (
        "const box = [...document.querySelector('.wb-chart').querySelectorAll('.wb-box')]"
        f".find((one) => one.dataset.name === {name!r});"
    )


def test_every_chart_on_the_page_is_drawn(page: Browser, recording: FrameSet) -> None:
    assert page.run("return document.querySelectorAll('.wb-chart[data-ready]').length") == 5
    assert page.run("return document.querySelectorAll('.wb-fallback').length") == 0
    assert page.run(STATUS) == f"{len(recording.frame('samples')):,} samples, 100.0 % of all"
    names = page.run(
        "return [...document.querySelectorAll('.wb-box')].map((one) => one.dataset.name)"
    )
    assert names[0] == "all"
    assert HOSTILE in names
    colors = page.run(
        "const c = document.querySelector('canvas'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const s = new Set();"
        "for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 250) s.add(d.slice(i, i + 3).join());"
        "return [...s]"
    )
    assert "0,114,178" in colors
    assert page.complaints() == []


def test_click_zooms_and_reset_returns(page: Browser, recording: FrameSet) -> None:
    page.run(box("sqlite3_step") + "box.click()")
    width = page.run(box("sqlite3_step") + "return box.style.width")
    assert width == "100%"
    assert page.run(box("compress_row") + "return Boolean(box)") is False
    page.click(".wb-bar button")
    assert page.run(STATUS).endswith("100.0 % of all")
    assert page.run(box("compress_row") + "return Boolean(box)") is True


def test_search_says_how_much_matched(page: Browser, recording: FrameSet) -> None:
    page.type(".wb-bar input", "crc32|^parse_query")
    samples = recording.frame("samples")
    hit = samples["function"].isin(["crc32_update", "parse_query", "sqlite3Parser"]).mean()
    assert f"matched {100 * hit:.1f} %" in page.run(STATUS)
    assert page.run(box("crc32_update") + "return box.classList.contains('wb-missed')") is False
    assert page.run(box("memcpy") + "return box.classList.contains('wb-missed')") is True
    page.run(
        "const i = document.querySelector('input');"
        "i.value = 'map<K&, \"x\"></scr('; i.dispatchEvent(new Event('input'))"
    )
    assert "matched 0.0 %" in page.run(STATUS)


def test_keys_walk_and_zoom(page: Browser) -> None:
    page.run("document.querySelector('.wb-box').focus()")
    page.press("Down")
    assert page.run(FOCUS) == "worker-0"
    page.press("Right")
    assert page.run(FOCUS) == "worker-1"
    page.press("Enter")
    assert page.run(FOCUS) == "worker-1"
    assert page.run(box("worker-0") + "return Boolean(box)") is False
    page.press("Escape")
    assert page.run(FOCUS) == "all"
    label = page.run("return document.activeElement.getAttribute('aria-label')")
    assert "samples in all, 100.0 %" in label


def test_tooltip_has_samples_and_percent(page: Browser, recording: FrameSet) -> None:
    page.run(
        box("memcpy")
        + "const r = box.getBoundingClientRect(); box.dispatchEvent(new MouseEvent('mousemove',"
        "{bubbles: true, clientX: r.left + 2, clientY: r.top + 2}))"
    )
    text = page.run("return document.querySelector('.wb-tip').textContent")
    assert text.startswith("memcpy\n/lib/x86_64-linux-gnu/libc.so.6\n")
    assert "samples in itself" in text


def test_timeline_zooms_by_drag_buttons_and_keys(page: Browser) -> None:
    status = "return document.querySelectorAll('.wb-status')[2].textContent"
    assert page.run(status).startswith("0.000 s to 4.000 s")
    page.run("document.querySelector('canvas').scrollIntoView({block: 'center'})")
    page.drag("canvas", -100, 100)
    low, high = page.run(status).split(" s to ")
    assert 1.0 < float(low) < 2.0 < float(high.split()[0]) < 3.0
    page.run("document.querySelector('canvas').focus()")
    page.press("+")
    assert float(page.run(status).split(" s to ")[0]) > float(low)
    page.press("Escape")
    assert page.run(status).startswith("0.000 s to 4.000 s")


def test_theme_follows_the_page(page: Browser) -> None:
    theme = "return document.querySelector('.wb-chart').dataset.theme"
    assert page.run(theme) == "light"
    page.run("document.body.style.background = '#111'")
    page.until("return document.querySelector('.wb-chart').dataset.theme === 'dark'")
    color = page.run("return getComputedStyle(document.querySelector('.wb-title')).color")
    assert color == "rgb(236, 236, 236)"


def test_output_shown_twice_works(page: Browser) -> None:
    # JupyterLab's "create new view" copies the markup and runs its scripts again.
    page.run(
        "const copy = document.createElement('div'); const source = arguments[0];"
        "copy.innerHTML = source; for (const old of copy.querySelectorAll('script')) {"
        "const fresh = document.createElement('script');"
        "for (const one of old.attributes) fresh.setAttribute(one.name, one.value);"
        "fresh.textContent = old.textContent; old.replaceWith(fresh); } document.body.append(copy);",
        interactive_flamegraph(database()).to_html(),
    )
    assert page.run("return document.querySelectorAll('.wb-chart[data-ready]').length") == 6
    assert (
        page.run(
            "return document.querySelectorAll('.wb-chart')[5].querySelectorAll('.wb-box').length"
        )
        > 10
    )
    assert page.complaints() == []


HOVER = (
    "const c = document.querySelector(arguments[0]), r = c.getBoundingClientRect();"
    "for (const kind of ['pointermove', 'mousemove']) c.dispatchEvent(new MouseEvent(kind,"
    "{bubbles: true, clientX: r.left + arguments[1], clientY: r.top + arguments[2]}));"
    "return document.querySelector(arguments[3] + ' .wb-tip').textContent"
)
HEAT = ".wb-chart[data-kind=heatmap]"
LATENCY = ".wb-chart[data-kind=latency]"


def test_heat_map_counts_by_hand_what_it_says(page: Browser, recording: FrameSet) -> None:
    text = page.run(HOVER, f"{HEAT} canvas", 400, 5, HEAT)
    samples = recording.frame("samples")
    name = samples["function"].value_counts().index[0]
    found = re.fullmatch(rf"{name}\n([\d,]+) samples from ([\d.]+) s to ([\d.]+) s", text)
    assert found, text
    seconds = (samples["time"] - samples["time"].min()) / 1e9
    low, high = float(found[2]), float(found[3])
    near = samples["function"].eq(name) & seconds.between(low - 0.003, high + 0.003)
    inside = samples["function"].eq(name) & seconds.between(low + 0.003, high - 0.003)
    assert inside.sum() <= int(found[1].replace(",", "")) <= near.sum()


def test_heat_map_becomes_finer_when_zoomed(page: Browser) -> None:
    status = f"return document.querySelector('{HEAT} .wb-status').textContent"
    whole = page.run(status)
    page.run(f"document.querySelector('{HEAT} canvas').scrollIntoView({{block: 'center'}})")
    page.drag(f"{HEAT} canvas", -50, 50)
    part = page.run(status)
    cell = re.compile(r"cell: ([\d,]+) samples in ([\d.]+) ms")
    assert float(cell.search(part)[2]) < float(cell.search(whole)[2])
    page.run("document.body.style.background = '#111'")
    page.until(f"return document.querySelector('{HEAT} .wb-status').textContent.includes('brightest')")
    page.run(f"document.querySelector('{HEAT} canvas').focus()")
    page.press("Escape")
    assert page.run(status) == whole.replace("darkest", "brightest")
    assert page.complaints() == []


def test_latency_says_how_many_were_faster(page: Browser, recording: FrameSet) -> None:
    width = page.run(f"return document.querySelector('{LATENCY} canvas').clientWidth")
    text = page.run(HOVER, f"{LATENCY} canvas", width - 10, 30, LATENCY)
    assert "100.00 % of its calls took at most that" in text
    head = page.run(HOVER, f"{LATENCY} canvas", 20, 30, LATENCY)
    name, calls = re.match(r"(.+): ([\d,]+) calls, p50 ", head).groups()
    table = recording.frame("calls")
    mine = table[(table["function"] == name) & (table["duration"] >= 0)]
    assert int(calls.replace(",", "")) == len(mine)


def test_latency_search_and_tail(page: Browser) -> None:
    pixels = f"return document.querySelector('{LATENCY} canvas').toDataURL()"
    before = page.run(pixels)
    page.click(f"{LATENCY} .wb-bar button")
    assert page.run(pixels) != before
    assert page.run(f"return document.querySelector('{LATENCY} button').ariaPressed") == "true"
    page.type(f"{LATENCY} input", "nothing like it")
    assert page.run(f"return document.querySelector('{LATENCY} .wb-status').textContent").startswith("0 of ")
    assert page.complaints() == []
