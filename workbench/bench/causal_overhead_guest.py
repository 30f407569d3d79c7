"""The guest's part of `workbench bench causal-overhead`: each workload without and with SchedCoz at 0 %, in turns.

Prints one JSON object per measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from workbench.bench.causal_coz_guest import scheduler, undisturbed
from workbench.causal import shapes
from workbench.collectors.target import HeldCommand
from workbench.errors import RunFailed

__all__ = ("PROGRAMS", "Cost", "Shape", "measure")

_SETTLE, _QUIET = 0.4, 4.0  # s: after a change, after a boot

_SQL = """
create table t(k integer primary key, v text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
insert into t select i, hex(i * 7919 % 10007) from n;
"""
_QUERY = "select count(*), max(v) from t where v between '{0}' and '{0}9';\n"
_THREADS = """
import threading, zlib
data = bytes(range(256)) * 2048
threads = [threading.Thread(target=lambda: [zlib.compress(data, 6) for _ in range(24)]) for _ in range(2)]
[one.start() for one in threads]; [one.join() for one in threads]
"""
_OBJECTS = """
rows = []
for number in range(60000):
    rows.append({"key": number, "text": str(number * 7919 % 10007)})
    if len(rows) > 5000:
        rows.sort(key=lambda row: row["text"]); rows = rows[:100]
"""
_PIPELINE = "head -c 30000000 /dev/zero | tr '\\\\0' 'a' | gzip -1 | sha256sum"

PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "sqlite3, 40 queries": (("sqlite3", ":memory:", ".read {folder}/work.sql"), "sqlite3_prepare_v2"),
    "python3, two threads compress": (("python3", "-c", _THREADS), "libc:exit"),
    "python3, dictionaries": (("python3", "-c", _OBJECTS), "libc:exit"),
    "bash, a pipeline of four": (("bash", "-c", _PIPELINE), "libc:exit"),
}  # fmt: skip
"""Commands of fixed work and a progress point of each."""


@dataclass(frozen=True)
class Shape:
    """A shape of causal_shapes.c and the sizes of its work."""

    shape: str
    knobs: tuple[int, ...]
    seconds: float = 1.0


@dataclass(frozen=True)
class Cost:
    """One measurement.

    Attributes
    ----------
    workload : str
    with_schedcoz : bool
        An experiment at 0 % runs meanwhile; else nothing is loaded.
    repeat : int
    value : float
        ns of a round, or of the whole command.
    """

    workload: str
    with_schedcoz: bool
    repeat: int
    value: float


def measure(program: str, setups: Sequence[Shape], repeats: int, folder: Path) -> Iterator[Cost]:
    """Every workload `repeats` times in both ways."""
    (folder / "work.sql").write_text(
        _SQL + "".join(_QUERY.format(number % 10) for number in range(40))
    )
    random = Random(1)
    for repeat in range(repeats):
        ways = [False, True]
        for shape in setups:
            random.shuffle(ways)
            for way, value in _shape(program, shape, ways):
                yield Cost(shape.shape, way, repeat, value)
        for name, (command, point) in PROGRAMS.items():
            random.shuffle(ways)
            words = tuple(
                word.format(folder=folder) if "{folder}" in word else word for word in command
            )
            for way in ways:
                yield Cost(name, way, repeat, _command(words, point if way else ""))


def _shape(program: str, shape: Shape, ways: Sequence[bool]) -> Iterator[tuple[bool, float]]:
    """The time of a round of one process that goes on."""
    with shapes.Running(shapes.Shape(shape.shape, shape.knobs, ()), program) as running:
        time.sleep(_SETTLE)
        for way in ways:
            with ExitStack() as stack:
                if way:
                    coz = stack.enter_context(scheduler(running.pid, "progress"))
                    coz.begin(0.0)
                time.sleep(_SETTLE)
                begin = running.rounds()
                time.sleep(shape.seconds)
                value = running.period(begin)
                if way and not coz.end()[0].valid:
                    raise RunFailed(f"the kernel took SchedCoz away: {coz.scheduler.exit}")
            yield way, value


def _command(command: tuple[str, ...], point: str) -> float:
    """How long a command takes, ns; under SchedCoz if a progress point is given."""
    with ExitStack() as stack:
        held = HeldCommand(command, stdout=subprocess.DEVNULL)
        stack.callback(held.kill)
        coz = stack.enter_context(scheduler(held.pid, point)) if point else None
        if coz:
            coz.begin(0.0)
        begin = time.monotonic_ns()
        held.release()
        status = held.process.wait()
        took = time.monotonic_ns() - begin
        if status or (coz and not coz.end()[0].valid):
            raise RunFailed(
                f"{command[0]} ended with status {status}, or the kernel took SchedCoz away"
            )
        return float(took)


def main(path: str) -> None:
    """Measure what the file says; print each measurement when it is there."""
    wanted = json.loads(Path(path).read_text())
    setups = [Shape(one["shape"], tuple(one["knobs"]), one["seconds"]) for one in wanted["shapes"]]
    print(json.dumps({"begin": len(setups)}), flush=True)
    undisturbed()
    time.sleep(_QUIET)
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(wanted["program"], setups, int(wanted["repeats"]), Path(folder)):
            print(json.dumps(asdict(one)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
