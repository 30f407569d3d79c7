"""The ranking of regions, the live view, and `wb.causal` as it reaches the run."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from causal_engines import Known, Program, Synthetic

import workbench as wb
from workbench.causal import api
from workbench.causal.controller import State, experiments
from workbench.causal.plan import Plan
from workbench.causal.regions import Region
from workbench.causal.results import Results
from workbench.errors import BadSpec, MissingFrame
from workbench.frames.recording import Recording
from workbench.frames.writer import RecordingWriter
from workbench.notebook import causal_view, plot

PLAN = Plan((Region("a$b.c:5"), Region("other")), speedups=(0.25, 0.5), rounds=4)


def made(path: Path, states: list[State] | None = None) -> tuple[Results, Recording]:
    results = Results(RecordingWriter(path, collectors=["causal"]), ["done"])
    engine, told = Synthetic(noise=0.01), states if states is not None else []
    for one in experiments(engine, Program(), PLAN, ["done"], finder=Known(), progress=told.append):  # type: ignore[arg-type]
        results.add(one)
    samples = pd.DataFrame(
        {
            "location": ["a$b.c:5", ""],
            "count": [300, 100],
            "weight": 1,
            "lost": 0,
            "plain": [200, 80],
        }
    )
    return results, results.finish("complete", "", seed=1, tolerance=3, samples=samples)


def test_regions_are_ranked_by_their_best_beside_their_samples(tmp_path: Path) -> None:
    _, recording = made(tmp_path / "made")
    figure = plot.causal_ranking(recording)
    [axes] = figure.axes
    table = recording.frame("causal_profile")
    best = sorted(-table[table["speedup"] > 0].groupby("region")["change"].min(), reverse=True)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[:2] == pytest.approx(best)
    assert 75 in widths[2:]
    assert all("(50% faster)" in text.get_text() for text in axes.get_yticklabels())
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    empty = RecordingWriter(tmp_path / "empty", collectors=["causal"], frames=["causal_profile"])
    with pytest.raises(MissingFrame):
        plot.causal_ranking(empty.finish())


def test_a_notebook_sees_curves_and_the_time_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, str]] = []
    monkeypatch.setattr(causal_view, "surface", lambda: "document")
    monkeypatch.setattr(
        causal_view.LiveOutput,
        "show",
        lambda _, text, page="", extra=None: shown.append((text, page)),
    )
    states: list[State] = []
    results, recording = made(tmp_path / "made", states)
    view = causal_view.CausalView()
    view.say("sampling for 1 s")
    view.watch(results, states[-1])
    view.finish(recording)
    assert shown[0][0] == "sampling for 1 s"
    text, page = shown[1]
    assert (
        text == str(states[-1])
        and "to go" in page
        and "progressbar" in page
        and "image/png" in page
    )
    assert shown[2][0].startswith("complete; ") and "image/png" in shown[2][1]


def test_outside_a_notebook_nothing_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_view, "surface", lambda: "none")
    states: list[State] = []
    results, recording = made(tmp_path / "made", states)
    view = causal_view.CausalView()
    view.say("a")
    view.watch(results, states[0])
    view.finish(recording)


def test_the_function_has_the_options_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setattr(
        api,
        "profile_in_guest",
        lambda words, command, place, **more: got.update(words=words, **more),
    )
    wb.causal(
        "done",
        ["a", "b"],
        command=["./x"],
        latency="in,out",
        speedups=(0, 0.5),
        rounds=2,
        lab=True,
        quiet=True,
    )
    from workbench.cli import causal as command
    from workbench.cli.causal import options

    parser = argparse.ArgumentParser()
    command.configure(parser)
    arguments = parser.parse_args(["run", *got["words"], "--", "./x"])
    assert (arguments.progress, arguments.region, arguments.latency) == (
        ["done"],
        ["a", "b"],
        ["in,out"],
    )
    plan = options.plan(arguments)
    assert plan.speedups == (0, 0.5) and plan.rounds == 2 and got["mode"] == "deterministic"
    with pytest.raises(BadSpec):
        wb.causal("done", command=["./x"], within="libc*", quiet=True)
    with pytest.raises(BadSpec):
        wb.causal("done", pid=1, lab=True, quiet=True)
