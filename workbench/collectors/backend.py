"""Where a recording's programs run: in the kernel, or in the observed processes themselves."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, MissingCapability
from workbench.kernel import perf

if TYPE_CHECKING:
    from workbench.collectors.base import Target
    from workbench.objects.model import BpfObject

__all__ = ("BACKENDS", "choose", "kernel_only", "load")

BACKENDS = ("auto", "kernel", "userspace")
_MAP_CREATE, _ARRAY = 0, 2


def choose(backend: str, *, machine: bool) -> tuple[str, str]:
    """The backend of a recording, and why it was chosen.

    `auto` is the kernel wherever this user may load programs into it (tried by making a map), else user space.

    Raises
    ------
    BadSpec
        No such backend, or the whole machine is to be recorded from user space.
    """
    if backend not in BACKENDS:
        raise BadSpec(f"there is no backend {backend!r}", f"one of {', '.join(BACKENDS)}")
    if backend == "userspace" and machine:
        raise BadSpec(
            "user space sees only the processes it enters, not the whole machine",
            "name a pid or a command, or use --backend kernel",
        )
    if backend != "auto":
        return backend, "it was asked for"
    fd = perf.bpf(_MAP_CREATE, struct.pack("<IIII", _ARRAY, 4, 8, 1).ljust(72, b"\0"))
    if fd >= 0:
        perf.close(fd)
        return "kernel", "this user may load programs into it"
    if machine:
        return "kernel", "only the kernel sees the whole machine"
    return "userspace", f"the kernel takes no programs of this user ({errno.errorcode.get(-fd, -fd)})"


def load(target: Target, obj: BpfObject, **options: Any) -> Any:
    """Load an object where the target's recording runs its programs; options as `workbench.kernel.loaded.load`.

    Its programs are paused until the recording's window opens.
    """
    if target.backend == "userspace":
        from workbench.runtime.loaded import load as load_userspace

        loaded: Any = load_userspace(obj, pid=target.pid, left_out=target.left_out, **options)
    else:
        from workbench.kernel.loaded import load as load_kernel

        loaded = load_kernel(obj, **options)
    target.window.join(loaded)
    return loaded


def kernel_only(target: Target, collector: str, why: str) -> None:
    """Refuse a collector in user space.

    Raises
    ------
    MissingCapability
        The target is recorded from user space.
    """
    if target.backend == "userspace":
        raise MissingCapability(
            f"collector {collector} needs the kernel: {why}",
            "record it with --backend kernel (root, or CAP_BPF and CAP_PERFMON)",
        )
