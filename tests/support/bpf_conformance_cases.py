"""What every instruction computes, with values worked out from the definitions of RFC 9669 (sections 4 and 5).

Each case is assembly in the conformance suite's syntax, the memory at r1 (its length in r2) and r0. Tables of
(first, second, 64-bit result, 32-bit result) are turned into a case for each source (register, immediate) and width.
"""

from __future__ import annotations

from dataclasses import dataclass

M = (1 << 64) - 1
HIGH = 0x8000000000000000
MINUS_1 = M
A, B = 0x1122334455667788, 0xFFFFFFFF80000000


@dataclass(frozen=True, slots=True)
class Case:
    """One program and its result."""

    name: str
    text: str
    result: int
    memory: bytes = b""


# operation: rows of (first, second, result of the 64-bit form, result of the 32-bit form).
ARITHMETIC: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "add": ((A, 1, A + 1, 0x55667789), (MINUS_1, 1, 0, 0), (5, MINUS_1, 4, 4)),
    "sub": ((A, 0x88, 0x1122334455667700, 0x55667700), (0, 1, M, 0xFFFFFFFF)),
    "mul": ((0x100000003, 5, 0x50000000F, 15), (MINUS_1, 7, (-7) & M, 0xFFFFFFF9)),
    "div": (
        (0x500000007, 2, 0x280000003, 3),
        (MINUS_1, 0x10, 0x0FFFFFFFFFFFFFFF, 0x0FFFFFFF),
        (A, 0, 0, 0),
    ),
    "mod": ((0x500000007, 4, 3, 3), (MINUS_1, 0x10, 15, 15), (A, 0, A, 0x55667788)),
    "sdiv": (
        (-7 & M, 2, -3 & M, 0xFFFFFFFD),
        (7, -2 & M, -3 & M, 0xFFFFFFFD),
        (HIGH, -1 & M, HIGH, 0),
        (0x80000000, -1 & M, -0x80000000 & M, 0x80000000),
        (A, 0, 0, 0),
    ),
    "smod": (
        (-7 & M, 2, -1 & M, 0xFFFFFFFF),
        (7, -2 & M, 1, 1),
        (HIGH, -1 & M, 0, 0),
        (0x80000000, -1 & M, 0, 0),
        (A, 0, A, 0x55667788),
    ),
    "or": ((A, 0xF0, 0x11223344556677F8, 0x556677F8), (1, B, 0xFFFFFFFF80000001, 0x80000001)),
    "and": ((A, 0xFF, 0x88, 0x88), (A, B, 0x1122334400000000, 0)),
    "xor": ((A, 0xFF, 0x1122334455667777, 0x55667777), (A, B, 0xEEDDCCBBD5667788, 0xD5667788)),
    "lsh": ((A, 4, 0x1223344556677880, 0x56677880), (1, 36, 1 << 36, 16), (1, 65, 2, 2)),
    "rsh": ((A, 4, 0x0112233445566778, 0x05566778), (HIGH, 63, 1, 0), (0x80000000, 33, 0, 0x40000000)),
    "arsh": (
        (HIGH, 63, M, 0),
        (0x80000000, 4, 0x08000000, 0xF8000000),
        (-16 & M, 66, -4 & M, 0xFFFFFFFC),
    ),
    "mov": ((0, A & 0x7FFFFFFF, A & 0x7FFFFFFF, A & 0x7FFFFFFF), (0, MINUS_1, M, 0xFFFFFFFF)),
}

# jump: rows of (first, second, taken by the 64-bit form, taken by the 32-bit form).
JUMPS: dict[str, tuple[tuple[int, int, bool, bool], ...]] = {
    "jeq": ((5, 5, True, True), (0x100000005, 5, False, True), (4, 5, False, False)),
    "jne": ((5, 5, False, False), (0x100000005, 5, True, False), (4, 5, True, True)),
    "jgt": ((6, 5, True, True), (5, 5, False, False), (-1 & M, 5, True, True), (1 << 32, 5, True, False)),
    "jge": ((5, 5, True, True), (4, 5, False, False), (4, -1 & M, False, False), (1 << 32, 5, True, False)),
    "jlt": ((4, 5, True, True), (5, 5, False, False), (4, -1 & M, True, True), (1 << 32, 5, False, True)),
    "jle": ((5, 5, True, True), (6, 5, False, False), (-1 & M, 5, False, False), (1 << 32, 5, False, True)),
    "jset": ((6, 2, True, True), (4, 2, False, False), (1 << 40, B, True, False), (3 << 31, B, True, True)),
    "jsgt": ((0, -1 & M, True, True), (-1 & M, -1 & M, False, False), (0x80000000, 0, True, False)),
    "jsge": ((-1 & M, -1 & M, True, True), (-2 & M, -1 & M, False, False), (0x80000000, 0, True, False)),
    "jslt": ((-1 & M, 0, True, True), (0, 0, False, False), (0x80000000, 0, False, True)),
    "jsle": ((0, 0, True, True), (1, 0, False, False), (0x80000000, 0, False, True)),
}

# lock ...: (before, operand, after) of the 64-bit and of the 32-bit form.
ATOMICS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "add": ((A, B, A + B & M), (0x55667788, 0x80000001, 0xD5667789)),
    "or": ((A, B, A | B), (0x55667788, 0x80000001, 0xD5667789)),
    "and": ((A, B, 0x1122334400000000), (0x55667788, 0x80000008, 8)),
    "xor": ((A, B, 0xEEDDCCBBD5667788), (0x55667788, 0x80000008, 0xD5667780)),
    "xchg": ((A, B, B), (0x55667788, 0x80000008, 0x80000008)),
}

DATA = bytes.fromhex("8182838485868788" "0102030405060708")


def _fits(value: int) -> bool:
    """Sign extended from 32 bits, as an immediate is."""
    return value < 1 << 31 or value >= M + 1 - (1 << 31)


def _immediate(value: int) -> str:
    return str(value - (1 << 64) if value >> 63 else value)


def _arithmetic() -> list[Case]:
    cases = []
    for name, rows in ARITHMETIC.items():
        for number, (first, second, wide, narrow) in enumerate(rows):
            for suffix, result in (("", wide), ("32", narrow)):
                start = f"lddw %r0, {first:#x}\nlddw %r2, {second:#x}\n"
                stem = f"{name}{suffix}"
                text = f"{start}{stem} %r0, %r2\nexit"
                cases.append(Case(f"{stem}-register-{number}", text, result))
                if _fits(second):
                    text = f"{start}{stem} %r0, {_immediate(second)}\nexit"
                    cases.append(Case(f"{stem}-immediate-{number}", text, result))
    for suffix, value, result in (("", 1, M), ("32", 1, 0xFFFFFFFF), ("", HIGH, HIGH), ("32", A, 0xAA998878)):
        cases.append(Case(f"neg{suffix}-{value:x}", f"lddw %r0, {value:#x}\nneg{suffix} %r0\nexit", result))
    return cases


def _unary() -> list[Case]:
    """Byte order and sign extension."""
    rows = (
        ("le16", A, 0x7788),
        ("le32", A, 0x55667788),
        ("le64", A, A),
        ("be16", A, 0x8877),
        ("be32", A, 0x88776655),
        ("be64", A, 0x8877665544332211),
        ("bswap16", A, 0x8877),
        ("bswap32", A, 0x88776655),
        ("bswap64", A, 0x8877665544332211),
    )
    extensions = (
        ("movsx864", 0x80, 0xFFFFFFFFFFFFFF80),
        ("movsx1664", 0x18000, 0xFFFFFFFFFFFF8000),
        ("movsx3264", 0x180000000, 0xFFFFFFFF80000000),
        ("movsx832", 0x17F, 0x7F),
        ("movsx832", 0x80, 0xFFFFFF80),
        ("movsx1632", 0x8000, 0xFFFF8000),
    )
    cases = [Case(name, f"lddw %r0, {value:#x}\n{name} %r0\nexit", result) for name, value, result in rows]
    return cases + [
        Case(f"{name}-{value:x}", f"lddw %r1, {value:#x}\n{name} %r0, %r1\nexit", result)
        for name, value, result in extensions
    ]


def _jumps() -> list[Case]:
    cases = []
    for name, rows in JUMPS.items():
        for number, (first, second, *taken) in enumerate(rows):
            for suffix, yes in zip(("", "32"), taken, strict=True):
                begin = f"lddw %r3, {first:#x}\nlddw %r4, {second:#x}\nmov %r0, 0\n"
                end = "exit\nyes:\nmov %r0, 1\nexit"
                text = f"{begin}{name}{suffix} %r3, %r4, yes\n{end}"
                cases.append(Case(f"{name}{suffix}-register-{number}", text, int(yes)))
                if _fits(second):
                    text = f"{begin}{name}{suffix} %r3, {_immediate(second)}, yes\n{end}"
                    cases.append(Case(f"{name}{suffix}-immediate-{number}", text, int(yes)))
    return [
        *cases,
        Case("ja", "mov %r0, 1\nja +1\nmov %r0, 2\nexit", 1),
        Case("ja32", "mov %r0, 1\nja32 +1\nmov %r0, 2\nexit", 1),
        Case("backward", "mov %r0, 0\nmov %r1, 5\nagain:\nadd %r0, %r1\nsub %r1, 1\njne %r1, 0, again\nexit", 15),
        Case("may_goto", "mov %r0, 0\nmay_goto +3\nadd %r0, 1\njge %r0, 3, +1\nja -4\nexit", 3),
        Case(
            "call local",
            "mov %r1, 4\nmov %r6, 9\ncall local f\nadd %r0, %r6\nexit\n"
            "f:\nmov %r6, 0\nmov %r0, %r1\nexit",
            13,
        ),
        Case(
            "frames have stacks of their own",
            "stdw [%r10-8], 7\ncall local f\nldxdw %r1, [%r10-8]\nadd %r0, %r1\nexit\n"
            "f:\nstdw [%r10-8], 9\nldxdw %r0, [%r10-8]\nexit",
            16,
        ),
        Case(
            "a callee writes the caller's stack",
            "stdw [%r10-8], 7\nmov %r1, %r10\ncall local f\nldxdw %r0, [%r10-8]\nexit\n"
            "f:\nmov %r0, 0\nstdw [%r1-8], 9\nexit",
            9,
        ),
    ]


def _memory() -> list[Case]:
    loads = (
        ("ldxb", 0x81),
        ("ldxh", 0x8281),
        ("ldxw", 0x84838281),
        ("ldxdw", 0x8887868584838281),
        ("ldxsb", 0xFFFFFFFFFFFFFF81),
        ("ldxsh", 0xFFFFFFFFFFFF8281),
        ("ldxsw", 0xFFFFFFFF84838281),
    )
    stores = (
        ("stb", 0x8887868584838212),
        ("sth", 0x8887868584837812),
        ("stw", 0x88878685F2347812),
        ("stdw", 0xFFFFFFFFF2347812),
    )
    value = "lddw %r3, 0xaabbccddf2347812\n"
    registers = {"stdw": 0xAABBCCDDF2347812}
    cases = [Case(name, f"{name} %r0, [%r1]\nexit", result, DATA) for name, result in loads]
    cases += [Case("offset", "ldxb %r0, [%r1+8]\nexit", 1, DATA), Case("length", "mov %r0, %r2\nexit", 16, DATA)]
    for name, result in stores:
        cases.append(Case(name, f"{name} [%r1], {-0xDCB87EE}\nldxdw %r0, [%r1]\nexit", result, DATA))
        source = f"{value}{name.replace('st', 'stx')} [%r1], %r3\nldxdw %r0, [%r1]\nexit"
        cases.append(Case(f"{name}-register", source, registers.get(name, result), DATA))
    for size, width in (("b", 8), ("h", 16), ("w", 32), ("dw", 64)):
        mask = (1 << width) - 1
        loaded = 0x8887868584838281 & mask
        letter = "r" if width == 64 else "w"
        acquire = f"{letter}0 = load_acquire((u{width} *)(r1 + 0))\nexit"
        cases.append(Case(f"load_acquire {size}", acquire, loaded, DATA))
        release = f"{value}store_release((u{width} *)(r1 + 0), {letter}3)\nldxdw %r0, [%r1]\nexit"
        stored = 0x8887868584838281 & ~mask & M | 0xAABBCCDDF2347812 & mask
        cases.append(Case(f"store_release {size}", release, stored, DATA))
    return [*cases, Case("lddw", f"lddw %r0, {A:#x}\nexit", A)]


def _atomics() -> list[Case]:
    cases = []
    for name, forms in ATOMICS.items():
        for suffix, load, (before, operand, after) in zip(("", "32"), ("ldxdw", "ldxw"), forms, strict=True):
            memory = before.to_bytes(8, "little") + bytes(8)
            start = f"lddw %r3, {operand:#x}\nlock "
            if name != "xchg":
                text = f"{start}{name}{suffix} [%r1], %r3\n{load} %r0, [%r1]\nexit"
                cases.append(Case(f"lock {name}{suffix}", text, after, memory))
            fetch = "" if name == "xchg" else "fetch "
            text = f"{start}{fetch}{name}{suffix} [%r1], %r3\nmov %r0, %r3\nexit"
            cases.append(Case(f"lock fetch {name}{suffix} returns", text, before, memory))
            text = f"{start}{fetch}{name}{suffix} [%r1], %r3\n{load} %r0, [%r1]\nexit"
            cases.append(Case(f"lock fetch {name}{suffix} stores", text, after, memory))
    for suffix, load, before in (("", "ldxdw", A), ("32", "ldxw", 0x55667788)):
        memory = A.to_bytes(8, "little")
        for expected, after in ((before, 99), (before + 1, before)):
            text = f"lddw %r0, {expected:#x}\nmov %r3, 99\nlock cmpxchg{suffix} [%r1], %r3\n"
            name = f"cmpxchg{suffix} {'equal' if after == 99 else 'different'}"
            cases.append(Case(f"{name} returns", f"{text}exit", before, memory))
            cases.append(Case(f"{name} leaves", f"{text}{load} %r0, [%r1]\nexit", after, memory))
    return cases


CASES: tuple[Case, ...] = (*_arithmetic(), *_unary(), *_jumps(), *_memory(), *_atomics())
