"""The process that a calibration probes: calls a tiny native function in a loop, as often as it is told.

Run as a script with a file of machine code (`calibrate.machine_code`): reads lines `OFFSET COUNT`, calls the loop at
that offset, answers with the nanoseconds it took.
"""

import ctypes
import mmap
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
    print("ready", flush=True)
    for line in sys.stdin:
        offset, count = map(int, line.split())
        call = function(base + offset)
        start = time.perf_counter_ns()
        call(count)
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
