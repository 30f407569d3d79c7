"""A real server in the guest: its bottleneck ranks first, and is worth what removing it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.bench.causal_servers import programs, summarise, words
from workbench.frames.recording import load
from workbench.lab.vm import Vm

pytestmark = [pytest.mark.needs("QEMU"), pytest.mark.timeout(3000)]

LIMIT = 2700.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one


def test_redis_without_the_work_that_was_planted_is_as_fast_as_predicted(
    vm: Vm, tmp_path: Path
) -> None:
    for program in programs():
        vm.copy_in(program, "/tmp/demonstrations/")
    result = vm.run(words(["redis"], "deterministic", 1, 0.1), limit=LIMIT, output=tmp_path)
    assert result.ok, (result.stderr.decode(errors="replace"), vm.console[-2000:])
    [found] = [json.loads(line) for line in result.text.splitlines()]
    judged = summarise([found], allowed=6.0)  # one experiment each, of a thousand samples
    assert judged.ok, str(judged)
    full = judged.gains[0]
    assert full["spot"] == "audit_digest" and full["measured"] < -20
    recording = load(tmp_path / "redis")
    assert len(recording.frame("demonstration_trials")) == 11
    assert recording.frame("demonstration_gains")["rank"].iloc[0] == 1
