"""The process that a calibration probes: calls tiny native functions in a loop, as often as it is told.

Run as a script with a file of machine code (`calibration_runner.machine_code`). It reads lines `CALLS ROUNDS OFFSET...`
and calls the loops at those offsets in turn, `ROUNDS` times; it answers with two numbers for each: the nanoseconds of
CPU time that it took, and how often the thread was interrupted meanwhile.
"""

import ctypes
import gc
import mmap
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    with Path(sys.argv[1]).open("rb") as file:
        # Not writable: the kernel puts no probes into writable mappings.
        base = libc.mmap(
            None, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file.fileno(), 0
        )
    if base in (None, 2**64 - 1):
        sys.exit("no executable mapping")
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint)
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        calls, rounds, *offsets = map(int, line.split())
        loops = [function(base + offset) for offset in offsets]
        answer = []
        for _ in range(rounds):
            for call in loops:
                before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
                # CPU time: what other processes run meanwhile is no part of the cost.
                start = time.thread_time_ns()
                call(calls)
                took = time.thread_time_ns() - start
                interrupts = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before
                answer += [took, interrupts]
        print(*answer, flush=True)


if __name__ == "__main__":
    main()
