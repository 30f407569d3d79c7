"""What each program type may see: its context, helpers and return values.

A context is described by `ContextRules.access`: what a load or store of `size` bytes at `offset` gives. Rules follow
the kernel's `*_is_valid_access` functions (kernel/trace/bpf_trace.c, net/core/filter.c); layouts are those of a
64-bit machine.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from workbench.runtime.helpers.prototypes import Helper

__all__ = (
    "EVENT_REGISTERS",
    "RAW_ARGUMENTS",
    "SK_BUFF",
    "SK_BUFF_FIELDS",
    "XDP_FIELDS",
    "XDP_MD",
    "Access",
    "ContextRules",
    "memory_context",
    "rules",
)

#: Bytes of struct pt_regs (x86-64) or struct user_pt_regs (aarch64), the context of probes.
EVENT_REGISTERS: Final = 34 * 8 if platform.machine() == "aarch64" else 21 * 8
#: Bytes of the argument array of raw tracepoints and tracing programs (MAX_BPF_FUNC_ARGS).
RAW_ARGUMENTS: Final = 12 * 8
XDP_MD: Final = 24
SK_BUFF: Final = 192
_TRACE_RECORD: Final = 8192  # PERF_MAX_TRACE_SIZE

#: Kinds of what a load gives.
NUMBER: Final = "number"
PACKET: Final = "packet"
PACKET_END: Final = "packet end"
PACKET_META: Final = "packet meta"
KERNEL: Final = "kernel"  # a number that may be the address of a kernel structure: loads through it are fault-safe


@dataclass(frozen=True, slots=True)
class Access:
    """An allowed access: what a load gives."""

    gives: str = NUMBER


_NUMBER = Access()


@dataclass(frozen=True, slots=True)
class ContextRules:
    """Rules of one program type.

    Attributes
    ----------
    type : str
        Program type in libbpf's words.
    size : int
        Bytes of the context.
    access : callable
        (offset, size, write) -> Access, or None where it is refused.
    returns : (int, int) or None
        Smallest and largest value that may be returned; None = any number.
    packet_writes : bool
        Stores to the packet are allowed.
    load_absolute : bool
        LD_ABS and LD_IND are allowed.
    override : bool
        `bpf_override_return` is allowed.
    memory : int
        -1, or the context is plain writable memory of that many bytes, with its length in r2.
    variable : bool
        Loads at a variable offset are allowed (plain memory).
    """

    type: str
    size: int
    access: Callable[[int, int, bool], Access | None]
    returns: tuple[int, int] | None = None
    packet_writes: bool = False
    load_absolute: bool = False
    override: bool = False
    memory: int = -1
    variable: bool = False

    def allows(self, helper: Helper) -> bool:
        """Whether programs of this type may call the helper."""
        if helper.name == "bpf_override_return":
            return self.override
        return self.memory >= 0 or helper.allowed_in(self.type)


def _registers(offset: int, size: int, write: bool) -> Access | None:
    """kprobe_prog_is_valid_access: any aligned part of the registers, read only."""
    if write or offset < 0 or offset + size > EVENT_REGISTERS or offset % size:
        return None
    return _NUMBER


def _record(limit: int) -> Callable[[int, int, bool], Access | None]:
    """tp_prog_is_valid_access: the record of a tracepoint but for its first 8 bytes."""

    def access(offset: int, size: int, write: bool) -> Access | None:
        return None if write or offset < 8 or offset + size > limit or offset % size else _NUMBER

    return access


def _arguments(gives: str) -> Callable[[int, int, bool], Access | None]:
    """raw_tp_prog_is_valid_access, btf_ctx_access: 64-bit arguments."""
    found = Access(gives)

    def access(offset: int, size: int, write: bool) -> Access | None:
        if write or offset < 0 or offset + size > RAW_ARGUMENTS or offset % size:
            return None
        if gives == KERNEL and size != 8:
            return None
        return found

    return access


def _perf_event(offset: int, size: int, write: bool) -> Access | None:
    """pe_prog_is_valid_access: registers whole, then sample_period and addr, also narrower."""
    end = EVENT_REGISTERS + 16
    if write or offset < 0 or offset + size > end or offset % size:
        return None
    if offset < EVENT_REGISTERS and size != 8:
        return None
    return _NUMBER


#: struct xdp_md (uapi): offset -> name. All 32 bits wide, read only.
XDP_FIELDS: Final = {
    0: "data",
    4: "data_end",
    8: "data_meta",
    12: "ingress_ifindex",
    16: "rx_queue_index",
    20: "egress_ifindex",
}
_PACKET_FIELDS: Final = {
    "data": Access(PACKET),
    "data_end": Access(PACKET_END),
    "data_meta": Access(PACKET_META),
}


def _xdp(offset: int, size: int, write: bool) -> Access | None:
    """xdp_is_valid_access."""
    if write or size != 4 or offset % 4 or offset not in XDP_FIELDS:
        return None
    return _PACKET_FIELDS.get(XDP_FIELDS[offset], _NUMBER)


#: struct __sk_buff (uapi): offset -> (name, bytes).
SK_BUFF_FIELDS: Final = {
    0: ("len", 4),
    4: ("pkt_type", 4),
    8: ("mark", 4),
    12: ("queue_mapping", 4),
    16: ("protocol", 4),
    20: ("vlan_present", 4),
    24: ("vlan_tci", 4),
    28: ("vlan_proto", 4),
    32: ("priority", 4),
    36: ("ingress_ifindex", 4),
    40: ("ifindex", 4),
    44: ("tc_index", 4),
    48: ("cb", 20),
    68: ("hash", 4),
    72: ("tc_classid", 4),
    76: ("data", 4),
    80: ("data_end", 4),
    84: ("napi_id", 4),
    140: ("data_meta", 4),
    152: ("tstamp", 8),
    160: ("wire_len", 4),
    164: ("gso_segs", 4),
    176: ("gso_size", 4),
}
_SCHED_WRITES: Final = frozenset(
    {"mark", "queue_mapping", "priority", "tc_index", "cb", "tc_classid", "tstamp"}
)
_FILTER_HIDES: Final = frozenset(
    {"data", "data_end", "data_meta", "tc_classid", "tstamp", "wire_len"}
)


def _sk_buff(scheduler: bool) -> Callable[[int, int, bool], Access | None]:
    """sk_filter_is_valid_access and tc_cls_act_is_valid_access, on the fields that user space has."""
    whole = {}
    for start, (name, length) in SK_BUFF_FIELDS.items():
        for byte in range(start, start + length):
            whole[byte] = (name, start, length)

    def access(offset: int, size: int, write: bool) -> Access | None:
        found = whole.get(offset)
        if found is None or offset % size:
            return None
        name, start, length = found
        if offset + size > start + length or (not scheduler and name in _FILTER_HIDES):
            return None
        if name in _PACKET_FIELDS:
            return _PACKET_FIELDS[name] if not write and size == 4 and offset == start else None
        if name == "tstamp" and size != 8:
            return None
        if write:
            allowed = name in _SCHED_WRITES if scheduler else name == "cb"
            return _NUMBER if allowed and (name == "cb" or size == length) else None
        return _NUMBER

    return access


def _syscall(offset: int, size: int, write: bool) -> Access | None:
    """syscall_prog_is_valid_access: memory of the caller, aligned."""
    if offset < 0 or offset + size > 0xFFFF or offset % size:
        return None
    return _NUMBER


def memory_context(length: int, type: str = "raw") -> ContextRules:
    """Plain code: r1 = writable memory of `length` bytes, r2 = `length` (what the conformance suite runs)."""
    return ContextRules(type, length, _syscall, memory=length, variable=True)


@lru_cache(maxsize=256)
def rules(type: str, section: str = "", attach_type: str = "") -> ContextRules:
    """Rules of a program type; the section narrows them where its name says what the context is.

    Raises
    ------
    KeyError
        A type that user space does not know.
    """
    hook = section.partition("/")[2]
    if type == "kprobe":
        # The functions that a uprobe may replace are the user's own; the kernel allows it on marked functions only.
        returns = (0, 1) if "session" in section.partition("/")[0] else None
        return ContextRules(type, EVENT_REGISTERS, _registers, returns, override=True)
    if type == "tracepoint":
        limit = (
            64
            if hook.startswith("syscalls/sys_enter")
            else 24
            if hook.startswith("syscalls/sys_exit")
            else 0
        )
        return ContextRules(
            type, limit or _TRACE_RECORD, _record(limit or _TRACE_RECORD), override=True
        )
    if type in ("raw_tracepoint", "raw_tracepoint_writable"):
        return ContextRules(type, RAW_ARGUMENTS, _arguments(NUMBER))
    if type == "tracing":
        returns = None if attach_type == "modify_return" else (0, 0)
        return ContextRules(type, RAW_ARGUMENTS, _arguments(KERNEL), returns)
    if type == "lsm":
        return ContextRules(type, RAW_ARGUMENTS, _arguments(KERNEL), (-4095, 0))
    if type == "perf_event":
        return ContextRules(type, EVENT_REGISTERS + 16, _perf_event)
    if type == "xdp":
        return ContextRules(type, XDP_MD, _xdp, packet_writes=True)
    if type == "socket_filter":
        return ContextRules(type, SK_BUFF, _sk_buff(False), load_absolute=True)
    if type in ("sched_cls", "sched_act"):
        return ContextRules(type, SK_BUFF, _sk_buff(True), packet_writes=True, load_absolute=True)
    if type == "syscall":
        return ContextRules(type, 0xFFFF, _syscall)
    raise KeyError(type)
