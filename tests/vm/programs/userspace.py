"""Runs in a guest: an object's programs come into a process and leave it; prints what was seen as JSON.

Its kernel may let only a tracer write to code. Arguments: the object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import workbench as wb
from workbench.runtime.attach import collect
from workbench.runtime.attach.memory import mappings
from workbench.runtime.jit import Blob, ProbeCode

TARGET = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
print(0, flush=True)
for line in sys.stdin:
    print(sum(libc.abs(-1) for _ in range(int(line)) if os.getppid()), flush=True)
"""


go, compiled = threading.Event(), ProbeCode._compile


def compile_when_told(code: ProbeCode, tier: str) -> Blob:
    assert tier != "optimised" or go.wait(300)
    return compiled(code, tier)


ProbeCode._compile = compile_when_told  # type: ignore[method-assign,assignment]
os.environ["WORKBENCH_CACHE"] = tempfile.mkdtemp()


def code_of(pid: int) -> dict[int, bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        found = {}
        for one in mappings(pid):
            if one.executable and one.inode:
                memory.seek(one.start)
                found[one.start] = memory.read(one.end - one.start)
        return found


def maps_of(pid: int) -> list[tuple[int, int, str]]:
    return [(one.start, one.end, one.mode) for one in mappings(pid) if one.path[:1] != "["]


with subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", TARGET],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
) as target:  # fmt: skip

    def ask(times: int) -> int:
        assert target.stdin and target.stdout
        target.stdin.write(f"{times}\n")
        target.stdin.flush()
        return int(target.stdout.readline())

    assert target.stdout
    target.stdout.readline()
    answers = [ask(10)]
    code, maps = code_of(target.pid), maps_of(target.pid)
    with wb.open(sys.argv[1]).load("userspace", pid=target.pid) as loaded:
        links = [loaded.attach(one, "libc:abs") for one in ("called", "returned")]
        links.append(loaded.attach("entered"))
        tiers = [loaded.programs["called"].tiers[target.pid]]
        answers.append(ask(10))
        go.set()
        for one in ("called", "returned", "entered"):
            loaded.programs[one].wait(300)
        tiers.append(loaded.programs["called"].tiers[target.pid])
        answers.append(ask(10))
        seen = [int(loaded.globals[one]) for one in ("calls", "returns", "getppids")]
        hits = [one.hits for one in links[:2]]
    answers.append(ask(10))
    problems = [one.problem for one in collect() if one.pid == target.pid and one.problem]
    print(
        json.dumps(
            {
                "answers": answers,
                "tiers": tiers,
                "seen": seen,
                "hits": hits,
                "problems": problems,
                "code": code_of(target.pid) == code,
                "memory": maps_of(target.pid) == maps,
            }
        )
    )
    target.kill()
