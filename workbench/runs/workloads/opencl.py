"""Matrix products on OpenCL: allocations, copies both ways, launches and waits. PoCL runs the kernels on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.runs.workloads.program import run

SIDE = 192
SOURCE = """
__kernel void product(__global const float *a, __global const float *b, __global float *c, int n)
{
    int row = get_global_id(1), column = get_global_id(0);
    float sum = 0;
    for (int k = 0; k < n; k++)
        sum += a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
}
"""


def prepare(_folder: Path) -> tuple[dict[str, Any], Callable[[], None]]:
    """Compile the kernel; the step is one product with its copies, checked."""
    import pyopencl as cl

    device = cl.get_platforms()[0].get_devices()[0]
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    kernel = cl.Kernel(cl.Program(context, SOURCE).build(), "product")
    random = np.random.default_rng(1)
    a, b = (random.random((SIDE, SIDE), np.float32) for _ in range(2))
    expected = a @ b
    result = np.empty_like(a)

    def step() -> None:
        flags = cl.mem_flags.READ_WRITE
        buffers = [cl.Buffer(context, flags, a.nbytes) for _ in range(3)]
        cl.enqueue_copy(queue, buffers[0], a, is_blocking=False)
        cl.enqueue_copy(queue, buffers[1], b, is_blocking=False)
        for _ in range(3):
            kernel(queue, (SIDE, SIDE), None, *buffers, np.int32(SIDE))
        cl.enqueue_copy(queue, result, buffers[2], is_blocking=True)
        queue.finish()
        for buffer in buffers:
            buffer.release()
        if not np.allclose(result, expected, rtol=1e-3):
            raise SystemExit("the product is wrong")
        time.sleep(0.005)

    step()
    return {"device": device.name, "platform": device.platform.name}, step


if __name__ == "__main__":
    run(prepare)
