"""USDT marks: the `.note.stapsdt` records of a file and their argument descriptions.

Format: systemtap's `sys/sdt.h` and https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation. A description is
`SIZE@OPERAND`, SIZE negative for signed values, `4f` for floats, the operand in the assembler's own syntax.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, UnknownSymbol
from workbench.frames.symbols.elffile import BadElf, ElfFile

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Mark", "Operand", "parse_operands", "read_marks")

_SHT_NOTE, _STAPSDT = 7, 3
_X86, _ARM = 62, 183
MAX_NOTES = 1 << 26

_X86_NAMES = {
    "ax": ("rax", "eax", "ax", "al"), "bx": ("rbx", "ebx", "bx", "bl"), "cx": ("rcx", "ecx", "cx", "cl"),
    "dx": ("rdx", "edx", "dx", "dl"), "si": ("rsi", "esi", "si", "sil"), "di": ("rdi", "edi", "di", "dil"),
    "bp": ("rbp", "ebp", "bp", "bpl"), "sp": ("rsp", "esp", "sp", "spl"), "ip": ("rip",),
}  # fmt: skip
_X86_REGISTERS = {name: key for key, names in _X86_NAMES.items() for name in names} | {
    f"r{n}{suffix}": f"r{n}" for n in range(8, 16) for suffix in ("", "d", "w", "b")
}
_NUMBER = r"[-+]?(?:0x[0-9a-fA-F]+|\d+)"


@dataclass(frozen=True, slots=True)
class Operand:
    """Where one argument of a mark is.

    `kind` is ``register`` (value in `base`), ``memory`` (at `base` + `index` << `shift` + `offset`) or ``constant``
    (`offset`). Registers are named as in struct pt_regs; `base` may be ``ip``, then `offset` counts from the probe.
    """

    kind: str
    size: int
    signed: bool
    base: str = ""
    index: str = ""
    shift: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """One USDT mark.

    `address` and `semaphore` are virtual addresses in the file, moved by how far `.stapsdt.base` was moved after
    linking (prelink); a semaphore of 0 is none. `arguments` is the text of the note.
    """

    provider: str
    name: str
    address: int
    semaphore: int
    arguments: str
    machine: int


def read_marks(place: str) -> list[Mark]:
    """All marks of a file, by address.

    Raises
    ------
    UnknownSymbol
        The file cannot be read or its notes are damaged.
    """
    try:
        with ElfFile(place) as elf:
            base = next((s.address for s in elf.sections if s.name == ".stapsdt.base"), 0)
            found: list[Mark] = []
            for section in elf.sections:
                if (
                    section.type == _SHT_NOTE
                    and section.name == ".note.stapsdt"
                    and section.size <= MAX_NOTES
                ):
                    found += _parse_notes(elf.content(section), base, elf.machine)
    except (OSError, BadElf) as error:
        raise UnknownSymbol(f"marks of {place} cannot be read: {error}") from error
    return sorted(found, key=lambda mark: mark.address)


def _parse_notes(data: bytes, base: int, machine: int) -> list[Mark]:
    found = []
    at = 0
    while at + 12 <= len(data):
        owner_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (owner_size + 3) // 4 * 4
        if start + size > len(data):
            break
        if kind == _STAPSDT and data[at + 12 : at + 12 + owner_size] == b"stapsdt\0" and size >= 27:
            address, linked, semaphore = struct.unpack_from("<QQQ", data, start)
            parts = data[start + 24 : start + size].split(b"\0")
            if len(parts) >= 3:
                provider, name, arguments = (part.decode("utf-8", "replace") for part in parts[:3])
                moved = base - linked if base and linked else 0
                where = (address + moved) % 2**64
                counter = (semaphore + moved) % 2**64 if semaphore else 0
                found.append(Mark(provider, name, where, counter, arguments, machine))
        at = start + (size + 3) // 4 * 4
    return found


def parse_operands(
    text: str, machine: int, symbol: Callable[[str], int | None] = lambda name: None
) -> tuple[Operand, ...]:
    """Operands of a mark.

    Parameters
    ----------
    text : str
        `Mark.arguments`.
    machine : int
        ELF machine of the file: its assembler's syntax.
    symbol : callable
        Address in the file of a symbol, for `sym(%rip)`; the result then has base ``ip`` and that address as offset.

    Raises
    ------
    MissingCapability
        A description that is not understood (floats in vector registers among them).
    """
    if machine not in (_X86, _ARM):
        raise MissingCapability(f"USDT arguments of ELF machine {machine} are not described here")
    return tuple(_operand(part, machine, symbol) for part in _split(text))


def _split(text: str) -> list[str]:
    """Cut at the spaces between descriptions; operands of aarch64 hold spaces themselves: `8@[sp, 16]`."""
    return [part.strip() for part in re.split(r"\s+(?=-?\d+f?@)", text.strip()) if part.strip()]


def _operand(text: str, machine: int, symbol: Callable[[str], int | None]) -> Operand:
    head, at, body = text.partition("@")
    if not at:
        head, body = "8", text  # a size may be left out: the register's width
    match = re.fullmatch(r"(-?)([1248])(f?)", head)
    if match is None or match[3]:
        raise _unreadable(
            text, "floating point is in vector registers, which probes do not see" if match else ""
        )
    signed, size = match[1] == "-", int(match[2])
    found = (_x86 if machine == _X86 else _arm)(body.strip(), size, signed, symbol)
    if found is None:
        raise _unreadable(text)
    return found


def _unreadable(text: str, why: str = "") -> MissingCapability:
    return MissingCapability(
        f"USDT argument {text!r} cannot be read" + (f": {why}" if why else ""),
        "record the mark with args=no",
    )


def _x86(body: str, size: int, signed: bool, symbol: Callable[[str], int | None]) -> Operand | None:
    if match := re.fullmatch(rf"\$({_NUMBER})", body):
        return Operand("constant", size, signed, offset=int(match[1], 0))
    if match := re.fullmatch(r"%([a-z]\w*)", body):
        name = match[1]
        return (
            None
            if name not in _X86_REGISTERS
            else Operand("register", size, signed, _X86_REGISTERS[name])
        )
    pattern = rf"(?:([A-Za-z_.$][\w.$@]*)?({_NUMBER})?)\((?:%(\w+))?(?:,\s*%(\w+)(?:,\s*(\d))?)?\)"
    match = re.fullmatch(pattern, body)
    if match is None:
        return None
    name, number, base, index, scale = match.groups()
    offset = int(number or "0", 0)
    registers = _X86_REGISTERS
    if (
        (base and base not in registers)
        or (index and index not in registers)
        or not (base or index)
    ):
        return None
    shift = {None: 0, "1": 0, "2": 1, "4": 2, "8": 3}.get(scale, -1)
    if shift < 0:
        return None
    if name:
        address = symbol(name)
        if base != "rip" or address is None:
            return None
        offset += address
    elif base == "rip":
        return None
    if not base:
        return (
            Operand("memory", size, signed, registers[index], "", shift, offset)
            if shift == 0
            else None
        )
    return Operand(
        "memory", size, signed, registers[base], registers[index] if index else "", shift, offset
    )


def _arm(body: str, size: int, signed: bool, symbol: Callable[[str], int | None]) -> Operand | None:
    if match := re.fullmatch(rf"#?({_NUMBER})", body):
        return Operand("constant", size, signed, offset=int(match[1], 0))
    if match := re.fullmatch(r"[xw](\d+)", body):
        return Operand("register", size, signed, f"x{match[1]}") if int(match[1]) < 31 else None
    match = re.fullmatch(
        rf"\[\s*(x\d+|sp)\s*(?:,\s*(?:#?({_NUMBER})|(x\d+)(?:,\s*lsl\s+#?(\d))?))?\s*\]", body
    )
    if match is None or (match[4] and int(match[4]) > 3):
        return None
    offset, shift = int(match[2] or "0", 0), int(match[4] or "0")
    return Operand("memory", size, signed, match[1], match[3] or "", shift, offset)
