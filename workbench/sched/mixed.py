"""A mixed workload for comparing schedulers: some processes compute, one sleeps and wakes up often.

Run as a program, by path: it imports nothing but the standard library. Prints one line of JSON: for every process its
name, kind, begin and end (ns after the common start), CPU time, and how late each wake-up was.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time


def compute(rounds: int) -> list[int]:
    """A fixed amount of work."""
    for _ in range(rounds):
        pass
    return []


def wake_often(done: mmap.mmap, interval: int) -> list[int]:
    """Sleep and wake until the others are done; how many ns after its time each wake-up came."""
    waits = []
    while not done[0]:
        due = time.monotonic_ns() + interval
        time.sleep(interval / 1e9)
        waits.append(time.monotonic_ns() - due)
    return waits


def main(computing: int, rounds: int, interval: int) -> None:
    """Fork all, let them begin together, print what each saw."""
    gate_in, gate_out = os.pipe()
    done = mmap.mmap(-1, mmap.PAGESIZE)
    children = []
    for number in range(computing + 1):
        result_in, result_out = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(gate_out)
            os.read(gate_in, 1)  # returns when the parent has closed the other end
            begin, used = time.monotonic_ns(), time.process_time_ns()
            waits = compute(rounds) if number else wake_often(done, interval)
            end, used = time.monotonic_ns(), time.process_time_ns() - used
            with os.fdopen(result_out, "w") as sink:
                json.dump({"begin": begin, "end": end, "cpu": used, "waits": waits}, sink)
            os._exit(0)
        os.close(result_out)
        kind = "computing" if number else "sleeping"
        children.append((pid, f"{kind} {number}" if number else kind, kind, result_in))
    start = time.monotonic_ns()
    os.close(gate_out)
    found = []
    for pid, name, kind, source in [*children[1:], children[0]]:
        with os.fdopen(source) as text:
            found.append({"task": name, "kind": kind, **json.load(text)})
        os.waitpid(pid, 0)
        done[0] = int(len(found) >= computing)
    print(json.dumps({"start": start, "tasks": found}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
