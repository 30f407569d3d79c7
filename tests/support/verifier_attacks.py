"""Programs that try to get past the verifier, in the families of the kernel's historical verifier bugs.

As in `verifier_cases`: `reason` is a part of our reason for refusing, None where the program is accepted (then it is
run in the interpreter and as compiled code, on many inputs); `kernel` says why the kernel decides otherwise.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

from verifier_cases import MAPS as BASIC_MAPS
from verifier_cases import (
    PATH_BUDGET,
    PERFMON,
    SIGNED_OFFSET,
    STRICT_STACK,
    Case,
)

from workbench.objects.linked import Function, LinkedMap, LinkedObject, LinkedProgram
from workbench.runtime.isa import assemble, decode_slots

MAPS = (
    *BASIC_MAPS,
    LinkedMap("rdonly", 2, 4, 16, 2, flags=1 << 7),
    LinkedMap("wronly", 2, 4, 16, 2, flags=1 << 8),
)
NAMES = tuple(one.name for one in MAPS)


@dataclass(frozen=True)
class Attack(Case):
    """One program; functions are found by the calls."""

    def program(self) -> LinkedProgram:
        code = assemble(self.text.replace(" | ", "\n"), maps=NAMES, check=False)
        try:
            found = [
                one.target(slot)
                for slot, one in enumerate(decode_slots(code))
                if one is not None and not one.is_jump and one.target(slot) >= 0
            ]
        except Exception:  # a damaged program is refused by the verifier itself
            found = []
        size = len(code) // 8
        starts = sorted({0, *(at for at in found if at < size)})
        functions = [
            Function("main" if not start else f"f{start}", start, end - start)
            for start, end in zip(starts, [*starts[1:], size], strict=True)
        ]
        return LinkedProgram("main", self.type, self.type, code, tuple(functions))

    def object(self) -> LinkedObject:
        program = self.program()
        return LinkedObject("attacks", "GPL", {program.name: program}, MAPS, {})


VALUE = "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto out | r9 = r0 | "
OUT = " | out: r0 = 0 | exit"
PACKET = "r7 = *(u32 *)(r1 + 0) | r8 = *(u32 *)(r1 + 4) | "
TOUCH = "r9 += r6 | r0 = *(u8 *)(r9 + 0) | exit" + OUT
LOOP = "r1 = r6 | r2 = subprog[fn] | r3 = r10 | r3 += -8 | r4 = 0 | call 181"
ANY = "call 5 | r6 = r0 | "
ANY32 = "call 7 | r6 = r0 | "
RECORD = "r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | if r0 == 0 goto out | r9 = r0 | "
DYNPTR = "r1 = r9 | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 197 | "


def A(
    family: str,
    name: str,
    text: str,
    reason: str | None = None,
    kernel: str = "",
    type: str = "socket_filter",
) -> Attack:
    return Attack(family, name, text, reason, kernel, type)


ATTACKS = (
    # --- 32-bit bounds (CVE-2020-8835, CVE-2021-3490, CVE-2021-31440)
    A(
        "32-bit",
        "32-bit compare bounds the low half only",
        VALUE + ANY + "if w6 > 15 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "signed 32-bit compare",
        VALUE + ANY + "if w6 s> 15 goto out | if w6 s< 0 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "zero-extended after the compare",
        VALUE + ANY + "if w6 > 15 goto out | w6 = w6 | " + TOUCH,
    ),
    A(
        "32-bit",
        "AND of halves keeps the upper half",
        VALUE + ANY + "r1 = 15 ll | r6 &= r1 | " + TOUCH,
    ),
    A(
        "32-bit",
        "OR of an unknown upper half",
        VALUE + ANY + "r6 &= -256 | w1 = 3 | r6 |= r1 | " + TOUCH,
        "without a bound",
    ),
    A("32-bit", "XOR with a constant", VALUE + ANY32 + "r6 &= 15 | r6 ^= 48 | " + TOUCH),
    A(
        "32-bit",
        "XOR above the value",
        VALUE + ANY32 + "r6 &= 15 | r6 ^= 64 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "32-bit",
        "32-bit addition wraps",
        VALUE + ANY32 + "r6 &= 15 | w6 += -8 | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "32-bit addition, then a wide sign",
        VALUE + ANY32 + "w6 &= 15 | w6 += -8 | r6 <<= 32 | r6 s>>= 32 | r9 += 8 | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "equality of the low half says nothing of the upper",
        VALUE + ANY + "if w6 != 3 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "64-bit bounds from 32-bit bounds around zero",
        VALUE + ANY + "if w6 s< -1 goto out | if w6 s> 1 goto out | r6 += 1 | r6 &= 3 | " + TOUCH,
    ),
    A(
        "32-bit",
        "64-bit use of 32-bit bounds around zero",
        VALUE + ANY + "if w6 s< -1 goto out | if w6 s> 1 goto out | r6 += 1 | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "MUL overflows 32 bits",
        VALUE + ANY32 + "w6 &= 65535 | w6 *= 65537 | " + TOUCH,
        "without a bound",
    ),
    A("32-bit", "LSH loses the upper bits", VALUE + ANY32 + "w6 <<= 28 | w6 >>= 28 | " + TOUCH),
    A(
        "32-bit",
        "LSH of 64 bits keeps them",
        VALUE + ANY + "r6 <<= 28 | r6 >>= 28 | " + TOUCH,
        "without a bound",
    ),
    A(
        "32-bit",
        "jump on the low half of a constant",
        VALUE + "r6 = 0x100000000 ll | if w6 > 15 goto out | " + TOUCH,
        "moved by",
    ),
    # --- signed and unsigned
    A(
        "signs",
        "JSGT bounds from above only",
        VALUE + ANY + "if r6 s> 15 goto out | " + TOUCH,
        "without a bound",
    ),
    A("signs", "JSGT twice", VALUE + ANY + "if r6 s> 15 goto out | if r6 s< 0 goto out | " + TOUCH),
    A(
        "signs",
        "JSLT then unsigned",
        VALUE + ANY + "if r6 s< 0 goto out | if r6 > 15 goto out | " + TOUCH,
    ),
    A(
        "signs",
        "a negative constant as unsigned",
        VALUE + ANY + "if r6 > -1 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "signs",
        "JLT with a negative constant",
        VALUE + ANY + "if r6 < -8 goto out | r6 += 8 | " + TOUCH,
    ),
    A(
        "signs",
        "JSET does not bound",
        VALUE + ANY + "if r6 & 64 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "signs",
        "JSET of all upper bits bounds",
        VALUE + ANY + "r1 = -64 | if r6 & r1 goto out | " + TOUCH,
    ),
    A(
        "signs",
        "JNE at the end of a range",
        VALUE + ANY32 + "r6 &= 64 | if r6 == 64 goto out | " + TOUCH,
    ),
    A(
        "signs",
        "JNE in the middle of a range",
        VALUE + ANY32 + "r6 &= 127 | if r6 == 64 goto out | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "signs",
        "the negated side of JSGE",
        VALUE + ANY + "if r6 s>= 16 goto out | if r6 s<= -1 goto out | " + TOUCH,
    ),
    A(
        "signs",
        "a compare with itself",
        VALUE + ANY + "if r6 s> r6 goto b | goto out | b: " + TOUCH,
        None,
        "the kernel walks the side of a comparison with itself that is impossible",
    ),
    A(
        "signs",
        "two unknown numbers",
        VALUE + ANY + "call 5 | r7 = r0 | if r7 > 15 goto out | if r6 > r7 goto out | " + TOUCH,
    ),
    A(
        "signs",
        "two unknown numbers, the wrong way",
        VALUE + ANY + "call 5 | r7 = r0 | if r7 > 15 goto out | if r6 < r7 goto out | " + TOUCH,
        "without a bound",
    ),
    # --- shifts, NEG, division, swaps, sign extension
    A("arithmetic", "ARSH keeps the sign", VALUE + ANY + "r6 s>>= 60 | r6 &= 31 | " + TOUCH),
    A(
        "arithmetic",
        "ARSH of a number that may be negative",
        VALUE + ANY + "r6 s>>= 60 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "ARSH of 32 bits zero-extends",
        VALUE + ANY + "w6 s>>= 28 | " + TOUCH,
        "without a bound",
    ),
    A(
        "arithmetic",
        "ARSH by an unknown number",
        VALUE + ANY + "call 7 | r6 &= 15 | r6 s>>= r0 | " + TOUCH,
        None,
        "the kernel knows nothing of shifts by an unknown number",
    ),
    A(
        "arithmetic",
        "LSH by an unknown number",
        VALUE + ANY + "call 7 | r0 &= 3 | r6 &= 7 | r6 <<= r0 | " + TOUCH,
        None,
        "the kernel knows nothing of shifts by an unknown number",
    ),
    A(
        "arithmetic",
        "LSH by one more",
        VALUE + ANY + "call 7 | r0 &= 7 | r6 &= 7 | r6 <<= r0 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "LSH by 64 or more",
        VALUE + ANY + "call 7 | r6 &= 7 | r6 <<= r0 | " + TOUCH,
        "without a bound",
    ),
    A(
        "arithmetic",
        "RSH by an unknown number",
        VALUE + ANY + "call 7 | r6 &= 63 | r6 >>= r0 | " + TOUCH,
        None,
        "the kernel knows nothing of shifts by an unknown number",
    ),
    A(
        "arithmetic",
        "NEG of a range",
        VALUE + ANY32 + "r6 &= 7 | r6 = -r6 | r9 += 7 | " + TOUCH,
        None,
        SIGNED_OFFSET,
    ),
    A(
        "arithmetic",
        "NEG too far",
        VALUE + ANY32 + "r6 &= 7 | r6 = -r6 | r9 += 6 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "32-bit NEG zero-extends",
        VALUE + ANY32 + "w6 &= 7 | w6 = -w6 | r9 += 7 | " + TOUCH,
        "without a bound",
    ),
    A(
        "arithmetic",
        "DIV by zero gives zero, not more",
        VALUE + ANY + "call 7 | r6 &= 63 | r6 /= r0 | " + TOUCH,
        None,
        "this kernel does not bound division",
    ),
    A(
        "arithmetic",
        "MOD by zero gives the dividend",
        VALUE + ANY + "call 7 | r0 &= 15 | r6 %= r0 | " + TOUCH,
        "without a bound",
    ),
    A(
        "arithmetic",
        "MOD by a number above zero",
        VALUE + ANY + "call 7 | r0 &= 15 | r0 |= 1 | r6 %= r0 | " + TOUCH,
        None,
        "this kernel does not bound modulo",
    ),
    A(
        "arithmetic",
        "signed MOD may be negative",
        VALUE + ANY + "r6 s%= 16 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "signed MOD, moved up",
        VALUE + ANY + "r6 s%= 16 | r9 += 15 | " + TOUCH,
        None,
        SIGNED_OFFSET,
    ),
    A(
        "arithmetic",
        "signed DIV of the least number by -1",
        VALUE + ANY + "r6 s/= -1 | r6 >>= 58 | " + TOUCH,
    ),
    A(
        "arithmetic",
        "signed DIV by -1 is not bounded",
        VALUE + ANY32 + "r6 &= 7 | r6 s/= -1 | r9 += 7 | " + TOUCH,
        "without a bound",
    ),
    A("arithmetic", "MOVSX of 8 bits", VALUE + ANY + "r6 = (s8)r6 | r6 &= 63 | " + TOUCH),
    A(
        "arithmetic",
        "MOVSX may be negative",
        VALUE + ANY + "r6 = (s8)r6 | if r6 s> 15 goto out | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "MOVSX of 32 bits by a 32-bit bound",
        VALUE + ANY + "if w6 s> 15 goto out | if w6 s< 0 goto out | r6 = (s32)r6 | " + TOUCH,
        None,
        "this kernel forgets the bounds of the low half",
    ),
    A(
        "arithmetic",
        "32-bit MOVSX zero-extends",
        VALUE + ANY + "w6 = (s8)w6 | " + TOUCH,
        "without a bound",
    ),
    A(
        "arithmetic",
        "MOVSX of a number known to be small",
        VALUE
        + ANY32
        + "r6 &= 255 | r6 = (s8)r6 | if r6 s< 0 goto out | if r6 s> 63 goto out | "
        + TOUCH,
    ),
    A("arithmetic", "LDSX of a byte", VALUE + "r6 = *(s8 *)(r9 + 0) | " + TOUCH, "has 64 bytes"),
    A(
        "arithmetic",
        "LDSX of a byte, both ends",
        VALUE + "r6 = *(s8 *)(r9 + 0) | if r6 s< 0 goto out | if r6 s> 63 goto out | " + TOUCH,
    ),
    A(
        "arithmetic",
        "swapped bytes are not small",
        VALUE + ANY32 + "r6 &= 15 | r6 = bswap16 r6 | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "arithmetic",
        "swapped twice",
        VALUE + ANY32 + "r6 &= 15 | r6 = be16 r6 | r6 = be16 r6 | " + TOUCH,
    ),
    A(
        "arithmetic",
        "swap of 64 bits",
        VALUE + ANY32 + "r6 &= 15 | r6 = bswap64 r6 | r6 >>= 56 | " + TOUCH,
    ),
    A(
        "arithmetic",
        "le16 of a wide number",
        VALUE + ANY + "r6 = le16 r6 | " + TOUCH,
        "has 64 bytes",
    ),
    # --- ids of equal numbers
    A(
        "links",
        "a copy of the low half is another number",
        VALUE + ANY + "w7 = w6 | if r7 > 15 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a copy, then changed",
        VALUE + ANY + "r7 = r6 | r7 += 1 | if r7 > 15 goto out | " + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a 32-bit spill of a wide number",
        VALUE
        + ANY
        + "*(u32 *)(r10 - 16) = r6 | r7 = *(u32 *)(r10 - 16) | if r7 > 15 goto out | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a spill, then overwritten",
        VALUE
        + ANY
        + "*(u64 *)(r10 - 16) = r6 | *(u8 *)(r10 - 16) = 1 | r7 = *(u64 *)(r10 - 16) | if r7 > 15 goto out | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a spill of 8, a fill of 4",
        VALUE
        + ANY
        + "*(u64 *)(r10 - 16) = r6 | r7 = *(u32 *)(r10 - 16) | if r7 > 15 goto out | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a fill of the upper half",
        VALUE
        + ANY32
        + "r6 &= 15 | r6 <<= 32 | *(u64 *)(r10 - 16) = r6 | r6 = *(u32 *)(r10 - 12) | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a fill of the upper half of a bounded number",
        VALUE
        + ANY32
        + "*(u64 *)(r10 - 16) = r6 | if r6 > 15 goto out | r6 = *(u32 *)(r10 - 12) | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a sign-extended fill",
        VALUE + ANY32 + "r6 &= 255 | *(u64 *)(r10 - 16) = r6 | r6 = *(s8 *)(r10 - 16) | " + TOUCH,
        "has 64 bytes",
    ),
    A(
        "links",
        "changed in a callee",
        VALUE
        + ANY
        + "*(u64 *)(r10 - 16) = r6 | if r6 > 15 goto out | r1 = r10 | r1 += -16 | call local fn | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH
        + " | fn: *(u64 *)(r1 + 0) = 99 | r0 = 0 | exit",
        "has 64 bytes",
    ),
    A(
        "links",
        "changed by an atomic",
        VALUE
        + ANY
        + "if r6 > 15 goto out | *(u64 *)(r10 - 16) = r6 | r1 = 64 | lock *(u64 *)(r10 - 16) += r1 | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "an atomic fetch",
        VALUE
        + ANY
        + "if r6 > 15 goto out | *(u64 *)(r10 - 16) = r6 | r1 = 64 | r1 = atomic_fetch_add((u64 *)(r10 - 16), r1) | r6 = r1 | "
        + TOUCH,
        "without a bound",
        "newer kernels know what an atomic fetch of the stack gives",
    ),
    A(
        "links",
        "cmpxchg changes r0",
        VALUE
        + ANY
        + "*(u64 *)(r10 - 16) = r6 | r0 = 3 | r1 = 4 | r0 = cmpxchg_64(r10 - 16, r0, r1) | r6 = r0 | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "links",
        "a helper writes over a spill",
        VALUE
        + "r6 = 3 | *(u64 *)(r10 - 16) = r6 | r1 = map[queue] ll | r2 = r10 | r2 += -16 | call 88 | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH,
        "without a bound",
    ),
    # --- the stack
    A(
        "stack",
        "part of a spilled address by a load of 8 at another slot",
        "*(u64 *)(r10 - 16) = r10 | *(u64 *)(r10 - 8) = 0 | r0 = *(u32 *)(r10 - 12) | exit",
        "of the 8 bytes of an address",
    ),
    A(
        "stack",
        "a spilled address through a variable offset",
        "*(u64 *)(r10 - 16) = r10 | *(u64 *)(r10 - 8) = 0 | call 7 | r0 &= 8 | r2 = r10 | r2 += -16 | r2 += r0 | r0 = *(u64 *)(r2 + 0) | exit",
        "an address leaks",
        PERFMON,
    ),
    A(
        "stack",
        "a variable store over a spilled address",
        "*(u64 *)(r10 - 16) = r1 | *(u64 *)(r10 - 8) = 0 | call 7 | r0 &= 8 | r2 = r10 | r2 += -16 | r2 += r0 | r3 = 5 | *(u64 *)(r2 + 0) = r3 | r4 = *(u64 *)(r10 - 16) | r0 = *(u32 *)(r4 + 0) | exit",
        "overwritten",
    ),
    A(
        "stack",
        "a spilled address as a map value",
        "*(u64 *)(r10 - 16) = r10 | *(u64 *)(r10 - 8) = 0 | r1 = map[queue] ll | r2 = r10 | r2 += -16 | r3 = 0 | call 87 | r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    A(
        "stack",
        "a spilled address as a key",
        "*(u64 *)(r10 - 8) = r10 | r1 = map[table] ll | r2 = r10 | r2 += -8 | call 1 | r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    A(
        "stack",
        "a zero-size argument outside",
        "r1 = map[ring] ll | r2 = r10 | r2 += 8 | r3 = 0 | r4 = 0 | call 130 | r0 = 0 | exit",
        "outside the stack",
    ),
    A(
        "stack",
        "a size that wraps",
        "r1 = map[ring] ll | r2 = r10 | r2 += -8 | *(u64 *)(r10 - 8) = 0 | r3 = 0xffffffff ll | r4 = 0 | call 130 | r0 = 0 | exit",
        "size",
    ),
    A(
        "stack",
        "a size at a variable offset",
        "*(u64 *)(r10 - 8) = 0 | *(u64 *)(r10 - 16) = 0 | call 7 | r0 &= 7 | r1 = map[ring] ll | r2 = r10 | r2 += -16 | r2 += r0 | r3 = 16 | r4 = 0 | call 130 | r0 = 0 | exit",
        "outside the stack",
    ),
    A(
        "stack",
        "size and offset vary, both bounded",
        "*(u64 *)(r10 - 8) = 0 | *(u64 *)(r10 - 16) = 0 | call 7 | r0 &= 7 | r1 = map[ring] ll | r2 = r10 | r2 += -16 | r2 += r0 | r3 = 8 | r4 = 0 | call 130 | r0 = 0 | exit",
    ),
    A(
        "stack",
        "negative offset of a large number",
        "r2 = r10 | r2 += -600 | r2 += 592 | *(u64 *)(r2 + 0) = 1 | r0 = *(u64 *)(r10 - 8) | exit",
    ),
    A(
        "stack",
        "the address of a callee's stack by a number",
        "r1 = r10 | call local fn | r0 = 0 | exit | fn: r1 -= r10 | r0 = r1 | exit",
        "difference of two addresses",
        PERFMON,
    ),
    A(
        "stack",
        "a callee reads what the caller never wrote",
        "r1 = r10 | r1 += -8 | call local fn | exit | fn: r0 = *(u64 *)(r1 + 0) | exit",
        "never written",
        STRICT_STACK,
    ),
    A(
        "stack",
        "stale bytes of a helper that may write less",
        "r1 = r10 | r1 += -16 | call 7 | r2 = r0 | r2 &= 15 | r1 = r10 | r1 += -16 | r3 = r6 | r0 = 0 | exit",
        "r6 was never written",
    ),
    A(
        "stack",
        "a record's address stays where it was spilled",
        RECORD
        + "*(u64 *)(r10 - 8) = r9 | r1 = r9 | r2 = 0 | call 132 | r0 = *(u64 *)(r10 - 8) | exit"
        + OUT,
        "never written",
        PERFMON,
    ),
    A(
        "stack",
        "half of a released record's address",
        RECORD
        + "*(u64 *)(r10 - 8) = r9 | r1 = r9 | r2 = 0 | call 132 | r0 = *(u32 *)(r10 - 8) | exit"
        + OUT,
        "never written",
        PERFMON,
    ),
    # --- pointers
    A(
        "pointers",
        "an offset that wraps 32 bits",
        "r1 = map[known][0]+0 ll | r1 += 0x7fffffff | r1 += 0x7fffffff | r1 += 2 | r0 = *(u8 *)(r1 + 0) | exit",
        "moved by",
    ),
    A(
        "pointers",
        "instruction offset beyond",
        VALUE + "r9 += 0x1ffffff0 | r0 = *(u8 *)(r9 - 0x7fff) | exit" + OUT,
        "has 64 bytes",
    ),
    A(
        "pointers",
        "a negative constant offset, undone by the instruction",
        VALUE + "r9 += -8 | r0 = *(u8 *)(r9 + 8) | exit" + OUT,
    ),
    A(
        "pointers",
        "a negative variable offset",
        VALUE + ANY32 + "r6 &= 7 | r9 -= r6 | r0 = *(u8 *)(r9 + 0) | exit" + OUT,
        "has 64 bytes",
    ),
    A(
        "pointers",
        "null check of a copy with an offset",
        "*(u32 *)(r10 - 4) = 9 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | r6 = r0 | r6 += 8 | if r6 == 0 goto out | r0 = *(u8 *)(r0 + 0) | exit"
        + OUT,
        "may be null",
    ),
    A(
        "pointers",
        "null check of one of two lookups",
        "*(u32 *)(r10 - 4) = 9 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | r6 = r0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r6 == 0 goto out | r0 = *(u8 *)(r0 + 0) | exit"
        + OUT,
        "may be null",
    ),
    A(
        "pointers",
        "null check by the low half",
        "*(u32 *)(r10 - 4) = 9 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if w0 == 0 goto out | r0 = *(u8 *)(r0 + 0) | exit"
        + OUT,
        "low half is compared",
    ),
    A(
        "pointers",
        "null check against an unknown number",
        "call 7 | r6 = r0 | *(u32 *)(r10 - 4) = 9 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == r6 goto out | r0 = *(u8 *)(r0 + 0) | exit"
        + OUT,
        "compared with a number",
    ),
    A(
        "pointers",
        "null check of a spilled copy",
        "*(u32 *)(r10 - 4) = 1 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | *(u64 *)(r10 - 16) = r0 | if r0 == 0 goto out | r1 = *(u64 *)(r10 - 16) | r0 = *(u8 *)(r1 + 0) | exit"
        + OUT,
    ),
    A(
        "pointers",
        "null on the wrong branch of a spilled copy",
        "*(u32 *)(r10 - 4) = 1 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | *(u64 *)(r10 - 16) = r0 | if r0 != 0 goto out | r1 = *(u64 *)(r10 - 16) | r0 = *(u8 *)(r1 + 0) | exit"
        + OUT,
        "number, not an address",
    ),
    A(
        "pointers",
        "the difference of values of two lookups",
        VALUE
        + "r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto out | r0 -= r9 | exit"
        + OUT,
        "difference of two addresses",
        PERFMON,
    ),
    A(
        "pointers",
        "an address in a conditional select",
        VALUE
        + ANY32
        + "r1 = r9 | if r6 == 0 goto a | r1 = 5 | a: r0 = *(u8 *)(r1 + 0) | exit"
        + OUT,
        "number, not an address",
    ),
    A(
        "pointers",
        "kinds that differ by path",
        VALUE
        + ANY32
        + "*(u64 *)(r10 - 16) = 7 | r1 = r9 | if r6 == 0 goto a | r1 = r10 | r1 += -16 | a: r0 = *(u64 *)(r1 + 0) | exit"
        + OUT,
    ),
    A(
        "pointers",
        "kinds that differ by path, one out of bounds",
        VALUE
        + ANY32
        + "*(u64 *)(r10 - 8) = 7 | r1 = r9 | if r6 == 0 goto a | r1 = r10 | r1 += -8 | a: r0 = *(u64 *)(r1 + 8) | exit"
        + OUT,
        "outside the stack",
    ),
    A(
        "pointers",
        "two maps in one register",
        VALUE
        + ANY32
        + "r1 = r9 | if r6 == 0 goto a | r1 = map[known][0]+0 ll | a: r0 = *(u64 *)(r1 + 16) | exit"
        + OUT,
        "has 16 bytes",
    ),
    A(
        "pointers",
        "a store to one of two maps that is read-only",
        VALUE
        + ANY32
        + "r1 = r9 | if r6 == 0 goto a | r1 = map[known][0]+0 ll | a: *(u64 *)(r1 + 8) = 1 | r0 = 0 | exit"
        + OUT,
        "read-only",
    ),
    A(
        "pointers",
        "an address in a printed line",
        "r6 = r1 | *(u32 *)(r10 - 4) = 0x7025 | r1 = r10 | r1 += -4 | r2 = 4 | r3 = r6 | call 6 | r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    A(
        "pointers",
        "an address as a flag",
        "*(u64 *)(r10 - 8) = 1 | r1 = map[queue] ll | r2 = r10 | r2 += -8 | r3 = r10 | call 87 | r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    # --- read-only data
    A(
        "read-only",
        "atomic",
        "r1 = map[known][0]+0 ll | r2 = 1 | lock *(u64 *)(r1 + 8) += r2 | r0 = 0 | exit",
        "read-only",
    ),
    A(
        "read-only",
        "store-release",
        "r1 = map[known][0]+0 ll | r2 = 1 | store_release((u64 *)(r1 + 8), r2) | r0 = 0 | exit",
        "read-only",
    ),
    A(
        "read-only",
        "by a helper",
        "r1 = map[queue] ll | r2 = map[known][0]+0 ll | call 88 | r0 = 0 | exit",
        "read-only",
    ),
    A(
        "read-only",
        "a dynptr over it",
        "r1 = map[known][0]+0 ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 197 | r0 = 0 | exit",
        "read-only",
    ),
    A(
        "read-only",
        "constant at a constant offset",
        VALUE + "r1 = map[known][0]+0 ll | r6 = *(u8 *)(r1 + 3) | " + TOUCH,
    ),
    A(
        "read-only",
        "constant at a variable offset",
        VALUE
        + ANY32
        + "r6 &= 7 | r1 = map[known][0]+0 ll | r1 += r6 | r6 = *(u8 *)(r1 + 0) | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "read-only",
        "a map read-only for programs",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[rdonly] ll | call 1 | if r0 == 0 goto out | *(u64 *)(r0 + 0) = 1"
        + OUT,
        "read-only",
    ),
    A(
        "read-only",
        "its content is not constant",
        VALUE
        + "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[rdonly] ll | call 1 | if r0 == 0 goto out | r6 = *(u8 *)(r0 + 0) | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "read-only",
        "a map write-only for programs",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[wronly] ll | call 1 | r0 = 0 | exit",
        "write-only",
        "the kernel refuses the load from the value",
    ),
    A(
        "read-only",
        "an update of it",
        "*(u32 *)(r10 - 4) = 0 | *(u64 *)(r10 - 16) = 0 | *(u64 *)(r10 - 24) = 0 | r2 = r10 | r2 += -4 | r3 = r10 | r3 += -24 | r4 = 0 | r1 = map[rdonly] ll | call 2 | r0 = 0 | exit",
        "read-only",
    ),
    # --- packets
    A(
        "packet",
        "checked before the offset was added",
        PACKET
        + "r6 = r1 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | call 7 | r0 &= 1 | r7 += r0 | r0 = *(u8 *)(r7 + 7) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "a variable offset beyond 65535",
        PACKET
        + "call 7 | r0 &= 0x1ffff | r7 += r0 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "a constant offset beyond 65535",
        PACKET
        + "r2 = r7 | r2 += 0x10000 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "checked with a negative offset",
        PACKET + "r2 = r7 | r2 += -8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit" + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "before its start",
        PACKET + "r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 - 1) | exit" + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "before its start by a variable offset",
        PACKET
        + "call 7 | r0 &= 15 | r7 += r0 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 - 8) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "minus a variable offset",
        PACKET
        + "r2 = r7 | r2 += 64 | if r2 > r8 goto out | call 7 | r0 &= 15 | r7 += 16 | r7 -= r0 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "start compared with the end, one byte",
        PACKET + "if r7 >= r8 goto out | r0 = *(u8 *)(r7 + 0) | exit" + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "equal to the end",
        PACKET
        + "r2 = r7 | r2 += 8 | if r2 == r8 goto a | goto out | a: r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "metadata against the end",
        "r7 = *(u32 *)(r1 + 8) | r8 = *(u32 *)(r1 + 4) | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "metadata against a moved start",
        "r7 = *(u32 *)(r1 + 8) | r8 = *(u32 *)(r1 + 0) | r8 += 8 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "metadata proves nothing of data",
        "r7 = *(u32 *)(r1 + 8) | r8 = *(u32 *)(r1 + 0) | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r8 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "data against metadata",
        "r7 = *(u32 *)(r1 + 0) | r8 = *(u32 *)(r1 + 8) | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "packet",
        "the end in 32 bits",
        PACKET + "r2 = r7 | r2 += 8 | if w2 > w8 goto out | r0 = *(u8 *)(r7 + 0) | exit" + OUT,
        "low half is compared",
        "",
        "xdp",
    ),
    A(
        "packet",
        "a store of a packet address",
        PACKET + "*(u64 *)(r10 - 8) = r7 | r0 = *(u32 *)(r10 - 8) | exit",
        "of the 8 bytes of an address",
        "",
        "xdp",
    ),
    A(
        "packet",
        "a spilled packet address learns of the check",
        PACKET
        + "*(u64 *)(r10 - 8) = r7 | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r3 = *(u64 *)(r10 - 8) | r0 = *(u64 *)(r3 + 0) | exit"
        + OUT,
        None,
        "",
        "xdp",
    ),
    A(
        "packet",
        "classic load clobbers r1 to r5",
        "r6 = r1 | r2 = 5 | r0 = *(u16 *)skb[12] | r0 = r2 | exit",
        "r2 was never written",
    ),
    A(
        "packet",
        "classic load with a moved context",
        "r6 = r1 | r6 += 4 | r0 = *(u8 *)skb[0] | exit",
        "context",
    ),
    A(
        "packet",
        "classic load in a function",
        "r6 = r1 | call local fn | exit | fn: r6 = r1 | r0 = *(u8 *)skb[0] | exit",
        "outside the main function",
        "the kernel allows it in functions that return numbers",
    ),
    A(
        "packet",
        "classic load while a record is held",
        "r6 = r1 | " + RECORD + "r0 = *(u8 *)skb[0] | r1 = r9 | r2 = 0 | call 132" + OUT,
        "held",
    ),
    A(
        "packet",
        "classic load at an unknown offset",
        "r6 = r1 | call 7 | r7 = r0 | r0 = *(u32 *)skb[r7 + 4] | exit",
    ),
    A("packet", "classic load at a negative offset", "r6 = r1 | r0 = *(u32 *)skb[-4] | exit"),
    # --- the context
    A(
        "context",
        "spilled and filled",
        "*(u64 *)(r10 - 8) = r1 | r2 = *(u64 *)(r10 - 8) | r7 = *(u32 *)(r2 + 0) | r8 = *(u32 *)(r2 + 4) | r2 = r7 | r2 += 8 | if r2 > r8 goto out | r0 = *(u64 *)(r7 + 0) | exit"
        + OUT,
        None,
        "",
        "xdp",
    ),
    A(
        "context",
        "or a map value, by path",
        "r6 = r1 | *(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto out | r7 = r0 | call 7 | if r0 == 0 goto a | r7 = r6 | a: r0 = *(u32 *)(r7 + 12) | exit"
        + OUT,
        "different kinds",
        "",
        "xdp",
    ),
    A(
        "context",
        "or a map value behind a function",
        "r6 = r1 | *(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto out | r1 = r0 | call local fn | r1 = r6 | call local fn | exit"
        + OUT
        + " | fn: r0 = *(u32 *)(r1 + 12) | exit",
        "different kinds",
        "",
        "xdp",
    ),
    A(
        "context",
        "passed to a function",
        "call local fn | exit | fn: r0 = *(u32 *)(r1 + 12) | exit",
        None,
        "",
        "xdp",
    ),
    A(
        "context",
        "two bytes of a field",
        "r0 = *(u16 *)(r1 + 14) | exit",
        "may not be read",
        "",
        "xdp",
    ),
    A("context", "one byte of cb", "r0 = *(u8 *)(r1 + 53) | exit"),
    A("context", "beyond cb", "r0 = *(u64 *)(r1 + 64) | exit", "may not be read"),
    A(
        "context",
        "store-release to cb",
        "r2 = 1 | store_release((u32 *)(r1 + 48), r2) | r0 = 0 | exit",
        "atomic operations work on",
    ),
    A(
        "context",
        "load-acquire of cb",
        "r0 = load_acquire((u32 *)(r1 + 48)) | exit",
        "atomic operations work on",
    ),
    A(
        "context",
        "atomic on a packet",
        PACKET
        + "r2 = r7 | r2 += 8 | if r2 > r8 goto out | r1 = 1 | lock *(u64 *)(r7 + 0) += r1"
        + OUT,
        "atomic operations work on",
        "",
        "xdp",
    ),
    A(
        "context",
        "a caller's memory past its end",
        "r0 = *(u64 *)(r1 - 8) | exit",
        "may not be read",
        "",
        "syscall",
    ),
    A(
        "context",
        "tail call with a moved context",
        "r1 += 8 | r2 = map[jumps] ll | r3 = 0 | call 12 | r0 = 0 | exit",
        "the program's context",
    ),
    # --- references
    A(
        "references",
        "leaked on one branch",
        RECORD + "call 7 | if r0 == 0 goto out | r1 = r9 | r2 = 0 | call 132" + OUT,
        "is not released",
    ),
    A(
        "references",
        "the only pointer is overwritten",
        RECORD + "r9 = 0 | r0 = 0" + OUT,
        "is not released",
    ),
    A(
        "references",
        "released in a function",
        RECORD + "r1 = r9 | call local fn" + OUT + " | fn: r2 = 0 | call 132 | r0 = 0 | exit",
    ),
    A(
        "references",
        "released in a function, used after",
        RECORD
        + "r1 = r9 | call local fn | r0 = *(u64 *)(r9 + 0) | exit"
        + OUT
        + " | fn: r2 = 0 | call 132 | r0 = 0 | exit",
        "never written",
    ),
    A(
        "references",
        "acquired in a function",
        "call local fn | if r0 == 0 goto out | r1 = r0 | r2 = 0 | call 133"
        + OUT
        + " | fn: r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | exit",
    ),
    A(
        "references",
        "acquired in a callback",
        "r6 = 4 | *(u64 *)(r10 - 8) = 0 | "
        + LOOP
        + OUT
        + " | fn: r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | r0 = 0 | exit",
        "keeps what it acquired",
    ),
    A(
        "references",
        "acquired in a callback, kept in the caller's stack, where another was kept before",
        "r6 = 2 | call 7 | r7 = r0 | *(u64 *)(r10 - 8) = 0 | if r7 == 0 goto a | r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | if r0 == 0 goto out | *(u64 *)(r10 - 8) = r0 | "
        "a: r1 = r6 | r2 = subprog[fn] | r3 = r10 | r3 += -8 | r4 = 0 | call 181 | r1 = *(u64 *)(r10 - 8) | if r1 == 0 goto out | r2 = 0 | call 132 | out: r0 = 0 | exit | "
        "fn: r6 = r2 | r0 = *(u64 *)(r6 + 0) | if r0 != 0 goto b | r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | if r0 == 0 goto b | *(u64 *)(r6 + 0) = r0 | b: r6 = 0 | r0 = 0 | exit",
        "keeps what it acquired",
        "the kernel counts what a callback keeps by the program's end; ours wants each round to give back what it took",
    ),
    A(
        "references",
        "released in a callback",
        "r6 = 4 | "
        + "r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | if r0 == 0 goto out | *(u64 *)(r10 - 8) = r0 | "
        + LOOP
        + OUT
        + " | fn: r1 = *(u64 *)(r2 + 0) | r2 = 0 | call 132 | r0 = 0 | exit",
        "",
    ),
    A(
        "references",
        "a record in a map",
        RECORD
        + "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto b | *(u64 *)(r0 + 0) = r9 | b: r1 = r9 | r2 = 0 | call 132"
        + OUT,
        "an address leaks",
        PERFMON,
    ),
    A(
        "references",
        "a record written at its end",
        RECORD + "*(u8 *)(r9 + 16) = 1 | r1 = r9 | r2 = 0 | call 132" + OUT,
        "has 16 bytes",
    ),
    A(
        "references",
        "a record at a variable offset",
        RECORD
        + "call 7 | r0 &= 15 | r1 = r9 | r1 += r0 | *(u8 *)(r1 + 0) = 1 | r1 = r9 | r2 = 0 | call 132"
        + OUT,
    ),
    A(
        "references",
        "a record's header",
        RECORD + "*(u32 *)(r9 - 8) = 1 | r1 = r9 | r2 = 0 | call 132" + OUT,
        "has 16 bytes",
    ),
    # --- dynptrs
    A(
        "dynptr",
        "a slice past its end",
        VALUE
        + DYNPTR
        + "r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | if r0 == 0 goto out | r0 = *(u64 *)(r0 + 8) | exit"
        + OUT,
        "has 8 bytes",
    ),
    A(
        "dynptr",
        "a slice not checked",
        VALUE
        + DYNPTR
        + "r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | r0 = *(u64 *)(r0 + 0) | exit"
        + OUT,
        "may be null",
    ),
    A(
        "dynptr",
        "a slice of a variable size",
        VALUE
        + ANY32
        + DYNPTR
        + "r1 = r10 | r1 += -16 | r2 = 0 | r3 = r6 | call 203 | r0 = 0 | exit"
        + OUT,
        "constant size",
    ),
    A(
        "dynptr",
        "read as memory",
        VALUE + DYNPTR + "r0 = *(u64 *)(r10 - 16) | exit" + OUT,
        "only helpers",
    ),
    A(
        "dynptr",
        "read as memory at a variable offset",
        VALUE
        + DYNPTR
        + "*(u64 *)(r10 - 24) = 0 | call 7 | r0 &= 8 | r1 = r10 | r1 += -24 | r1 += r0 | r0 = *(u64 *)(r1 + 0) | exit"
        + OUT,
        "only helpers",
    ),
    A(
        "dynptr",
        "overwritten in part, then used",
        VALUE
        + DYNPTR
        + "*(u8 *)(r10 - 16) = 1 | r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | r0 = 0 | exit"
        + OUT,
        "no dynptr",
    ),
    A(
        "dynptr",
        "a slice after its dynptr was overwritten",
        VALUE
        + DYNPTR
        + "r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | if r0 == 0 goto out | *(u64 *)(r10 - 16) = 0 | r0 = *(u64 *)(r0 + 0) | exit"
        + OUT,
        "never written",
    ),
    A(
        "dynptr",
        "moved",
        VALUE + DYNPTR + "r1 = r10 | r1 += -8 | r2 = 0 | r3 = 8 | call 203 | r0 = 0 | exit" + OUT,
        "dynptr",
    ),
    A(
        "dynptr",
        "over the stack",
        "*(u64 *)(r10 - 24) = 0 | r1 = r10 | r1 += -24 | r2 = 8 | r3 = 0 | r4 = r10 | r4 += -16 | call 197 | r0 = 0 | exit",
        "pointer into a map value",
    ),
    A(
        "dynptr",
        "larger than the value",
        VALUE
        + "r1 = r9 | r2 = 65 | r3 = 0 | r4 = r10 | r4 += -24 | call 197 | r0 = 0 | exit"
        + OUT,
        "has 64 bytes",
    ),
    A(
        "dynptr",
        "over a ring's record, not released",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r0 = 0 | exit",
        "is not released",
    ),
    A(
        "dynptr",
        "over a ring's record, a slice after submit",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | r6 = r0 | r1 = r10 | r1 += -16 | r2 = 0 | call 199 | if r6 == 0 goto out | r0 = *(u64 *)(r6 + 0) | exit"
        + OUT,
        "never written",
    ),
    A(
        "dynptr",
        "over a ring's record, submitted twice",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r1 = r10 | r1 += -16 | r2 = 0 | call 199 | r1 = r10 | r1 += -16 | r2 = 0 | call 199 | r0 = 0 | exit",
        "no dynptr",
    ),
    A(
        "dynptr",
        "over a ring's record, overwritten",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | *(u64 *)(r10 - 16) = 0 | r0 = 0 | exit",
        "is overwritten",
    ),
    A(
        "dynptr",
        "over memory, submitted",
        VALUE + DYNPTR + "r1 = r10 | r1 += -16 | r2 = 0 | call 199" + OUT,
        "takes a dynptr over a ring",
    ),
    A(
        "dynptr",
        "overwritten by a helper",
        VALUE
        + DYNPTR
        + "r1 = map[queue] ll | r2 = r10 | r2 += -16 | call 88 | r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | r0 = 0 | exit"
        + OUT,
        "no dynptr",
    ),
    # --- loops
    A(
        "loops",
        "an endless loop over bpf_loop",
        "r6 = 1 | *(u64 *)(r10 - 8) = 0 | a: "
        + LOOP
        + " | goto a | b: r0 = 0 | exit | fn: r0 = 0 | exit",
        "no path",
    ),
    A(
        "loops",
        "an endless loop closed by a callback's round",
        "call 7 | r6 = r0 | *(u64 *)(r10 - 8) = 0 | a: "
        + LOOP
        + " | r1 = *(u64 *)(r10 - 8) | if r1 == 0 goto b | *(u64 *)(r10 - 8) = 0 | goto a | b: r0 = 0 | exit | fn: *(u64 *)(r2 + 0) = 1 | r0 = 0 | exit",
    ),
    A(
        "loops",
        "an endless loop once the budget of may_goto is spent",
        "call 7 | r6 = r0 | m: may_goto c | c: if r6 == 0 goto b | goto m | b: r0 = 0 | exit",
        None,
        PATH_BUDGET,
    ),
    A(
        "loops",
        "the same, with a state kept in between",
        "call 7 | r6 = r0 | m: may_goto c | c: r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | r1 = 0 | if r6 == 7 goto d | d: if r6 == 0 goto b | goto m | b: r0 = 0 | exit",
        None,
        PATH_BUDGET,
    ),
    A(
        "loops",
        "a callback's rounds around may_goto",
        "call 7 | r6 = r0 | *(u64 *)(r10 - 8) = 0 | m: may_goto c | goto m | c: "
        + LOOP
        + " | r1 = *(u64 *)(r10 - 8) | if r1 == 0 goto b | *(u64 *)(r10 - 8) = 0 | goto m | b: r0 = 0 | exit | fn: *(u64 *)(r2 + 0) = 1 | r0 = 0 | exit",
    ),
    A(
        "loops",
        "may_goto with an index that grows",
        VALUE + "r6 = 0 | m: may_goto b | r6 += 1 | goto m | b: " + TOUCH,
        "without a bound",
    ),
    A(
        "loops",
        "may_goto with an index that is masked",
        VALUE + "r6 = 0 | m: may_goto b | r6 += 1 | r6 &= 63 | goto m | b: " + TOUCH,
    ),
    A(
        "loops",
        "may_goto, bounded by a compare",
        VALUE + "r6 = 0 | m: may_goto b | if r6 >= 63 goto b | r6 += 1 | goto m | b: " + TOUCH,
    ),
    A(
        "loops",
        "may_goto with an address that grows",
        VALUE + "m: may_goto b | r9 += 1 | goto m | b: r0 = *(u8 *)(r9 + 0) | exit" + OUT,
        "",
    ),
    A(
        "loops",
        "bpf_loop moves an index in the caller",
        VALUE
        + "*(u64 *)(r10 - 16) = 0 | r1 = 100 | r2 = subprog[fn] | r3 = r10 | r3 += -16 | r4 = 0 | call 181 | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH
        + " | fn: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
        "",
    ),
    A(
        "loops",
        "bpf_loop toggles an index",
        VALUE
        + "*(u64 *)(r10 - 16) = 0 | r1 = 100 | r2 = subprog[fn] | r3 = r10 | r3 += -16 | r4 = 0 | call 181 | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH
        + " | fn: r3 = *(u64 *)(r2 + 0) | r3 ^= 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
    ),
    A(
        "loops",
        "bpf_loop writes the index in the second round only",
        VALUE
        + "*(u64 *)(r10 - 16) = 0 | *(u64 *)(r10 - 24) = 0 | r1 = 100 | r2 = subprog[fn] | r3 = r10 | r3 += -24 | r4 = 0 | call 181 | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH
        + " | fn: r3 = *(u64 *)(r2 + 0) | r4 = 1 | *(u64 *)(r2 + 0) = r4 | if r3 == 0 goto c | r4 = 1000 | *(u64 *)(r2 + 8) = r4 | c: r0 = 0 | exit",
        "",
    ),
    A(
        "loops",
        "bpf_loop in bpf_loop",
        "r6 = 3 | *(u64 *)(r10 - 8) = 0 | "
        + LOOP
        + " | r0 = *(u64 *)(r10 - 8) | exit | fn: r6 = r2 | r1 = 3 | r2 = subprog[g] | r3 = r6 | r4 = 0 | call 181 | r0 = 0 | exit | g: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
    ),
    A(
        "loops",
        "the caller's pointer replaced by a callback",
        VALUE
        + "*(u64 *)(r10 - 16) = r9 | r1 = 3 | r2 = subprog[fn] | r3 = r10 | r3 += -16 | r4 = 0 | call 181 | r1 = *(u64 *)(r10 - 16) | r0 = *(u8 *)(r1 + 0) | exit"
        + OUT
        + " | fn: r3 = 7 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
        "number, not an address",
    ),
    A(
        "loops",
        "the caller's pointer moved by a callback",
        VALUE
        + "*(u64 *)(r10 - 16) = r9 | r1 = 3 | r2 = subprog[fn] | r3 = r10 | r3 += -16 | r4 = 0 | call 181 | r1 = *(u64 *)(r10 - 16) | r0 = *(u8 *)(r1 + 0) | exit"
        + OUT
        + " | fn: r3 = *(u64 *)(r2 + 0) | r3 += 30 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
        "",
    ),
    A(
        "loops",
        "a counter that never reaches its end",
        "r6 = 0 | a: r6 += 2 | if r6 != 7 goto a | r0 = 0 | exit",
        None,
        PATH_BUDGET,
    ),
    A(
        "loops",
        "a counter that wraps",
        "r6 = 1 | a: r6 *= 3 | if r6 != 0 goto a | r0 = 0 | exit",
        None,
        PATH_BUDGET,
    ),
    A(
        "loops",
        "identical states through a function",
        "a: call local fn | if r0 == 0 goto a | r0 = 1 | exit | fn: r0 = 0 | exit",
        "",
    ),
    A(
        "loops",
        "ended by memory alone",
        VALUE + "a: r1 = *(u64 *)(r9 + 0) | if r1 == 0 goto a" + OUT,
        "never ends",
    ),
    A("loops", "ended by a random number", "a: call 7 | if r0 != 0 goto a | exit", "never ends"),
    A(
        "loops",
        "mutual recursion by callbacks",
        "r6 = 1 | "
        + LOOP
        + " | r0 = 0 | exit | fn: r1 = 1 | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 181 | r0 = 0 | exit",
        "calls itself",
    ),
    A(
        "loops",
        "nine frames",
        "call local b | exit | b: call local c | exit | c: call local d | exit | d: call local e | exit | e: call local f | exit | f: call local g | exit | g: call local h | exit | h: call local i | exit | i: r0 = 0 | exit",
        "functions deep",
    ),
    A(
        "loops",
        "stack of callbacks counts",
        "*(u64 *)(r10 - 264) = 0 | r6 = 1 | "
        + LOOP
        + " | r0 = 0 | exit | fn: *(u64 *)(r10 - 264) = 0 | r0 = 0 | exit",
        "bytes of stack together",
    ),
    # --- pruning
    A(
        "pruning",
        "an imprecise number decides later",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: r7 = r6 | call 7 | r6 = r7 | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a spill",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: *(u64 *)(r10 - 16) = r6 | r6 = 0 | call 7 | if r0 == 3 goto b | b: r6 = *(u64 *)(r10 - 16) | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a 32-bit spill",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: *(u32 *)(r10 - 16) = r6 | r6 = 0 | call 7 | if r0 == 3 goto b | b: r6 = *(u32 *)(r10 - 16) | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a byte of a spill",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: *(u64 *)(r10 - 16) = r6 | r6 = 0 | call 7 | if r0 == 3 goto b | b: r6 = *(u8 *)(r10 - 16) | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a function's argument and result",
        VALUE
        + "call 7 | r1 = 8 | if r0 == 0 goto a | r1 = 200 | a: call local fn | r6 = r0 | "
        + TOUCH
        + " | fn: if r1 == 1 goto c | c: r0 = r1 | r0 += 1 | exit",
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a caller's slot written by a function",
        VALUE
        + "call 7 | r2 = 8 | if r0 == 0 goto a | r2 = 200 | a: r1 = r10 | r1 += -16 | call local fn | r6 = *(u64 *)(r10 - 16) | "
        + TOUCH
        + " | fn: if r2 == 1 goto c | c: *(u64 *)(r1 + 0) = r2 | r0 = 0 | exit",
        "has 64 bytes",
    ),
    A(
        "pruning",
        "through a copy that was compared",
        VALUE
        + "call 5 | r6 = r0 | r7 = r0 | call 7 | if r0 == 0 goto a | if r7 > 15 goto out | goto b | a: if r7 > 200 goto out | b: call 7 | if r0 == 5 goto c | c: "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "a null check of another path",
        "*(u32 *)(r10 - 4) = 1 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | r9 = r0 | call 7 | if r0 == 0 goto a | if r9 == 0 goto out | a: call 7 | if r0 == 5 goto c | c: r0 = *(u8 *)(r9 + 0) | exit"
        + OUT,
        "may be null",
    ),
    A(
        "pruning",
        "a packet check of another path",
        PACKET
        + "call 7 | if r0 == 0 goto a | r2 = r7 | r2 += 8 | if r2 > r8 goto out | a: r6 = 0 | r0 = *(u8 *)(r7 + 0) | exit"
        + OUT,
        "not known to be there",
        "",
        "xdp",
    ),
    A(
        "pruning",
        "equal on one path only",
        VALUE
        + ANY
        + "call 7 | r7 = r6 | if r0 == 0 goto a | call 5 | r7 = r0 | a: if r7 > 15 goto out | call 7 | if r0 == 9 goto c | c: "
        + TOUCH,
        "without a bound",
    ),
    A(
        "pruning",
        "a stack slot written on one path",
        "call 7 | if r0 == 0 goto a | *(u64 *)(r10 - 8) = 1 | a: call 7 | if r0 == 5 goto c | c: r0 = *(u64 *)(r10 - 8) | exit",
        "never written",
        STRICT_STACK,
    ),
    A(
        "pruning",
        "zero on one path",
        VALUE
        + "call 7 | r6 = r0 | *(u64 *)(r10 - 16) = 0 | if r0 == 0 goto a | *(u64 *)(r10 - 16) = r6 | a: call 7 | if r0 == 5 goto c | c: r6 = *(u64 *)(r10 - 16) | "
        + TOUCH,
        "without a bound",
    ),
    A(
        "pruning",
        "a bound from an add of an imprecise number",
        VALUE
        + "call 7 | r7 = 1 | if r0 == 0 goto a | r7 = 100 | a: call 7 | r6 = r0 | r6 &= 15 | r6 += r7 | call 7 | if r0 == 5 goto c | c: "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "a size from an imprecise number",
        "*(u64 *)(r10 - 8) = 0 | call 7 | r7 = 8 | if r0 == 0 goto a | r7 = 64 | a: call 7 | if r0 == 5 goto c | c: r1 = map[ring] ll | r2 = r10 | r2 += -8 | r3 = r7 | r4 = 0 | call 130 | r0 = 0 | exit",
        "outside the stack",
    ),
    A(
        "pruning",
        "an allocation's size from an imprecise number",
        "call 7 | r7 = 16 | if r0 == 0 goto a | r7 = 8 | a: call 7 | if r0 == 5 goto c | c: r1 = map[ring] ll | r2 = r7 | r3 = 0 | call 131 | if r0 == 0 goto out | *(u64 *)(r0 + 8) = 1 | r1 = r0 | r2 = 0 | call 132"
        + OUT,
        "has 8 bytes",
    ),
    A(
        "pruning",
        "a held record of another path",
        "call 7 | r9 = 0 | if r0 == 0 goto a | r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | a: call 7 | if r0 == 5 goto c | c: r0 = 0 | exit",
        "is not released",
    ),
    A(
        "pruning",
        "a linked number learns on a decided jump",
        VALUE
        + ANY
        + "r7 = r6 | if r6 > 100 goto out | call 7 | if r0 == 0 goto a | if r7 > 15 goto out | a: call 7 | if r0 == 5 goto c | c: "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "a decided jump on an imprecise number",
        VALUE
        + "call 7 | r7 = 0 | r6 = 5 | if r0 == 0 goto a | r7 = 1 | r6 = 100 | a: call 7 | if r0 == 5 goto c | c: if r7 == 1 goto out | "
        + TOUCH,
    ),
    A(
        "pruning",
        "a decided jump on a number with two values",
        VALUE
        + "call 7 | r7 = 0 | r6 = 5 | if r0 == 0 goto a | r7 = r0 | r7 &= 1 | r6 = 100 | a: call 7 | if r0 == 5 goto c | c: if r7 == 1 goto out | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "masked after paths that differ",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: call 7 | if r0 == 5 goto c | c: r6 &= 255 | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "masked enough after paths that differ",
        VALUE
        + "call 7 | r6 = 8 | if r0 == 0 goto a | r6 = 200 | a: call 7 | if r0 == 5 goto c | c: r6 &= 63 | "
        + TOUCH,
    ),
    A(
        "pruning",
        "any number masked, then a known one",
        VALUE
        + ANY
        + "call 7 | if r0 == 0 goto a | r6 = 0x1000ff ll | a: call 7 | if r0 == 5 goto c | c: r6 &= 63 | "
        + TOUCH,
    ),
    A(
        "pruning",
        "signed modulo after paths of either sign",
        VALUE
        + ANY
        + "r6 &= 1023 | call 7 | if r0 == 0 goto a | r6 = -5 | a: call 7 | if r0 == 5 goto c | c: r6 s%= 64 | "
        + TOUCH,
        "has 64 bytes",
    ),
    A(
        "pruning",
        "a right shift after paths that differ",
        VALUE
        + ANY
        + "r6 >>= 1 | call 7 | if r0 == 0 goto a | r6 = -1 | a: call 7 | if r0 == 5 goto c | c: r6 >>= 58 | "
        + TOUCH,
    ),
    A(
        "pruning",
        "a right shift after a small number",
        VALUE
        + "r6 = 5 | call 7 | if r0 == 0 goto a | r6 = -1 | a: call 7 | if r0 == 5 goto c | c: r6 >>= 57 | "
        + TOUCH,
        "has 64 bytes",
    ),
    # --- code
    A(
        "code",
        "a jump into the middle of LD_IMM64",
        "r0 = 0 | if r0 == 0 goto +1 | r1 = 0x1122334455667788 ll | exit",
        "second half",
    ),
    A("code", "callx", "r1 = 7 | callx r1 | r0 = 0 | exit", "through a register"),
    A(
        "code",
        "a jump out of a function",
        "call local fn | exit | fn: r0 = 0 | if r0 == 0 goto -4 | exit",
        "out of the function",
    ),
    A(
        "code",
        "a function that falls into the next",
        "call local f | call local g | exit | f: r0 = 0 | g: r0 = 1 | exit",
        "out of the function",
    ),
    A(
        "code",
        "an address of a function as a number",
        "r1 = subprog[fn] | r0 = r1 | exit | fn: r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    A(
        "code",
        "a function called as callback and directly",
        "r6 = 2 | " + LOOP + " | r1 = 5 | r2 = 0 | call local fn | exit | fn: r0 = 0 | exit",
    ),
)
