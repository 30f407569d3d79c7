"""Trials of GPU programming interfaces."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, trial

__all__ = ("find_runtime",)

_TOOLKITS = ("lib64", "lib", "targets/*/lib")


def find_runtime() -> Path | None:
    """The CUDA runtime library with the highest version: of a toolkit (CUDA_HOME, /usr/local/cuda*), of this Python's
    packages, or of the system; None where there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [f"{home}/{lib}" for home in (*homes, "/usr/local/cuda*", "/opt/cuda*") for lib in _TOOLKITS]
    places += [f"{folder}/nvidia/*/lib" for folder in sys.path if folder]
    places += ["/usr/lib/*-linux-gnu", "/usr/lib64"]
    for place in places:
        found = list(Path("/").glob(f"{place.lstrip('/')}/libcudart.so.*"))
        if found:
            return max(found, key=lambda path: [int(part) for part in path.name.split(".")[2:] if part.isdigit()])
    return None


@trial("CUDA runtime", "optional, needs no GPU; NVIDIA's toolkit, or: pip install nvidia-cuda-runtime")
def _cuda_runtime(stack: ExitStack) -> str:
    path = find_runtime()
    if path is None:
        raise Absent("no libcudart.so in CUDA_HOME, /usr/local/cuda, this Python's packages or the system")
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise Absent(str(error)) from None
    version, devices = ctypes.c_int(0), ctypes.c_int(0)
    status = lib.cudaRuntimeGetVersion(ctypes.byref(version))
    if status:
        raise Absent(f"cudaRuntimeGetVersion of {path} returned {status}")
    status = lib.cudaGetDeviceCount(ctypes.byref(devices))
    usable = f"{devices.value} devices" if not status else f"no usable device (error {status})"
    return f"{path} answered: version {version.value // 1000}.{version.value % 1000 // 10}, {usable}"
