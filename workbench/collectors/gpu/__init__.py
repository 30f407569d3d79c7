"""Calls of GPU APIs on the host side: CUDA runtime, CUDA driver and OpenCL (frame `gpu_calls`)."""

from __future__ import annotations

from workbench.collectors.gpu.collector import GpuCollector

__all__ = ("GpuCollector",)
