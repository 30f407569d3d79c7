"""Writes resolved CO-RE relocations into instructions (tools/lib/bpf/relo_core.c, `bpf_core_patch_insn`)."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability
from workbench.objects.btf import BadBtf, Btf
from workbench.objects.core_relocation import TYPE_ID_LOCAL, Resolver

if TYPE_CHECKING:
    from workbench.objects.btf_ext import CoreRecord
    from workbench.objects.core_relocation import Resolution

__all__ = ("POISON", "POISON_HELPER", "CorePatcher", "kernel_btf")

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
POISON_HELPER = 195896080  # 0xbad2310: the number that libbpf uses; no kernel has such a helper
POISON = struct.pack("<BBhi", 0x85, 0, 0, POISON_HELPER)
_LD_IMM64 = 0x18
_LD, _LDX, _ST, _STX, _ALU, _ALU64 = 0, 1, 2, 3, 4, 7
_LOAD_SIZES = {0x18: 8, 0x00: 4, 0x08: 2, 0x10: 1}
_SIZE_BITS = {size: bits for bits, size in _LOAD_SIZES.items()}
_MASK = 0xFFFFFFFFFFFFFFFF


@cache
def kernel_btf() -> Btf:
    """Types of the running kernel.

    Raises
    ------
    MissingCapability
        The kernel publishes none.
    """
    try:
        return Btf(KERNEL_BTF.read_bytes(), str(KERNEL_BTF))
    except OSError as error:
        raise MissingCapability(
            f"this program has CO-RE relocations, and {KERNEL_BTF} cannot be read: {error.strerror}",
            "give the types to resolve them against: link(obj, btf=Btf(...)), "
            "or btf=obj.btf for the layout that the source declares",
        ) from error


class CorePatcher:
    """Applies CO-RE relocations of one object.

    Parameters
    ----------
    local : Btf
        Types of the object.
    target : Btf, optional
        Types to resolve against; None for the running kernel's, read when first needed.
    """

    def __init__(self, local: Btf, target: Btf | None) -> None:
        self._local, self._target = local, target
        self._resolver: Resolver | None = None

    def patch(self, code: bytearray, slot: int, record: CoreRecord, where: str) -> str:
        """Rewrite the instruction at `slot`.

        Returns
        -------
        str
            Empty, or what the target lacks: the instruction is then a call that no verifier accepts.

        Raises
        ------
        BadBtf
            The relocation is damaged or does not fit its instruction.
        AmbiguousRelocation
            The target's types disagree.
        """
        if self._resolver is None:
            target = self._target
            if target is None:
                target = self._local if record.kind == TYPE_ID_LOCAL else kernel_btf()
            resolver = Resolver(self._local, target)
            if record.kind != TYPE_ID_LOCAL:
                self._resolver = resolver
        else:
            resolver = self._resolver
        result = resolver.resolve(record)
        missing = result.missing or _write(code, slot, result, where)
        if missing:
            if code[8 * slot] == _LD_IMM64:
                code[8 * slot + 8 : 8 * slot + 16] = POISON
            code[8 * slot : 8 * slot + 8] = POISON
        return missing


def _write(code: bytearray, slot: int, result: Resolution, where: str) -> str:
    at = 8 * slot
    opcode, registers, offset, imm = struct.unpack_from("<BBhi", code, at)
    kind = opcode & 7
    value = result.value & _MASK

    def check(found: int) -> None:
        if result.check and found & _MASK != result.expected & _MASK:
            raise BadBtf(
                f"{where}: the instruction has {found}, its CO-RE relocation {result.expected}"
            )

    if kind in (_ALU, _ALU64) and not opcode & 8:
        check(imm)
        struct.pack_into("<I", code, at + 4, value & 0xFFFFFFFF)
        return ""
    if kind in (_LDX, _ST, _STX):
        check(offset)
        if value > 0x7FFF:
            raise BadBtf(
                f"{where}: offset {value} of a CO-RE relocation is too large for a load or store"
            )
        if result.misread:
            return result.misread
        mine, theirs = result.sizes
        if mine != theirs:
            if _LOAD_SIZES[opcode & 0x18] != mine or theirs not in _SIZE_BITS:
                raise BadBtf(
                    f"{where}: a load or store of {_LOAD_SIZES[opcode & 0x18]} bytes cannot become one of {theirs}"
                )
            opcode = opcode & ~0x18 | _SIZE_BITS[theirs]
        struct.pack_into("<BBh", code, at, opcode, registers, value)
        return ""
    if opcode == _LD_IMM64 and len(code) >= at + 16:
        low, high = (
            struct.unpack_from("<I", code, at + 4)[0],
            struct.unpack_from("<I", code, at + 12)[0],
        )
        if registers >> 4 or offset or any(code[at + 8 : at + 12]):
            raise BadBtf(f"{where}: a CO-RE relocation of an address")
        check(low | high << 32)
        struct.pack_into("<I", code, at + 4, value & 0xFFFFFFFF)
        struct.pack_into("<I", code, at + 12, value >> 32)
        return ""
    raise BadBtf(f"{where}: a CO-RE relocation of an instruction with opcode {opcode:#x}")
