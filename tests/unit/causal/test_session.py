"""A run from the command line to the recording, with an engine in virtual time in place of the scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from causal_engines import Synthetic
from probed_programs import running

from workbench.causal import session
from workbench.causal.calibration import Calibration
from workbench.causal.regions import Pieces
from workbench.causal.session import profile
from workbench.cli import main
from workbench.errors import BadSpec, MissingCapability, UnknownSymbol
from workbench.frames.recording import load
from workbench.sched import schedcoz, state
from workbench.sched.measured import Located
from workbench.sched.schedcoz import Parameters

COMMAND = ["sleep", "600"]


class Engine(Synthetic):
    """`Synthetic` in the clothes of SchedCoz; remembers what it was made for."""

    made: list[Engine]
    interrupt_at = 0

    def __init__(
        self,
        _obj: object,
        points: list[tuple[str, int, int]],
        parameters: Parameters,
        latencies: Sequence[object] = (),
    ) -> None:
        super().__init__(counts=[50] * len(points), latencies=len(latencies))
        self.parameters, self.latencies, self.limits = (
            parameters,
            latencies,
            list[Mapping[int, Pieces]](),
        )
        self.points, self.taken, self.closed = points, [], False
        self.scheduler = types.SimpleNamespace(in_charge=True, exit="")
        Engine.made.append(self)

    def take(self, pid: int) -> None:
        self.taken.append(pid)

    def limit(self, places: Mapping[int, Pieces]) -> None:
        self.limits.append(places)

    def locations(self) -> list[Located]:
        """A third of the samples in the region, the others nowhere."""
        [(pid, pieces)] = self.selected[-1].items()
        return [
            Located(pid, pieces[0][0], 400, 500_000_000, 300),
            Located(pid, 0, 800, 800_000_000, 600),
        ]

    def begin(self, speedup: float) -> None:
        super().begin(speedup)
        if len(self.begun) == self.interrupt_at:
            raise KeyboardInterrupt

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    monkeypatch.setattr(schedcoz, "SchedCoz", Engine)
    monkeypatch.setattr(state, "read_state", lambda: state.State("disabled", "", 0, {}))
    monkeypatch.setattr(Engine, "made", [], raising=False)
    monkeypatch.setattr(session, "machine_calibration", lambda parameters, say: None)
    return Engine


def words(output: Path, *more: str) -> list[str]:
    options = [
        "-p",
        "libc:malloc",
        "-r",
        "libc:free",
        "--speedups",
        "0,0.5",
        "--rounds",
        "3",
        "--shortest",
        "0.01",
    ]
    return ["causal", "run", "-q", *options, "-o", str(output), *more]


def test_a_command_is_profiled_and_ended(
    engine: type[Engine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            words(
                tmp_path / "made", "--json", "--coz", str(tmp_path / "profile.coz"), "--", *COMMAND
            )
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["gate"]["ok"] and printed["experiments"] == 6 and printed["warnings"] == []
    assert {row["speedup"]: round(row["change"]) for row in printed["profile"]} == {0: 0, 0.5: -30}
    [made] = engine.made
    [pid] = made.taken
    assert made.closed and not Path(f"/proc/{pid}").exists()
    assert all(place[pid][0][0] < place[pid][0][1] for place in made.selected)
    recording = load(tmp_path / "made")
    assert recording.manifest.command == tuple(COMMAND) and recording.status == "complete"
    assert (tmp_path / "profile.coz").read_bytes() == recording.file("profile.coz")


def test_a_machine_that_is_refused_makes_the_run_void_and_a_known_stop_cost_is_used(
    engine: type[Engine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Calibration(
        stop_cost=120_000.4, stop_cost_error=9e3, predicted=-30.0, true=-20.0, null_predicted=0.0, null_true=0.0,
        period_difference=0.0, period_error=1.0, uncertainty=1.0, noise=2.0, drift=1.0,
        reasons=("a known gain of -20.0 % is predicted as -30.0 %",),
    )  # fmt: skip
    monkeypatch.setattr(session, "machine_calibration", lambda parameters, say: found)
    assert main(words(tmp_path / "made", "--", *COMMAND)) == 1
    assert "VOID: this machine: a known gain of -20.0 %" in capsys.readouterr().out
    assert engine.made[0].parameters.stop_cost == 120_000
    notes = load(tmp_path / "made").manifest.notes
    assert notes["calibration"]["stop_cost"] == 120_000.4 and not notes["gate"]["ok"]
    assert main(words(tmp_path / "other", "--no-checks", "--", *COMMAND)) == 0
    assert engine.made[1].parameters.stop_cost == 0


def test_the_table_names_the_region_that_promises_most_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "made", "--", *COMMAND)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["progress", "point", "region"]
    assert "-30.0 %" in lines[2] and "libc:free" in lines[2]
    assert "agree within" in lines[3] and str(tmp_path / "made") in lines[4]


def test_ctrl_c_keeps_what_was_measured(
    engine: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "interrupt_at", 4)
    assert main(words(tmp_path / "made", "--", *COMMAND)) == 130
    recording = load(tmp_path / "made")
    assert recording.status == "interrupted"
    assert list(recording.frame("experiments")["reason"]) == ["", "", "", "interrupted"]
    assert not Path(f"/proc/{engine.made[0].taken[0]}").exists()


def test_a_process_is_left_running(engine: type[Engine], tmp_path: Path) -> None:
    with running(COMMAND) as process:
        options = [word if word != "run" else "attach" for word in words(tmp_path / "made")]
        assert main([*options, "--pid", str(process.pid)]) == 0
        assert process.alive and engine.made[0].taken == [process.pid]


def test_a_target_that_ends_ends_the_run(tmp_path: Path) -> None:
    code = "import time; time.sleep(1)"
    options = ["-p", "libc:malloc", "-r", "libc:free", "--speedups", "0", "--shortest", "0.05"]
    python = [os.path.realpath("/proc/self/exe"), "-c", code]
    status = main(["causal", "run", "-q", *options, "-o", str(tmp_path / "made"), "--", *python])
    made = load(tmp_path / "made").frame("experiments")
    assert status in (0, 1)  # 1 where a busy machine left too few experiments to judge
    assert made["reason"].iloc[-1] in ("the target ended", "")


def test_what_cannot_work_is_said_before_anything_begins(
    engine: type[Engine], tmp_path: Path
) -> None:
    output = tmp_path / "made"
    with pytest.raises(UnknownSymbol):
        profile(["libc:malloc"], ["libc:nothing_of_that_name"], command=COMMAND, output=output)
    with pytest.raises(UnknownSymbol):
        profile(["libc:nothing_of_that_name"], ["libc:free"], command=COMMAND, output=output)
    with pytest.raises(BadSpec):
        profile(["libc:malloc"], command=COMMAND, pid=1, output=output)
    assert main(["causal", "run", "-p", "libc:malloc"]) == 2
    assert main(["causal", "run", "--", "true"]) == 2
    assert main(["causal", "run", "-p", "a", "--speedups", "a,b", "--", "true"]) == 2
    assert not engine.made and not list(tmp_path.iterdir())


def test_a_kernel_without_sched_ext_and_another_scheduler_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(state, "read_state", lambda: state.State("enabled", "other", 1, {}))
    with pytest.raises(MissingCapability, match="'other' is enabled"):
        profile(["libc:malloc"], command=COMMAND, output=tmp_path / "made")
    monkeypatch.undo()
    monkeypatch.setattr(state, "_SYSFS", tmp_path / "none")
    assert main(words(tmp_path / "made", "--backend", "scheduler", "--", *COMMAND)) == 3
    said = capsys.readouterr().err
    assert "--lab" in said and "--backend userspace" in said
    assert main(words(tmp_path / "made", "--scope", "cgroup", "--", *COMMAND)) == 3
    assert "sched_ext" in capsys.readouterr().err
    assert (
        main(
            words(tmp_path / "made", "--backend", "userspace", "--scope", "cgroup", "--", *COMMAND)
        )
        == 2
    )


def test_latencies_samples_and_callers_reach_the_engine_and_the_recording(
    engine: type[Engine], tmp_path: Path
) -> None:
    latency = "libc:malloc,libc:free"
    options = [
        "--latency",
        latency,
        "--callers",
        "8",
        "--within",
        "libc*",
        "--coz",
        str(tmp_path / "profile.coz"),
    ]
    assert main([*words(tmp_path / "made", *options), "--", *COMMAND]) == 0
    [made] = engine.made
    [(begin, end)] = made.latencies
    assert begin != end and made.parameters.frames == 8 and made.parameters.only_scoped
    [limits] = made.limits  # one process, which stays the same
    [libc] = [pieces for pieces in limits.values()]
    [free] = [pieces for pieces in made.selected[0].values()]
    assert any(low <= free[0][0] < high for low, high in libc)
    recording = load(tmp_path / "made")
    profile = recording.frame("causal_profile").set_index(["point", "speedup"])
    assert profile.loc[("libc:malloc", 0.5), "kind"] == "throughput"
    row = profile.loc[(latency, 0.5)]
    assert row["kind"] == "latency" and row["change"] == pytest.approx(-30)
    samples = recording.frame("causal_samples")
    assert list(samples["location"]) == ["", "libc:free"] and list(samples["lost"]) == [0, 100]
    lines = [json.loads(line) for line in (tmp_path / "profile.coz").read_text().splitlines()]
    assert {"type": "samples", "location": "libc:free", "count": 400} in lines
    assert sum(line["type"] == "latency-point" for line in lines) == 6


def test_without_callers_a_sample_belongs_to_its_instruction(
    engine: type[Engine], tmp_path: Path
) -> None:
    assert main([*words(tmp_path / "made"), "--", *COMMAND]) == 0
    assert not engine.made[0].limits and engine.made[0].parameters.frames == 0
    assert main([*words(tmp_path / "other", "--within", "libc*"), "--", *COMMAND]) == 2


def test_a_run_may_be_of_latencies_alone(engine: type[Engine], tmp_path: Path) -> None:
    options = [word for word in words(tmp_path / "made") if word not in ("-p", "libc:malloc")]
    assert main([*options, "--latency", "libc:malloc,libc:free", "--", *COMMAND]) == 0
    assert load(tmp_path / "made").frame("progress")["kind"].unique().tolist() == ["latency"]
    for wrong in (
        "libc:malloc",
        "libc:malloc,",
        "libc:malloc,libc:malloc",
        "libc:malloc,libc:free,libc:read",
    ):
        assert main([*options, "--overwrite", "--latency", wrong, "--", *COMMAND]) == 2


FULL_DISK = """
import os, sys
from pathlib import Path
import test_session
from workbench.causal import session
from workbench.cli import main
from workbench.sched import schedcoz, state

class Filling(test_session.Engine):
    def begin(self, speedup):
        super().begin(speedup)
        if len(self.begun) == 4:
            with open(sys.argv[1] + "/filler", "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    pass

test_session.Engine.made = []
schedcoz.SchedCoz = Filling
session.machine_calibration = lambda parameters, say: None
state.read_state = lambda: state.State("disabled", "", 0, {})
place = Path(sys.argv[1]) / "made"
status = main([*test_session.words(place, "--json", "--no-checks"), "--", "sleep", "600"])
from workbench.frames.recording import load
recording = load(place)
print("|".join([str(status), recording.status, recording.manifest.reason, str(len(recording.frame("experiments")))]))
"""


def test_a_full_disk_ends_the_run_and_keeps_what_was_measured(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "fill.py").write_text(FULL_DISK)
    here = Path(__file__)
    mount = f'mount -t tmpfs -o size=3m none "{disk}" && exec "$@"'
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--map-root-user",
            "sh",
            "-c",
            mount,
            "sh",
            sys.executable,
            tmp_path / "fill.py",
            disk,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{here.parent}:{here.parents[2] / 'support'}"},
    )
    assert done.returncode == 0, done.stderr
    status, ended, reason, kept = done.stdout.splitlines()[-1].split("|")
    assert status in ("1", "130") and ended == "interrupted" and reason == "disk full"
    assert int(kept) >= 3
