"""The workload that schedulers are compared by, under this machine's own scheduler; the figure of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import BadSpec


def test_the_kernels_own_scheduler_needs_nothing(tmp_path: Path) -> None:
    variants = [wb.sched.Variant("own"), wb.sched.Variant("again")]
    recording = wb.sched.compare(
        tmp_path / "made", variants, computing=2, rounds=200_000, interval=1_000_000, lab=False
    )
    tasks = recording.frame("scheduler_tasks")
    assert tasks.scheduler.tolist() == ["own"] * 3 + ["again"] * 3
    assert tasks.kind.tolist() == ["computing", "computing", "sleeping"] * 2
    assert (tasks.end > tasks.begin).all() and (tasks.cpu[tasks.kind == "computing"] > 0).all()
    assert (recording.frame("scheduler_waits").wait >= 0).all()
    figure = wb.plot.schedulers(recording)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["own", "again"]
    assert figure.save(tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels(labels: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="labels of their own"):
        wb.sched.compare(
            tmp_path / "made", [wb.sched.Variant(label) for label in labels], lab=False
        )
    assert not (tmp_path / "made").exists()
