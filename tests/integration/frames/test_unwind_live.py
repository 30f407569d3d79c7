"""Real programs, stopped anywhere: their chains are complete, and every single instruction keeps them consistent."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ptrace_snapshots import Samples, every_instruction, snapshots

from workbench.frames.unwind import Status, Unwinder, Unwound
from workbench.frames.unwind_tables import UnwindTables

pytestmark = pytest.mark.needs("ptrace")

DATABASE = """
import sqlite3
database = sqlite3.connect(":memory:")
print("running", flush=True)
while True:
    database.execute(
        "with recursive c(x) as (select 1 union all select x + 1 from c where x < 30000)"
        " select count(*), sum(length(printf('%d', x * 7 % 13))) from c"
    ).fetchall()
"""
INTERPRETER = """
import json, re, threading
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def work():
    while True:
        fib(12)
        json.loads(json.dumps(list(range(300))))
        re.findall("(a|b)*c", "abababc" * 20)
        sorted(range(300), key=lambda x: -x)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("running", flush=True)
work()
"""


@contextmanager
def python(script: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"running\n"
            yield process.pid
        finally:
            process.kill()


def chains(samples: Samples, found: Unwound) -> list[tuple[int, ...]]:
    ends = np.cumsum(found.lengths)
    return [tuple(part.tolist()) for part in np.split(found.addresses, ends[:-1])]


def complete(found: Unwound) -> float:
    return float((found.status == Status.COMPLETE).mean())


@pytest.fixture
def unwinder(tmp_path: Path) -> Unwinder:
    return Unwinder(UnwindTables(tmp_path))


@pytest.mark.parametrize(("script", "depth"), [(DATABASE, 8), (INTERPRETER, 8)])
def test_interpreter_and_database_library(unwinder: Unwinder, script: str, depth: int) -> None:
    with python(script) as pid:
        samples = snapshots(pid, 200)
        found = unwinder.unwind(*samples[:5])
    assert complete(found) >= 0.98, Counter(found.status.tolist())
    assert found.lengths.mean() > depth
    # every thread of a process begins in the same place
    roots = {(tid == pid, chain[-1]) for tid, chain in zip(samples.tids, chains(samples, found), strict=True)}
    assert len(roots) <= 2 + round(0.02 * len(samples.tids))


@pytest.mark.needs("redis-server")
def test_redis_server_under_load(unwinder: Unwinder, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            while b"ready to accept" not in (line := server.stdout.readline()):
                assert line, "redis-server ended"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                # one long command, so that the server is busy throughout
                script = "for i = 1, 1e9 do redis.call('zadd', 'z', i % 1000, i % 777) end"
                client.sendall(f'EVAL "{script}" 0\r\n'.encode())
                samples = snapshots(server.pid, 150)
                found = unwinder.unwind(*samples[:5])
        finally:
            server.kill()
    assert len(set(samples.tids)) > 3
    assert complete(found) >= 0.98, Counter(found.status.tolist())
    busy = found.lengths[np.array(samples.tids) == server.pid]
    assert busy.max() > 8, "Lua, the command and its caller are in the chain"


def test_every_instruction(unwinder: Unwinder) -> None:
    """A step leaves the callers as they are, adds the caller at a call, removes one at a return; nothing else."""
    with python(DATABASE) as pid:
        samples = every_instruction(pid, 6000)
        found = unwinder.unwind(*samples[:5])
    assert complete(found) == 1.0, Counter(found.status.tolist())
    kinds: Counter[str] = Counter()
    before: tuple[int, ...] = ()
    for chain in chains(samples, found):
        if before:
            ip, callers, now = before[0], before[1:], chain[1:]
            if now == callers:
                kinds["same"] += 1
            elif now[1:] == callers and 0 < now[0] + 1 - ip <= 16:
                kinds["call"] += 1
            elif now == callers[1:] and chain[0] == callers[0] + 1:
                kinds["return"] += 1
            else:
                kinds["wrong"] += 1
        before = chain
    assert kinds["wrong"] == 0, kinds
    assert kinds["call"] > 20 and kinds["return"] > 20, kinds
