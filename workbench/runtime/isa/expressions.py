"""The C-like syntax of LLVM and bpftool: `r0 = *(u32 *)(r1 + 4)`, `if r1 > 0x5 goto +3`, `lock *(u64 *)(r1 + 0) += r2`.

A table of forms: a pattern and what its groups become.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.isa.mnemonics import wide_immediate
from workbench.runtime.isa.operators import (
    ATOMIC_FETCH,
    ATOMIC_SIGNS,
    COMPARISONS,
    SIGNS,
    WIDTHS,
)
from workbench.runtime.isa.statement import (
    Names,
    Statement,
    SyntaxProblem,
    immediate32,
    number,
    offset16,
    register,
)

__all__ = ("parse_expression",)

_REGISTER = r"([rw]\d+)"
_NUMBER = r"([-+]?\s*(?:0x[0-9a-fA-F]+|\d+))"
_WHERE = rf"\(?\s*{_REGISTER}\s*(?:([-+]\s*\w+)\s*)?\)?"
_TYPE = r"\(\s*([us])(8|16|32|64)\s*\*\s*\)"
_LABEL = r"([-+]?[\w.$<>]+)"

_Groups = tuple[str, ...]
_Form = Callable[[_Groups, Names], Statement]


def _tidy(text: str | None) -> str:
    return (text or "0").replace(" ", "")


def _kind(*registers: str) -> int:
    """ALU64 for r, ALU for w; both operands must agree."""
    if len({name[0] for name in registers}) != 1:
        raise SyntaxProblem(
            f"{' and '.join(registers)} have different widths", "use r with r, w with w"
        )
    return op.ALU64 if registers[0][0] == "r" else op.ALU


def _to(one: Instruction, target: str, *, wide: bool = False) -> Statement:
    if target[0] not in "+-":
        return Statement(one, target.strip("<>"), wide)
    distance = immediate32(target) if wide else offset16(target)
    offset, imm = (0, distance) if wide else (distance, one.imm)
    return Statement(Instruction(one.opcode, one.dst, one.src, offset, imm))


def _arithmetic(groups: _Groups, _names: Names) -> Statement:
    dst, sign, second = groups
    operation, offset = SIGNS[sign]
    if second[0] in "rw":
        kind = _kind(dst, second)
        return Statement(
            Instruction(kind | operation | op.X, register(dst), register(second), offset)
        )
    return Statement(
        Instruction(_kind(dst) | operation, register(dst), 0, offset, immediate32(_tidy(second)))
    )


def _negate(groups: _Groups, _names: Names) -> Statement:
    dst, source = groups
    if dst != source:
        raise SyntaxProblem(f"{dst} = -{source} has two registers", "neg works in place: r1 = -r1")
    return Statement(Instruction(_kind(dst) | op.NEG, register(dst)))


def _extend(groups: _Groups, _names: Names) -> Statement:
    dst, bits, source = groups
    kind = _kind(dst, source)
    return Statement(Instruction(kind | op.MOV | op.X, register(dst), register(source), int(bits)))


def _swap(groups: _Groups, _names: Names) -> Statement:
    dst, name, bits, source = groups
    if dst != source or dst[0] != "r":
        raise SyntaxProblem(
            f"{dst} = {name}{bits} {source}: a byte swap has one r register", "as in r1 = be16 r1"
        )
    opcode = {"le": op.ALU | op.END, "be": op.ALU | op.END | op.X, "bswap": op.ALU64 | op.END}[name]
    return Statement(Instruction(opcode, register(dst), imm=int(bits)))


def _wide(groups: _Groups, _names: Names) -> Statement:
    dst, value = groups
    return Statement(wide_immediate(register(dst), number(_tidy(value))))


def _pair(dst: str, src: int, low: int, high: int) -> Statement:
    both = (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF
    return Statement(Instruction(op.LD_IMM64, register(dst), src, 0, low, both))


def _map(groups: _Groups, names: Names) -> Statement:
    dst, by, which, offset = groups
    if by:
        low = immediate32(which)
        plain, inside = (
            (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_VALUE)
            if by == "fd:"
            else (op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE)
        )
    else:
        low, plain, inside = names.map_index(which), op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE
    if offset is None:
        return _pair(dst, plain, low, 0)
    return _pair(dst, inside, low, immediate32(_tidy(offset)))


def _btf(groups: _Groups, _names: Names) -> Statement:
    dst, number_, where = groups
    return _pair(dst, op.PSEUDO_BTF_ID, immediate32(number_), immediate32(_tidy(where)))


def _function(groups: _Groups, _names: Names) -> Statement:
    dst, target = groups
    one = Instruction(op.LD_IMM64, register(dst), op.PSEUDO_FUNC)
    if target[0] not in "+-":
        return Statement(one, target, wide=True)
    return _pair(dst, op.PSEUDO_FUNC, immediate32(target), 0)


def _load(groups: _Groups, _names: Names) -> Statement:
    dst, sign, bits, base, offset = groups
    mode = op.MEM if sign == "u" else op.MEMSX
    opcode = op.LDX | mode | WIDTHS[bits]
    return Statement(Instruction(opcode, register(dst), register(base), offset16(_tidy(offset))))


def _store(groups: _Groups, _names: Names) -> Statement:
    _sign, bits, base, offset, value = groups
    opcode, at = op.MEM | WIDTHS[bits], offset16(_tidy(offset))
    if value[0] in "rw":
        return Statement(Instruction(op.STX | opcode, register(base), register(value), at))
    return Statement(Instruction(op.ST | opcode, register(base), 0, at, immediate32(_tidy(value))))


def _atomic(width: str, base: str, offset: str, source: str, imm: int) -> Statement:
    opcode = op.STX | op.ATOMIC | WIDTHS[width]
    return Statement(
        Instruction(opcode, register(base), register(source), offset16(_tidy(offset)), imm)
    )


def _lock(groups: _Groups, _names: Names) -> Statement:
    _sign, bits, base, offset, sign, source = groups
    return _atomic(bits, base, offset, source, ATOMIC_SIGNS[sign])


def _fetch(groups: _Groups, _names: Names) -> Statement:
    dst, name, _sign, bits, base, offset, source = groups
    _same(dst, source)
    return _atomic(bits, base, offset, source, ATOMIC_FETCH[name] | op.FETCH)


def _same(dst: str, source: str) -> None:
    if dst != source:
        raise SyntaxProblem(
            f"{dst} = ... {source}", "an atomic operation returns to its source register"
        )


def _exchange(groups: _Groups, _names: Names) -> Statement:
    dst, bits, base, offset, source = groups
    _same(dst, source)
    return _atomic("32" if bits else "64", base, offset, source, op.XCHG)


def _compare(groups: _Groups, _names: Names) -> Statement:
    bits, base, offset, source = groups
    return _atomic("32" if bits else "64", base, offset, source, op.CMPXCHG)


def _acquire(groups: _Groups, _names: Names) -> Statement:
    dst, _sign, bits, base, offset = groups
    opcode = op.STX | op.ATOMIC | WIDTHS[bits]
    return Statement(
        Instruction(opcode, register(dst), register(base), offset16(_tidy(offset)), op.LOAD_ACQ)
    )


def _release(groups: _Groups, _names: Names) -> Statement:
    _sign, bits, base, offset, source = groups
    return _atomic(bits, base, offset, source, op.STORE_REL)


def _packet(groups: _Groups, _names: Names) -> Statement:
    bits, base, value = groups
    imm = immediate32(_tidy(value))
    if base:
        return Statement(Instruction(op.LD | op.IND | WIDTHS[bits], src=register(base), imm=imm))
    return Statement(Instruction(op.LD | op.ABS | WIDTHS[bits], imm=imm))


def _goto(groups: _Groups, _names: Names) -> Statement:
    word, target = groups
    opcode = {"goto": op.GOTO, "gotol": op.GOTOL, "may_goto": op.MAY_GOTO}[word]
    return _to(Instruction(opcode), target, wide=word == "gotol")


def _if(groups: _Groups, _names: Names) -> Statement:
    dst, sign, second, target = groups
    kind = op.JMP if dst[0] == "r" else op.JMP32
    opcode = kind | COMPARISONS[sign]
    if second[0] in "rw":
        _kind(dst, second)
        return _to(Instruction(opcode | op.X, register(dst), register(second)), target)
    return _to(Instruction(opcode, register(dst), imm=immediate32(_tidy(second))), target)


def _callx(groups: _Groups, _names: Names) -> Statement:
    return Statement(Instruction(op.CALLX, register(groups[0])))


def _call_near(groups: _Groups, _names: Names) -> Statement:
    return Statement(Instruction(op.CALL_IMM, src=op.CALL_LOCAL, imm=immediate32(groups[0])))


def _call_helper(groups: _Groups, _names: Names) -> Statement:
    return Statement(Instruction(op.CALL_IMM, imm=immediate32(groups[0])))


def _call_kernel(groups: _Groups, _names: Names) -> Statement:
    offset = offset16(groups[1]) if groups[1] else 0
    return Statement(Instruction(op.CALL_IMM, 0, op.CALL_KFUNC, offset, immediate32(groups[0])))


def _call_name(groups: _Groups, _names: Names) -> Statement:
    from workbench.runtime.isa.helper_names import helper_number

    name = groups[0].strip("<>")
    helper = helper_number(name)
    if helper is not None:
        return Statement(Instruction(op.CALL_IMM, imm=helper))
    return Statement(Instruction(op.CALL_IMM, src=op.CALL_LOCAL), name, wide=True)


_MEMORY = rf"\*\s*{_TYPE}\s*{_WHERE}"
_POINTER = rf"\(\s*{_TYPE}\s*{_WHERE}"
_FORMS: tuple[tuple[re.Pattern[str], _Form], ...] = tuple(
    (re.compile(pattern), form)
    for pattern, form in (
        (r"exit", lambda _groups, _names: Statement(Instruction(op.EXIT_OP))),
        (rf"{_REGISTER}\s*=\s*-\s*{_REGISTER}", _negate),
        (rf"{_REGISTER}\s*=\s*\(s(8|16|32)\)\s*{_REGISTER}", _extend),
        (rf"{_REGISTER}\s*=\s*(le|be|bswap)(16|32|64)\s+{_REGISTER}", _swap),
        (rf"{_REGISTER}\s*=\s*{_NUMBER}\s+ll", _wide),
        (rf"{_REGISTER}\s*=\s*map\[(fd:|idx:|)([^\]]+)\](?:\[0\]([-+]\s*\d+))?(?:\s+ll)?", _map),
        (rf"{_REGISTER}\s*=\s*btf_id\[(-?\d+)\]([-+]\d+)?(?:\s+ll)?", _btf),
        (rf"{_REGISTER}\s*=\s*subprog\[([-+]?[\w.$]+)\](?:\s+ll)?", _function),
        (rf"{_REGISTER}\s*=\s*{_MEMORY}", _load),
        (rf"{_MEMORY}\s*=\s*({_REGISTER[1:-1]}|{_NUMBER[1:-1]})", _store),
        (rf"lock\s+{_MEMORY}\s*(\+=|\|=|&=|\^=)\s*{_REGISTER}", _lock),
        (rf"{_REGISTER}\s*=\s*atomic_fetch_(add|or|and|xor){_POINTER}\s*,\s*{_REGISTER}\)", _fetch),
        (rf"{_REGISTER}\s*=\s*xchg(?:_64|(32)_32)\({_WHERE},\s*{_REGISTER}\)", _exchange),
        (rf"[rw]0\s*=\s*cmpxchg(?:_64|(32)_32)\({_WHERE},\s*[rw]0,\s*{_REGISTER}\)", _compare),
        (rf"{_REGISTER}\s*=\s*load_acquire{_POINTER}\)", _acquire),
        (rf"store_release{_POINTER}\s*,\s*{_REGISTER}\)", _release),
        (
            rf"r0\s*=\s*\*\s*\(u(8|16|32) \*\)\s*skb\[(?:(r\d+)\s*\+?\s*)?{_NUMBER[:-1]}|)\]",
            _packet,
        ),
        (
            rf"{_REGISTER}\s*({'|'.join(re.escape(sign) for sign in sorted(SIGNS, key=len, reverse=True))})"
            rf"\s*({_REGISTER[1:-1]}|{_NUMBER[1:-1]})",
            _arithmetic,
        ),
        (rf"(goto|gotol|may_goto)\s+{_LABEL}", _goto),
        (
            rf"if\s+{_REGISTER}\s*({'|'.join(sorted(map(re.escape, COMPARISONS), key=len, reverse=True))})"
            rf"\s*({_REGISTER[1:-1]}|{_NUMBER[1:-1]})\s+goto\s+{_LABEL}",
            _if,
        ),
        (rf"callx?\s+%?{_REGISTER}", _callx),
        (r"call\s+(?:pc)?([-+]\w+)", _call_near),
        (r"call\s+(?:helper\s+)?(0x[0-9a-fA-F]+|\d+)", _call_helper),
        (r"call\s+kfunc\s+(-?\d+)(?:\s+fd\s+(-?\d+))?", _call_kernel),
        (r"call\s+(?:local\s+)?([A-Za-z_.$<][\w.$>]*)", _call_name),
    )
)


def parse_expression(line: str, names: Names) -> Statement:
    """The instruction that one line without comment and label stands for.

    Raises
    ------
    SyntaxProblem
        No form of this syntax matches.
    """
    for pattern, form in _FORMS:
        if found := pattern.fullmatch(line):
            return form(found.groups(), names)
    raise SyntaxProblem(
        f"{line!r} is no instruction", "as in `r0 = *(u32 *)(r1 + 4)` or `ldxw %r0, [%r1+4]`"
    )
