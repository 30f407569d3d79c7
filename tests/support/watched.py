"""Run watch collectors on real programs, without a recorder."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from memory_sink import MemorySink

from workbench.collectors.base import Target
from workbench.collectors.registry import make
from workbench.collectors.target import HeldCommand

LONGEST = 60.0


@dataclass
class Seen:
    """What one run gave."""

    hits: pd.DataFrame
    windows: pd.DataFrame
    losses: dict[tuple[str, str], int]
    overhead: pd.DataFrame
    sink: MemorySink
    collectors: list[Any]
    status: int | None
    pid: int

    def lost(self, cause: str) -> int:
        """Losses of a cause over all collectors."""
        return sum(count for (_, one), count in self.losses.items() if one == cause)


def compile_program(source: str, folder: Path, name: str, *flags: str) -> Path:
    """Compile C (or assembly, when the name ends in .s)."""
    file = folder / (name if name.endswith(".s") else f"{name}.c")
    file.write_text(source)
    output = folder / name.removesuffix(".s")
    subprocess.run(["cc", "-O1", "-g", *flags, "-o", output, file, "-lpthread"], check=True)
    return output


def symbols(program: Path) -> dict[str, int]:
    """Addresses of a program's symbols, in the file."""
    lines = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    return {w[2]: int(w[0], 16) for w in map(str.split, lines.splitlines()) if len(w) == 3}


def bias(pid: int, program: Path) -> int:
    """Load bias of a program in a process."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if len(words) == 6 and words[5] == str(program) and words[2] == "00000000":
            return int(words[0].split("-")[0], 16)
    raise AssertionError(f"{program} is not mapped in {pid}")


def wait(collectors: Sequence[Any], until: Callable[[], bool], limit: float = LONGEST) -> None:
    """Drain as the recorder does until a condition holds."""
    end = time.monotonic() + limit
    while not until():
        assert time.monotonic() < end, "did not end in time"
        fds = [fd for one in collectors for fd in one.wake_fds()]
        select.select(fds, [], [], 0.02)
        for one in collectors:
            one.drain()


def finish(collectors: Sequence[Any]) -> None:
    """What the recorder does at the end."""
    for one in collectors:
        one.detach()
    for one in collectors:
        one.drain()
        one.finish()


def attach(specs: Sequence[str], target: Target, sink: MemorySink) -> list[Any]:
    """Attach collectors to a target; on failure none stays attached."""
    attached: list[Any] = []
    try:
        for one in map(make, specs):
            one.attach(target, sink)
            attached.append(one)
    except BaseException:
        finish(attached)
        raise
    return attached


def seen(sink: MemorySink, collectors: list[Any], status: int | None, pid: int) -> Seen:
    """Everything that a run gave."""
    losses = sink.frame("losses")
    causes = {(row.collector, row.cause): int(row.lost) for row in losses.itertuples(index=False)}
    return Seen(
        sink.frame("watches"), sink.frame("watch_windows"), causes, sink.frame("overhead"), sink, collectors,
        status, pid,
    )  # fmt: skip


def run(
    command: Sequence[str | Path], *specs: str, follow: bool = True, env: dict[str, str] | None = None,
    before: Callable[[HeldCommand], None] | None = None,
) -> Seen:  # fmt: skip
    """Watch a command from its first instruction to its end."""
    sink = MemorySink()
    made = [make(spec) for spec in specs]
    variables = {"PATH": "/usr/bin:/bin", **(env or {})}
    for one in made:
        one.prepare_environment(variables)
    held = HeldCommand(tuple(map(str, command)), env=variables, stdout=subprocess.DEVNULL)
    attached: list[Any] = []
    try:
        target = held.target
        target.follow = follow
        if before is not None:
            before(held)
        for one in made:
            one.attach(target, sink)
            attached.append(one)
        if target.unwinding:
            target.unwinder().prepare(held.pid)
        held.release()
        wait(attached, lambda: held.process.poll() is not None)
        finish(attached)
        return seen(sink, attached, held.process.returncode, held.pid)
    except BaseException:
        finish(attached)
        raise
    finally:
        held.kill()


def signed(column: Any) -> np.ndarray:
    """A value column as signed integers."""
    return np.array(column.tolist(), np.uint64).astype(np.int64)
