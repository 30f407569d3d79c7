"""OpenCL calls with known numbers on the first platform; prints what was asked for, as JSON.

The buffers are made in a loop so that one of them stays; one creation fails on purpose.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pyopencl as cl

SOURCE = """
__kernel void add_one(__global float *data) { data[get_global_id(0)] += 1; }
__kernel void fill_both(__global float *data) { data[get_global_id(1) * 64 + get_global_id(0)] = 3; }
"""


def main() -> None:
    context = cl.Context([cl.get_platforms()[0].get_devices()[0]])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, SOURCE).build()
    add_one, fill_both = cl.Kernel(program, "add_one"), cl.Kernel(program, "fill_both")
    host = np.zeros(4096, np.float32)
    flags = cl.mem_flags.READ_WRITE
    done = dict.fromkeys(("launches", "writes", "reads", "copies", "fills", "allocs", "frees", "failed"), 0)
    bytes_ = dict.fromkeys(("written", "read", "copied", "filled", "allocated", "freed"), 0)
    kept = cl.Buffer(context, flags, 5000)
    done["allocs"] += 1
    bytes_["allocated"] += 5000
    try:
        cl.Buffer(context, flags, 0)
    except cl.LogicError as error:
        done["failed"] += 1
        code = error.code
    for i in range(20):
        size = host.nbytes + 16 * i
        one, two = cl.Buffer(context, flags, size), cl.Buffer(context, flags, size)
        cl.enqueue_copy(queue, one, host, is_blocking=True)
        for _ in range(10):
            add_one(queue, (4096,), (64,), one)
        fill_both(queue, (64, 64), None, one)
        cl.enqueue_copy(queue, two, one, byte_count=1000)
        cl.enqueue_fill_buffer(queue, two, np.float32(1), 0, 256)
        cl.enqueue_copy(queue, host, one, is_blocking=True)
        queue.finish()
        one.release()
        two.release()
        counts = {"launches": 11, "writes": 1, "reads": 1, "copies": 1, "fills": 1, "allocs": 2, "frees": 2}
        for key, count in counts.items():
            done[key] += count
        for key, count in (("written", host.nbytes), ("read", host.nbytes), ("copied", 1000), ("filled", 256)):
            bytes_[key] += count
        bytes_["allocated"] += 2 * size
        bytes_["freed"] += 2 * size
    assert (host == 3).all()
    print(json.dumps({**done, **bytes_, "code": code, "kept": kept.int_ptr, "queue": queue.int_ptr}), flush=True)
    os._exit(0)  # the interpreter would release the kept buffer


if __name__ == "__main__":
    main()
