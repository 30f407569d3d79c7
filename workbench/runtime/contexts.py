"""The context of a test run: a packet for network programs, plain bytes for every other type."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from workbench.errors import BadSpec
from workbench.runtime.lower import native_skb, native_xdp
from workbench.runtime.program_types import EVENT_REGISTERS, RAW_ARGUMENTS

__all__ = ("Context", "make_context")

_HEADROOM = 256  # XDP_PACKET_HEADROOM: bytes before a packet that bpf_xdp_adjust_head may use
_ETHERNET = 14  # bpf_prog_test_run_skb and _xdp refuse less
_LEAST = {"kprobe": EVENT_REGISTERS, "raw_tracepoint": RAW_ARGUMENTS, "tracing": RAW_ARGUMENTS}


@dataclass(frozen=True, slots=True)
class Context:
    """A context in this process's memory, which lives as long as this object."""

    address: int
    memory: tuple[Any, ...]


def make_context(type: str, data: bytes, least: int = 0) -> Context:
    """The context that a program of this type gets for `data`, at least `least` bytes where it is no packet.

    Raises
    ------
    BadSpec
        A packet shorter than an Ethernet header, as the kernel's test run refuses it.
    """
    if type in ("xdp", "socket_filter", "sched_cls", "sched_act"):
        if len(data) < _ETHERNET:
            raise BadSpec(
                f"a packet of {len(data)} bytes", f"give at least {_ETHERNET}: an Ethernet header"
            )
        packet = ctypes.create_string_buffer(bytes(_HEADROOM) + data, _HEADROOM + len(data))
        start = ctypes.addressof(packet) + _HEADROOM
        make = native_xdp if type == "xdp" else native_skb
        if type == "socket_filter":  # sk_filter sees the packet without its link layer header
            start, data = start + _ETHERNET, data[_ETHERNET:]
        structure = make(start, start + len(data))
    else:
        packet = ctypes.create_string_buffer(1)
        structure = data.ljust(max(_LEAST.get(type, 8), least), b"\0")
    memory = ctypes.create_string_buffer(structure, len(structure) + 8)
    # Contexts hold 64-bit words: the memory of a ctypes array is aligned to 16 bytes by malloc.
    return Context(ctypes.addressof(memory), (memory, packet))
