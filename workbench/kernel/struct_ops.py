"""Register a struct_ops map (a sched_ext scheduler) through a link, so that it ends with the process that holds it.

Older libbpf knows struct_ops without links only: such a scheduler would outlive a killed controller. The map is
therefore made with BPF_F_LINK and the link by the system call (kernel/bpf/bpf_struct_ops.c).
"""

from __future__ import annotations

import ctypes
import os
import struct

from workbench.errors import MissingCapability
from workbench.kernel import perf
from workbench.kernel.libbpf import capture_log, errno_error, library, log_text
from workbench.kernel.links import Link

__all__ = ("SLEEPABLE_MEMBERS", "attach", "prepare")

_STRUCT_OPS_MAP = 26
_BPF_F_LINK = 1 << 13
_BPF_LINK_CREATE, _BPF_STRUCT_OPS = 28, 44
#: Callbacks that the kernel lets sleep and that need to (bpf_scx_check_member in kernel/sched/ext.c).
SLEEPABLE_MEMBERS = frozenset({"init", "init_task"})


def prepare(current: int) -> None:
    """Before the load: make the map `current` (a libbpf handle) one with a link; other maps are left alone."""
    lib = library()
    if lib.bpf_map__type(current) == _STRUCT_OPS_MAP:
        lib.bpf_map__set_map_flags(current, lib.bpf_map__map_flags(current) | _BPF_F_LINK)


def attach(handle: int, name: str) -> Link:
    """Register the struct_ops map `name` of a loaded object; closing the link takes it back.

    Raises
    ------
    MissingCapability
        The object has no such map, or the kernel refuses: for a scheduler, most often because another is loaded.
    NotPermitted
        Without privilege.
    """
    lib = library()
    current = lib.bpf_object__next_map(handle, None)
    while current:
        if (
            lib.bpf_map__type(current) == _STRUCT_OPS_MAP
            and lib.bpf_map__name(current).decode() == name
        ):
            break
        current = lib.bpf_object__next_map(handle, current)
    else:
        raise MissingCapability(
            f"the object has no struct_ops map {name!r}",
            "it is the variable in SEC('.struct_ops'), by its name",
        )
    capture_log()
    ctypes.set_errno(0)
    registered = lib.bpf_map__attach_struct_ops(current)
    if not registered:
        raise errno_error(f"cannot register {name!r} {log_text()}".strip(), ctypes.get_errno())
    own = lib.bpf_link__fd(registered)
    if own != lib.bpf_map__fd(current):  # a libbpf that makes the link itself
        fd = os.dup(own)
        lib.bpf_link__destroy(registered)
        return Link(f"struct_ops {name}", [fd])
    lib.bpf_link__disconnect(registered)
    lib.bpf_link__destroy(registered)
    fd = perf.bpf(_BPF_LINK_CREATE, struct.pack("<IIII", own, 0, _BPF_STRUCT_OPS, 0) + bytes(48))
    if fd < 0:
        raise errno_error(f"cannot register {name!r}", fd)
    return Link(f"struct_ops {name}", [fd])
