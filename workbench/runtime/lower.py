"""Context accesses become loads of the real structure, as the kernel's `convert_ctx_access` rewrites them.

`struct xdp_md` and `struct __sk_buff` are a fiction of 32-bit fields; addresses do not fit in them. A program is run
with a native structure instead, described here once for JIT, test runs and interpreter:

=============  ==========================================================================================
native xdp     data u64 at 0, data_end u64 at 8, data_meta u64 at 16, ingress_ifindex u32 at 24,
               rx_queue_index u32 at 28, egress_ifindex u32 at 32; 40 bytes
native skb     data u64 at 0, data_end u64 at 8, data_meta u64 at 16, tstamp u64 at 24, then the other fields
               of `SK_BUFF_FIELDS` in their order, 32 bits each (cb: 20 bytes), from 32 on; see `SK_BUFF_NATIVE`
=============  ==========================================================================================

Every other context has its natural layout and nothing changes. One instruction stays one instruction.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from workbench.objects.linked import LinkedProgram
from workbench.runtime.isa import decode, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.program_types import SK_BUFF_FIELDS, XDP_FIELDS
from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.verdict import Verdict

__all__ = (
    "SK_BUFF_NATIVE",
    "SK_BUFF_NATIVE_SIZE",
    "XDP_NATIVE",
    "XDP_NATIVE_SIZE",
    "lower",
    "native_skb",
    "native_xdp",
)

_ADDRESSES: Final = ("data", "data_end", "data_meta")

#: Field -> byte offset in the native structure of xdp programs.
XDP_NATIVE: Final = {
    "data": 0,
    "data_end": 8,
    "data_meta": 16,
    "ingress_ifindex": 24,
    "rx_queue_index": 28,
    "egress_ifindex": 32,
}
XDP_NATIVE_SIZE: Final = 40


def _skb_layout() -> tuple[dict[str, int], int]:
    found = {"data": 0, "data_end": 8, "data_meta": 16, "tstamp": 24}
    at = 32
    for name, size in SK_BUFF_FIELDS.values():
        if name not in found:
            found[name] = at
            at += size
    return found, (at + 7) // 8 * 8


#: Field -> byte offset in the native structure of socket filters and classifiers.
SK_BUFF_NATIVE, SK_BUFF_NATIVE_SIZE = _skb_layout()


def native_xdp(
    data: int, data_end: int, data_meta: int = 0, ingress: int = 1, queue: int = 0, egress: int = 0
) -> bytes:
    """The native context of an xdp program; addresses of the packet. `data_meta` 0 = no metadata."""
    return struct.pack("<QQQIIII", data, data_end, data_meta or data, ingress, queue, egress, 0)


def native_skb(data: int, data_end: int, **fields: int) -> bytes:
    """The native context of a socket filter or classifier; further fields by name, `cb` not among them."""
    out = bytearray(SK_BUFF_NATIVE_SIZE)
    struct.pack_into("<QQQ", out, 0, data, data_end, fields.pop("data_meta", data))
    fields.setdefault("len", data_end - data)
    for name, value in fields.items():
        struct.pack_into("<Q" if name == "tstamp" else "<I", out, SK_BUFF_NATIVE[name], value)
    return bytes(out)


def _fields(type: str) -> tuple[dict[int, tuple[str, int]], dict[str, int]] | None:
    """Byte of the kernel's context -> (field, its first byte), and the native offsets."""
    if type == "xdp":
        return {
            at: (name, start)
            for start, name in XDP_FIELDS.items()
            for at in range(start, start + 4)
        }, XDP_NATIVE
    if type in ("socket_filter", "sched_cls", "sched_act"):
        return {
            at: (name, start)
            for start, (name, size) in SK_BUFF_FIELDS.items()
            for at in range(start, start + size)
        }, SK_BUFF_NATIVE
    return None


def lower(program: LinkedProgram, verdict: Verdict) -> LinkedProgram:
    """The program with its context accesses rewritten; the same program where the context has its natural layout.

    Parameters
    ----------
    program : LinkedProgram
    verdict : Verdict
        Of this very program: says which accesses are to the context.
    """
    layout = _fields(program.type)
    if layout is None:
        return program
    fields, native = layout
    found = []
    slot = 0
    for one in decode(program.code):
        load = one.kind == op.LDX or (
            one.kind == op.STX and one.mode == op.ATOMIC and one.imm == op.LOAD_ACQ
        )
        base = one.src if load else one.dst
        new = one
        if one.kind in (op.LDX, op.ST, op.STX) and verdict.kinds[slot, base] == k.CONTEXT:
            name, start = fields[one.offset]
            at = native[name] + one.offset - start
            opcode = (one.opcode & ~0x18) | op.DW if name in _ADDRESSES else one.opcode
            new = replace(one, opcode=opcode, offset=at)
        found.append(new)
        slot += one.slots
    return replace(program, code=encode(found))
