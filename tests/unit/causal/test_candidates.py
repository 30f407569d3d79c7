"""Regions chosen by sampling a program whose shares are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probed_programs import running

from workbench.causal.candidates import candidates
from workbench.causal.regions import Finder
from workbench.errors import RunFailed, TargetGone
from workbench.native.build import workload


@pytest.mark.needs("perf_event BPF")
def test_functions_are_ranked_by_the_time_spent_in_them(tmp_path: Path) -> None:
    knobs = np.zeros(512, np.uint64)
    knobs[:2] = 90_000, 30_000
    knobs.tofile(tmp_path / "knobs")
    with running([workload("causal_shapes"), "serial", tmp_path / "knobs"]) as process:
        found = candidates(process.pid, 1.5)
        first, second = list(found)[:2]
        assert (first.spec, second.spec) == ("region_a", "region_b")
        assert found[first] > 1.5 * found[second]
        places = Finder().places([process.pid], first)
        assert places[process.pid][0][0] < places[process.pid][0][1]


@pytest.mark.needs("perf_event BPF")
def test_a_program_that_is_not_at_work_gives_no_region() -> None:
    with running(["sleep", "600"]) as process, pytest.raises(RunFailed, match="no sample") as error:
        candidates(process.pid, 0.2)
    assert "--region" in error.value.hint
    with pytest.raises(TargetGone):
        candidates(process.pid, 0.1)
