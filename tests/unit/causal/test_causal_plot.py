"""The picture of a causal profile draws what is in the frame."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from causal_engines import Known, Program, Synthetic
from matplotlib.collections import LineCollection

from workbench.causal.controller import experiments
from workbench.causal.plan import Plan
from workbench.causal.regions import Region
from workbench.causal.results import Results
from workbench.errors import MissingFrame
from workbench.frames.recording import Recording
from workbench.frames.writer import RecordingWriter
from workbench.notebook import plot


def record(path: Path, *, points: int = 1, noise: float = 0.02, rounds: int = 6) -> Recording:
    plan = Plan((Region("a$b.c:5"), Region("other")), speedups=(0.25, 0.5, 1.0), rounds=rounds)
    names = [f"point{number}" for number in range(points)]
    results = Results(RecordingWriter(path, collectors=["causal"]), names)
    engine = Synthetic(counts=[50] * points, noise=noise)
    for one in experiments(engine, Program(), plan, names, finder=Known()):  # type: ignore[arg-type]
        results.add(one)
    return results.finish("complete", "", seed=1, tolerance=3)


def test_curves_and_intervals_are_those_of_the_frame(tmp_path: Path) -> None:
    recording = record(tmp_path / "made")
    figure = plot.causal_profile(recording)
    [axes] = figure.axes
    table = recording.frame("causal_profile")
    curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(curves) == 2
    drawn = sorted(float(y) for line in curves for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(table["change"]))
    bars = [one for one in axes.collections if isinstance(one, LineCollection)]
    ends = sorted(float(y) for one in bars for segment in one.get_segments() for y in segment[:, 1])
    assert ends == pytest.approx(sorted([*table["low"], *table["high"]]))
    legend = axes.get_legend()
    assert legend and {text.get_text() for text in legend.get_texts()} == {"a$b.c:5", "other"}
    assert "period" in axes.get_ylabel() and "%" in axes.get_xlabel()
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_every_progress_point_has_a_panel_and_void_runs_say_so(tmp_path: Path) -> None:
    recording = record(tmp_path / "made", points=3)
    figure = plot.causal_profile(recording)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 3 + [False]
    assert "void" not in figure.heading
    noisy = record(tmp_path / "noisy", noise=0.3, rounds=2)
    assert not noisy.manifest.notes["gate"]["ok"]
    shown = plot.causal_profile(noisy)
    assert shown.heading.endswith("(void)")
    shown.savefig(io.BytesIO(), format="svg")  # without intervals
    assert not np.isfinite(noisy.frame("causal_profile")["low"]).all()


def test_without_predictions_it_says_what_makes_them(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "made", collectors=["causal"], frames=["causal_profile"])
    with pytest.raises(MissingFrame, match="no predictions"):
        plot.causal_profile(writer.finish())
