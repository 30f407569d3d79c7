"""Calls of GPU APIs on the host side: CUDA runtime, CUDA driver and OpenCL (frame `gpu_calls`).

`apis` lists the hooked functions and their parameters (add one there), `libraries` finds them in shared and static
form, `hooks` attaches the programs of bpf/gpu.bpf.c, `rows` and `summary` turn their records into frames.
"""

from __future__ import annotations

from workbench.collectors.gpu.collector import GpuCollector

__all__ = ("GpuCollector",)
