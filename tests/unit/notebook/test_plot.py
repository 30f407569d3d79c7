"""Figures: what they draw agrees with the frames, and they render with what a real recording may hold."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from frameset import HOSTILE, FrameSet, database, sample_python, stacks_frame
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from workbench.errors import BadSpec, MissingFrame
from workbench.notebook import plot
from workbench.notebook.plot.flame import fit, module_order
from workbench.notebook.plot.functions import top_text
from workbench.notebook.plot.lanes import merged
from workbench.notebook.plot.style import chart, color_of, duration_text, legend


@pytest.fixture(scope="module")
def recording() -> FrameSet:
    return database()


def pixels(figure: Figure) -> np.ndarray:
    figure.set_dpi(60)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


FIGURES = {
    "flamegraph": lambda r: plot.flamegraph(r),
    "icicle": lambda r: plot.flamegraph(r, "offcpu", inverted=True, explain=False),
    "counts": lambda r: plot.flamegraph(r, "faults", by="count"),
    "timeline": lambda r: plot.timeline(r),
    "window": lambda r: plot.timeline(r, between=(1.0, 1.2), threads=2),
    "functions": lambda r: plot.heatmap(r, top=4),
    "addresses": lambda r: plot.heatmap(r, "faults"),
    "latencies": lambda r: plot.heatmap(r, "calls"),
    "calls": lambda r: plot.latency_histogram(r),
    "syscalls": lambda r: plot.latency_histogram(r, "syscalls"),
    "gpu": lambda r: plot.latency_histogram(r, "gpu_calls"),
    "waits": lambda r: plot.latency_histogram(r, "offcpu"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_renders_with_title_and_explanation(name: str, recording: FrameSet) -> None:
    figure = FIGURES[name](recording)
    assert isinstance(figure, plot.Chart)
    assert len(np.unique(pixels(figure).reshape(-1, 4), axis=0)) > 20
    assert figure.heading.startswith("databased: ")
    assert len(figure.how_to_read) > 100
    shown = figure._supxlabel.get_text() if figure._supxlabel else ""
    assert bool(shown) == (name != "icicle")
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert name in ("flamegraph", "icicle", "counts") or any(labels)


def test_no_pyplot(recording: FrameSet) -> None:
    for make in FIGURES.values():
        make(recording)
    assert "matplotlib.pyplot" not in sys.modules


def test_notebook_shows_picture_and_text(recording: FrameSet) -> None:
    data, metadata = plot.flamegraph(recording)._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert b"Description" in data["image/png"]
    assert metadata["image/png"]["width"] == 900
    assert data["text/plain"].startswith("databased: CPU time")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_saved_file_carries_the_explanation(
    recording: FrameSet, tmp_path: Any, suffix: str
) -> None:
    path = plot.flamegraph(recording, title="A title").save(tmp_path / f"figure.{suffix}", dpi=50)
    assert b"A title" in path.read_bytes()


def boxes(figure: Figure) -> list[tuple[float, float, float]]:
    polygons = next(one for one in figure.axes[0].collections if isinstance(one, PolyCollection))
    paths = [path.vertices for path in polygons.get_paths()]
    return [(path[0][0], path[1][0], path[0][1]) for path in paths]


def test_box_widths_are_shares_of_samples(recording: FrameSet) -> None:
    found = boxes(plot.flamegraph(recording, minimum=0))
    assert found[0] == (0.0, 1.0, 0.0)
    samples = recording.frame("samples")
    expected = sorted(samples["comm"].value_counts(normalize=True))
    assert sorted(right - left for left, right, y in found if y == 1.0) == pytest.approx(expected)


def test_narrow_boxes_are_left_out(recording: FrameSet) -> None:
    found = boxes(plot.flamegraph(recording, minimum=0.05))
    assert len(found) < len(boxes(plot.flamegraph(recording, minimum=0)))
    assert min(right - left for left, right, _ in found) >= 0.05


def test_thin_towers_do_not_make_the_figure_endless(recording: FrameSet) -> None:
    deep = stacks_frame([("main", *("parse_query",) * 200), ("main", "compress_row")])
    samples = recording.frame("samples").head(400).copy()
    samples["stack"] = np.r_[np.zeros(3), np.ones(397)].astype(np.int32)
    samples["comm"] = "one"
    figure = plot.flamegraph(FrameSet("deep", {"samples": samples, "stacks": deep}))
    assert figure.get_figheight() < 6
    assert "narrower than 0.2%" not in figure.how_to_read
    forced = plot.flamegraph(FrameSet("deep", {"samples": samples, "stacks": deep}), minimum=0.001)
    assert forced.get_figheight() > 30


def test_labels_are_cut_to_their_box() -> None:
    assert fit("sqlite3_step", 20) == "sqlite3_step"
    assert fit("sqlite3_step", 8) == "sqlite3…"
    assert fit("sqlite3_step", 3) == ""
    # A function without a symbol is told apart by its address.
    assert fit("libsqlite3.so.0.8.6:0xfb190", 18) == "libsqlit…:0xfb190"
    assert fit("libsqlite3.so.0.8.6:0xfb190", 10) == "…:0xfb190"
    assert fit("libsqlite3.so.0.8.6:0xfb190", 7) == "libsql…"


def test_odd_names_are_text_not_markup(recording: FrameSet) -> None:
    stacks = recording.frame("stacks").copy()
    stacks["function"] = "$x^2$ \\frac{" + stacks["function"].astype(str) + "$"
    odd = FrameSet("odd $1$", {**recording.tables, "stacks": stacks})
    pixels(plot.flamegraph(odd, title="no maths"))
    pixels(plot.flamegraph(odd))
    samples = recording.frame("samples").copy()
    samples["function"] = "$\\frac{$" + samples["function"].astype(str)
    pixels(plot.heatmap(FrameSet("odd", {"samples": samples})))


def test_a_module_keeps_its_colour_in_all_figures(recording: FrameSet) -> None:
    order = module_order(recording)
    assert order[0] == "libsqlite3.so.0"
    assert "[kernel]" not in order
    assert color_of(order[0], order) == plot.PALETTE[0]
    assert color_of("[kernel]", order) not in plot.PALETTE


def test_heat_map_counts_every_row(recording: FrameSet) -> None:
    for frame, y in (("samples", "function"), ("faults", "address"), ("offcpu", "duration")):
        figure = plot.heatmap(recording, frame, y=y, top=3)
        mesh = next(one for one in figure.axes[0].collections if isinstance(one, QuadMesh))
        assert mesh.get_array().sum() == len(recording.frame(frame))


def test_far_apart_addresses_get_rows_of_their_own(recording: FrameSet) -> None:
    faults = recording.frame("faults").copy()
    heap, stack = 0x5555_0000_0000, 0x7FFF_FFFF_0000
    faults["address"] = np.where(np.arange(len(faults)) % 3, faults["address"], heap)
    faults.loc[faults.index[:5], "address"] = np.uint64(stack)
    figure = plot.heatmap(FrameSet("r", {"faults": faults}))
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    address = faults["address"]
    middle = hex(address[(address > heap) & (address < stack)].min())
    assert [label.split(",")[0] for label in labels] == [hex(heap), middle, hex(stack)]
    mesh = next(one for one in figure.axes[0].collections if isinstance(one, QuadMesh))
    assert mesh.get_array().sum() == len(faults)
    pixels(figure)


def test_top_lists_self_and_total(recording: FrameSet) -> None:
    table = plot.top(recording, rows=100)
    assert list(table.columns) == ["function", "module", "self", "total", "self %", "total %"]
    counts = recording.frame("samples")["function"].value_counts()
    assert table.loc[0, "function"] == counts.index[0]
    assert table.loc[0, "self"] == counts.iloc[0]
    assert table["self %"].sum() == pytest.approx(100)
    rows = table.set_index("function")
    assert rows.loc["worker_main", "total"] > rows.loc["sqlite3_step", "total"]
    assert HOSTILE in top_text(recording)
    assert "ms" in top_text(recording, "offcpu")


def test_quantiles_are_those_of_the_durations(recording: FrameSet) -> None:
    calls = recording.frame("calls")
    one = plot.latencies(recording, "calls")[0]
    assert one.calls == len(calls)
    for share in (0.5, 0.95, 0.99, 1.0):
        expected = np.quantile(calls["duration"], share, method="inverted_cdf")
        assert one.quantile(share) == expected


def test_bucketed_quantiles_stay_in_their_bucket(recording: FrameSet) -> None:
    table = recording.frame("syscalls")
    for one in plot.latencies(recording, "syscalls"):
        mine = table[table["syscall"] == one.name].sort_values("bucket_low")
        reach = mine["count"].cumsum() / mine["count"].sum()
        for share in (0.5, 0.95, 0.99):
            bucket = mine[reach >= share].iloc[0]
            assert bucket["bucket_low"] <= one.quantile(share) <= bucket["bucket_high"]


def test_rows_without_duration_are_not_latencies(recording: FrameSet) -> None:
    calls = recording.frame("calls").copy()
    calls.loc[calls.index[:100], "duration"] = -1
    one = plot.latencies(FrameSet("r", {"calls": calls}))[0]
    assert one.calls == len(calls) - 100
    calls["duration"] = -1
    with pytest.raises(MissingFrame, match="no row with a duration"):
        plot.latency_histogram(FrameSet("r", {"calls": calls}))
    pixels(plot.timeline(FrameSet("r", {"calls": calls})))


def test_intervals_join_only_across_small_gaps() -> None:
    left, right = merged(np.array([0.0, 1.0, 5.0, 5.1]), np.array([1.0, 2.0, 5.3, 5.2]), 0.05)
    assert left.tolist() == [0, 5]
    assert right.tolist() == [2, 5.3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1 µs"),
        (999_999, "1 ms"),
        (1.5e9, "1.5 s"),
        (2e12, "2,000 s"),
    ],
)
def test_duration_text(value: float, text: str) -> None:
    assert duration_text(value) == text


def test_errors_say_what_to_do(recording: FrameSet) -> None:
    with pytest.raises(MissingFrame, match="workbench record"):
        plot.flamegraph(recording.only("losses"))
    with pytest.raises(MissingFrame, match="workbench record"):
        plot.timeline(recording.only("losses"))
    with pytest.raises(MissingFrame, match="empty"):
        plot.flamegraph(
            FrameSet("r", {**recording.tables, "samples": recording.frame("samples").head(0)}),
            "samples",
        )
    with pytest.raises(BadSpec, match="by='count'"):
        plot.flamegraph(recording, "watches", by="time")
    with pytest.raises(BadSpec, match="by='time'"):
        plot.flamegraph(recording, by="weight")
    with pytest.raises(MissingFrame, match="its columns"):
        plot.heatmap(recording, y="colour")


def test_real_python_stacks() -> None:
    python = sample_python(60)
    pixels(plot.flamegraph(python, inverted=True))
    names = plot.top(python, rows=200)["function"].tolist()
    assert any(name.endswith("work") for name in names)


def test_one_sample_is_enough(recording: FrameSet) -> None:
    one = FrameSet("one", {**recording.tables, "samples": recording.frame("samples").head(1)})
    sink = io.BytesIO()
    plot.flamegraph(one).savefig(sink, format="png", dpi=40)
    only = one.only("samples", "stacks")
    pixels(plot.timeline(only))
    pixels(plot.heatmap(only))


@pytest.mark.filterwarnings("error")
def test_long_library_names_do_not_squeeze_the_plot() -> None:
    figure = chart("title", "how to read", height=5)
    axes = figure.add_subplot()
    axes.set_axis_off()
    names = [f"_module_{i}.cpython-311-x86_64-linux-gnu.so" for i in range(8)]
    legend(axes, [Patch(label=name) for name in names], 8)
    for _ in range(2):  # saved, then shown
        figure._repr_mimebundle_()
        assert axes.get_position().width > 0.95
