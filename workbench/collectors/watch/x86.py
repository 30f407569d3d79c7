"""x86-64: the processor stops after the access, so the accessing instruction is found by decoding backwards.

Sources: Intel SDM volume 3, 17.3.1.2 (data breakpoints are traps; repeated string instructions stop between
iterations) and volume 2 for what each instruction does to its memory operand. Capstone's own access flags are not
used: they call many stores reads (movnti, cmpxchg, pextrq, vpscatterdd, fnstcw).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from workbench.collectors.watch.operands import (
    READ,
    READ_WRITE,
    WRITE,
    Candidate,
    Operand,
    Step,
)

__all__ = ("CODE_BEFORE", "FLAGS", "IP", "REGISTERS", "candidates", "operands")

# Columns of the register array: struct pt_regs (arch/x86/include/uapi/asm/ptrace.h).
REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "flags", "rsp", "ss",
)  # fmt: skip
IP, FLAGS = REGISTERS.index("rip"), REGISTERS.index("flags")
_DIRECTION = 10
CODE_BEFORE = 16
LONGEST = 15
_FAR = 1 << 16  # bytes of a function that are decoded from its start
_NEAR = 256  # else this many, from several starts
_REACH = 64  # a fast string operation stops at the end of its group of iterations

_MODIFIES = re.compile(
    r"add|sub|adc|sbb|and|or|xor|inc|dec|neg|not|sh[lr]d?|sa[lr]|ro[lr]|rc[lr]|xadd|xchg|cmpxchg\w*|bt[src]"
    r"|a(add|and|or|xor)|cmp\w+xadd"
)
_READS = re.compile(
    r"cmp|test|bt|push|i?mul|i?div|ld\w*|v?ldmxcsr|f(ld|ild|bld|add|sub|mul|div|i?com|iadd|isub|imul|idiv)\w*"
    r"|fx?rstor\w*|xrstor\w*|rd\w+|wr\w+|ver[rw]|l[gi]dt|lldt|ltr|lmsw|scas\w"
)
_TOUCHES_NOTHING = re.compile(
    r"lea|nop|prefetch\w*|cl(flush|flushopt|wb|demote)|inv\w+|call|jmp|l?jmp|l?call|ret\w*|bnd\w+|endbr\w*"
)
_STRING = frozenset((*range(0xA4, 0xA8), *range(0xAA, 0xB0)))  # movs cmps stos lods scas
_SIZES = {
    "fxsave": 512, "fxsave64": 512, "fxrstor": 512, "fxrstor64": 512, "fnsave": 108, "frstor": 108,
    "fnstenv": 28, "fldenv": 28,
}  # fmt: skip
_EXTENDED_STATE = 4096


@cache
def _machine() -> Any:
    import capstone

    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    return machine


@cache
def _plain() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def _columns() -> dict[str, tuple[int, int]]:
    """Register name -> (column, mask of what of it counts in an address)."""
    full, half = 2**64 - 1, 2**32 - 1
    names: dict[str, tuple[int, int]] = {"eip": (IP, half)}
    for column, name in enumerate(REGISTERS):
        names[name] = (column, full)
        names[f"{name}d" if name[1:].isdigit() else f"e{name[1:]}"] = (column, half)
    return names


_COLUMN = _columns()
_SUB = {
    part: f"r{letter}x" for letter in "abcd" for part in (f"{letter}l", f"{letter}h", f"{letter}x")
} | {part: f"r{base}" for base in ("si", "di", "bp", "sp") for part in (base, f"{base}l")}


def _whole(name: str) -> str:
    """The 64-bit register that a register is part of."""
    if name in _SUB:
        return _SUB[name]
    if re.fullmatch(r"r\d+[bwd]", name):
        return name[:-1]
    return REGISTERS[_COLUMN[name][0]] if name in _COLUMN else name


def _access(mnemonic: str, first: bool, count: int) -> int:
    """What an instruction does to its memory operand; `first`: it is the destination of `count` operands."""
    if mnemonic.startswith(("xchg", "xadd")):
        return READ_WRITE
    if not first:
        return READ
    if mnemonic in ("imul", "mul") and count > 1:
        return READ
    if _MODIFIES.fullmatch(mnemonic):
        return READ_WRITE
    return READ if _READS.fullmatch(mnemonic) else WRITE


def operands(instruction: Any) -> tuple[Operand, ...]:
    """Memory operands of a decoded instruction (capstone, with details), implicit ones included.

    Empty for those that touch no data and for those after which the trap reports another place (calls, jumps,
    returns).
    """
    mnemonic = instruction.mnemonic.split()[-1]
    if _TOUCHES_NOTHING.fullmatch(mnemonic):
        return ()
    explicit = [
        (at, one) for at, one in enumerate(instruction.operands) if one.type == 3
    ]  # X86_OP_MEM
    if instruction.opcode[0] in _STRING:
        return _string(instruction, mnemonic, explicit)
    found = _implicit(mnemonic, instruction)
    changed = {_whole(instruction.reg_name(one) or "") for one in instruction.regs_access()[1]}
    for at, one in explicit:
        access = _access(mnemonic, at == 0, len(instruction.operands))
        found.append(_explicit(instruction, mnemonic, one, access, changed))
    return tuple(found)


def _implicit(mnemonic: str, instruction: Any) -> list[Operand]:
    stack = REGISTERS.index("rsp")
    if mnemonic.startswith("push"):
        size = instruction.operands[0].size if instruction.operands else 8
        size = 8 if size not in (2, 8) else size
        return [Operand(WRITE, size, stack)]
    if mnemonic.startswith("pop") and not mnemonic.startswith("popcnt"):
        size = instruction.operands[0].size if instruction.operands else 8
        return [Operand(READ, size, stack, displacement=-size)]
    if mnemonic == "leave":
        return [Operand(READ, 8, stack, displacement=-8)]
    if mnemonic == "enter":
        return [Operand(WRITE, 8, REGISTERS.index("rbp"))]
    if re.fullmatch(r"v?maskmov(q|dqu)", mnemonic):
        return [Operand(WRITE, 8 if mnemonic.endswith("vq") else 16, REGISTERS.index("rdi"))]
    if mnemonic in ("xlatb", "xlat"):
        return [Operand(READ, 1, known=False)]
    return []


def _explicit(instruction: Any, mnemonic: str, one: Any, access: int, changed: set[str]) -> Operand:
    size = _SIZES.get(mnemonic, _EXTENDED_STATE if mnemonic.startswith("xsave") else one.size)
    names = [instruction.reg_name(r) if r else "" for r in (one.mem.base, one.mem.index)]
    base, index = (n if n not in ("riz", "eiz") else "" for n in names)
    known = all(not name or name in _COLUMN for name in (base, index))
    segment = instruction.reg_name(one.mem.segment) if one.mem.segment else ""
    if segment in ("fs", "gs"):
        known = False
    if {_whole(name) for name in (base, index) if name} & (changed - {"rsp"}):
        known = False
    if mnemonic in ("bt", "bts", "btr", "btc") and instruction.operands[-1].type == 1:
        known = False  # the bit offset in a register reaches past the operand
    displacement = one.mem.disp
    if mnemonic.startswith("push") and _whole(base) == "rsp":
        displacement += 8  # the address is that before the push
    elif "rsp" in changed and mnemonic != "pop" and "rsp" in {_whole(base), _whole(index)}:
        known = known and mnemonic.startswith("push")
    width = _COLUMN[base][1] if base in _COLUMN else 2**64 - 1
    return Operand(
        access,
        size,
        _COLUMN[base][0] if base in _COLUMN else -1,
        _COLUMN[index][0] if index in _COLUMN else -1,
        one.mem.scale,
        displacement,
        width,
        known,
    )


def _string(
    instruction: Any, mnemonic: str, explicit: list[tuple[int, Any]]
) -> tuple[Operand, ...]:
    repeated = instruction.prefix[0] in (0xF2, 0xF3)
    found = []
    for at, one in explicit:
        base = instruction.reg_name(one.mem.base)
        if base not in _COLUMN:
            return ()
        column, mask = _COLUMN[base]
        writes = at == 0 and mnemonic[:4] in ("movs", "stos")
        step = Step(one.size, FLAGS, _DIRECTION, _REACH if repeated else 0)
        found.append(Operand(WRITE if writes else READ, one.size, column, mask=mask, step=step))
    return tuple(found)


def _ending_at(code: bytes, end: int, start: int) -> int | None:
    """Where the instruction that ends at `end` begins when decoding from `start`; None if none ends there."""
    last = None
    for offset, size, _, _ in _plain().disasm_lite(code[start:end], start):
        if offset + size == end:
            last = offset
    return last


def _voted(code: bytes, end: int) -> int | None:
    """The same where no function start is known: decoding from many places soon falls into step, and they vote."""
    begin = max(end - _NEAR, 0)
    starts = range(begin, min(begin + 16, max(end - LONGEST, begin + 1)))
    votes = [_ending_at(code, end, start) for start in starts]
    best = max(set(votes), key=votes.count, default=None)
    return best if best is not None and votes.count(best) * 4 >= len(votes) * 3 else None


def candidates(code: bytes, ip: int, start: int | None) -> tuple[Candidate, ...]:
    """Instructions that may have made an access after which the processor stopped at `ip`, likeliest first.

    Parameters
    ----------
    code : bytes
        Machine code around the stop.
    ip : int
        Position in `code` at which the processor stopped.
    start : int or None
        Position of the first instruction of the function, where known.
    """
    machine = _machine()
    if start is not None and 0 <= start < ip and ip - start <= _FAR:
        synced = _ending_at(code, ip, start)
    else:
        synced = None if start == ip else _voted(code, ip)
    found: list[Candidate] = []
    for back in range(1, min(LONGEST, ip) + 1):
        one = next(machine.disasm(code[ip - back : ip], 0, 1), None)
        if one is None or one.size != back:
            continue
        touched = operands(one)
        if touched:
            text = f"{one.mnemonic} {one.op_str}".strip()
            found.append(Candidate(back, text, touched, ip - back == synced))
    here = next(machine.disasm(code[ip : ip + LONGEST], 0, 1), None)
    if here is not None and here.prefix[0] in (0xF2, 0xF3):
        touched = operands(here)
        if touched and here.opcode[0] in _STRING:
            text = f"{here.mnemonic} {here.op_str}"
            found.append(Candidate(0, text, touched, True))
    # Synced first; of the others the longest, since what precedes an opcode usually is its prefix.
    found.sort(key=lambda one: (not (one.synced and one.back > 0), not one.synced, -one.back))
    return tuple(found)
