"""Compile small targets and run one collector on them, without a recorder."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory_sink import MemorySink

from workbench.collectors.registry import make
from workbench.collectors.target import HeldCommand


def compile_c(folder: Path, name: str, source: str, *flags: str, compiler: str = "gcc") -> str:
    suffix = ".cc" if compiler == "g++" else ".c"
    path = folder / f"{name}{suffix}"
    path.write_text(source)
    output = folder / name
    subprocess.run([compiler, "-o", str(output), str(path), *flags], check=True, timeout=60)
    return str(output)


def run_collector(
    spec: str, command: Sequence[str], *, prepare: Any = None, env: dict[str, str] | None = None
) -> tuple[Any, MemorySink, str]:
    """Record a command to its end: the collector, the sink, and what the command printed."""
    collector, sink = make(spec), MemorySink()
    held = HeldCommand(tuple(command), stdout=subprocess.PIPE, env=env)
    try:
        collector.attach(held.target, sink)
        notes = collector.notes()
    except BaseException:
        held.kill()
        raise
    if prepare:
        prepare(collector, held)
    held.release()
    out = held.process.communicate(timeout=60)[0]
    collector.detach()
    collector.drain()
    collector.finish()
    collector.noted = notes
    return collector, sink, out.decode() if isinstance(out, bytes) else out


def losses(sink: MemorySink) -> dict[str, int]:
    frame = sink.frame("losses")
    return {
        cause: int(lost) for cause, lost in zip(frame["cause"], frame["lost"], strict=True) if lost
    }
