"""Small programs with the verdict that each must get, in the families of the kernel's own verifier selftests.

`|` separates instructions. `reason` is a part of our reason for refusing, None where the program is accepted.
`kernel` says why the kernel (privileged, 6.x) decides otherwise; empty where it decides the same.
"""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

from workbench.objects.linked import Function, LinkedMap, LinkedObject, LinkedProgram
from workbench.runtime.isa import Instruction, assemble, decode_slots

MAPS = (
    LinkedMap("values", 2, 4, 64, 4),
    LinkedMap("table", 1, 8, 16, 8),
    LinkedMap("ring", 27, 0, 0, 4096),
    LinkedMap("known", 2, 4, 16, 1, initial=bytes(range(1, 17)), read_only=True),
    LinkedMap("queue", 22, 0, 8, 8),
    LinkedMap("jumps", 3, 4, 4, 4),
)
NAMES = tuple(one.name for one in MAPS)
PERFMON = "the kernel lets privileged programs handle addresses as numbers; ours are shared between processes"
STRICT_STACK = "the kernel lets privileged programs read stack bytes that were never written"
KNOWN_KEY = "the kernel (since 6.14) knows that an array has the element of a constant index; ours wants the check"
SIGNED_OFFSET = (
    "the kernel takes an offset with a negative part as unbounded; ours keeps its signed range"
)
PATH_BUDGET = "the kernel gives up after a million instructions; ours joins the loop and counts rounds at run time"


def _names_function(one: Instruction, slot: int) -> bool:
    return not one.is_jump and one.target(slot) >= 0


@dataclass(frozen=True)
class Case:
    """One program."""

    family: str
    name: str
    text: str
    reason: str | None = None
    kernel: str = ""
    type: str = "socket_filter"

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"

    def program(self) -> LinkedProgram:
        lines = self.text.replace(" | ", "\n").splitlines()
        code = assemble("\n".join(lines), maps=NAMES, check=False)
        functions = [Function("main", 0, len(code) // 8)]
        if (
            "fn:" in self.text
        ):  # the one subprogram or callback of a case has the label fn, at the end
            slots = enumerate(decode_slots(code))
            start = next(
                one.target(slot)
                for slot, one in slots
                if one is not None and _names_function(one, slot)
            )
            functions = [Function("main", 0, start), Function("fn", start, len(code) // 8 - start)]
        return LinkedProgram("main", self.type, self.type, code, tuple(functions))

    def object(self) -> LinkedObject:
        program = self.program()
        return LinkedObject("cases", "GPL", {program.name: program}, MAPS, {})


_LOOKUP = "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | if r0 == 0 goto out | "
_OUT = " | out: r0 = 0 | exit"
_PACKET = "r2 = *(u32 *)(r1 + 0) | r3 = *(u32 *)(r1 + 4) | "
_RESERVE = "r1 = map[ring] ll | r2 = 16 | r3 = 0 | call 131 | "


def C(
    family: str,
    name: str,
    text: str,
    reason: str | None = None,
    kernel: str = "",
    type: str = "socket_filter",
) -> Case:
    return Case(family, name, text, reason, kernel, type)


CASES = (
    # --- basics
    C("basic", "returns a constant", "r0 = 1 | exit"),
    C("basic", "no result", "exit", "returns without a value"),
    C("basic", "falls off the end", "r0 = 0", "falls out of the function"),
    C("basic", "unreachable code", "r0 = 0 | exit | r0 = 1 | exit", "no path reaches"),
    C("basic", "jump out", "r0 = 0 | if r0 == 0 goto +5 | exit", "outside the code"),
    C("basic", "register never written", "r0 = r7 | exit", "r7 was never written"),
    C(
        "basic",
        "register of one branch only",
        "call 7 | if r0 == 0 goto a | r6 = 1 | a: r0 = r6 | exit",
        "r6 was never written",
    ),
    C(
        "basic",
        "caller-saved after a call",
        "r2 = 5 | call 7 | r0 = r2 | exit",
        "r2 was never written",
    ),
    C("basic", "frame pointer written", "r10 = 0 | r0 = 0 | exit", "read-only"),
    C("basic", "frame pointer loaded", "r10 = *(u64 *)(r10 - 8) | r0 = 0 | exit", "read-only"),
    C("basic", "an endless loop", "r0 = 0 | a: goto a", "never ends"),
    C(
        "basic",
        "an endless loop with an exit",
        "r0 = 0 | r6 = 0 | a: if r6 != 0 goto b | goto a | b: exit",
        "never ends",
    ),
    # --- arithmetic
    C("arithmetic", "division by the constant 0", "r0 = 1 | r0 /= 0 | exit", "constant 0"),
    C("arithmetic", "division by a register", "call 7 | r1 = r0 | r0 = 9 | r0 /= r1 | exit"),
    C("arithmetic", "shift by 64", "r0 = 1 | r0 <<= 64 | exit", "shift by the constant"),
    C("arithmetic", "32-bit shift by 32", "w0 = 1 | w0 <<= 32 | exit", "shift by the constant"),
    C("arithmetic", "shift by a register", "call 7 | r1 = r0 | r0 = 9 | r0 <<= r1 | exit"),
    # --- bounds of map values
    C("bounds", "first byte", _LOOKUP + "r0 = *(u8 *)(r0 + 0) | exit" + _OUT),
    C("bounds", "last bytes", _LOOKUP + "r0 = *(u64 *)(r0 + 56) | exit" + _OUT),
    C("bounds", "one byte behind", _LOOKUP + "r0 = *(u8 *)(r0 + 64) | exit" + _OUT, "has 64 bytes"),
    C("bounds", "half behind", _LOOKUP + "r0 = *(u64 *)(r0 + 57) | exit" + _OUT, "has 64 bytes"),
    C("bounds", "before", _LOOKUP + "r0 = *(u8 *)(r0 - 1) | exit" + _OUT, "has 64 bytes"),
    C(
        "bounds",
        "without a null check",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | "
        "r0 = *(u8 *)(r0 + 0) | exit",
        "may be null",
        KNOWN_KEY,
    ),
    C(
        "bounds",
        "null checked the wrong way",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | "
        "call 1 | if r0 != 0 goto out | r0 = *(u8 *)(r0 + 0) | exit | out: r0 = 0 | exit",
        "number, not an address",
        KNOWN_KEY,
    ),
    C(
        "bounds",
        "a masked index",
        _LOOKUP + "r6 = r0 | call 7 | r0 &= 63 | r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "a mask too wide",
        _LOOKUP + "r6 = r0 | call 7 | r0 &= 127 | r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "has 64 bytes",
    ),
    C(
        "bounds",
        "an unbounded index",
        _LOOKUP + "r6 = r0 | call 5 | r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "without a bound",
    ),
    C(
        "bounds",
        "compared unsigned",
        _LOOKUP + "r6 = r0 | call 5 | if r0 > 63 goto out | r6 += r0 | "
        "r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "compared signed, one end",
        _LOOKUP + "r6 = r0 | call 5 | if r0 s> 63 goto out | r6 += r0 | "
        "r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "without a bound",
    ),
    C(
        "bounds",
        "compared signed, both ends",
        _LOOKUP + "r6 = r0 | call 5 | if r0 s> 63 goto out | if r0 s< 0 goto out | "
        "r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "32-bit compare, 64-bit use",
        _LOOKUP + "r6 = r0 | call 5 | if w0 > 63 goto out | r6 += r0 | "
        "r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "without a bound",
    ),
    C(
        "bounds",
        "32-bit compare of a 32-bit number",
        _LOOKUP + "r6 = r0 | call 5 | w0 = w0 | if w0 > 63 goto out | "
        "r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "bounds through a copy",
        _LOOKUP + "r6 = r0 | call 5 | r1 = r0 | if r1 > 63 goto out | r6 += r0 | "
        "r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "bounds of another number",
        _LOOKUP + "r6 = r0 | call 5 | r7 = r0 | call 5 | if r7 > 63 goto out | "
        "r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "without a bound",
    ),
    C(
        "bounds",
        "minus a number",
        _LOOKUP
        + "r6 = r0 | call 7 | r0 &= 7 | r6 += 8 | r6 -= r0 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT,
        None,
        SIGNED_OFFSET,
    ),
    C(
        "bounds",
        "minus too much",
        _LOOKUP
        + "r6 = r0 | call 7 | r0 &= 15 | r6 += 8 | r6 -= r0 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT,
        "has 64 bytes",
    ),
    C(
        "bounds",
        "signed shift",
        _LOOKUP + "r6 = r0 | call 7 | r0 <<= 32 | r0 s>>= 32 | if r0 s< 0 goto out | r0 &= 31 | "
        "r6 += r0 | r0 = *(u16 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "bounds",
        "modulo",
        _LOOKUP + "r6 = r0 | call 7 | r0 %= 64 | r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        None,
        "this kernel does not bound modulo by a constant; newer ones do",
    ),
    C(
        "bounds",
        "a multiple",
        _LOOKUP
        + "r6 = r0 | call 7 | r0 &= 7 | r0 *= 8 | r6 += r0 | r0 = *(u64 *)(r6 + 0) | exit"
        + _OUT,
    ),
    C(
        "bounds",
        "a multiple too large",
        _LOOKUP
        + "r6 = r0 | call 7 | r0 &= 7 | r0 *= 9 | r6 += r0 | r0 = *(u64 *)(r6 + 0) | exit"
        + _OUT,
        "has 64 bytes",
    ),
    C(
        "bounds",
        "known content of read-only data",
        _LOOKUP + "r6 = r0 | r1 = map[known][0]+0 ll | r2 = *(u8 *)(r1 + 15) | "
        "r6 += r2 | r0 = *(u32 *)(r6 + 40) | exit" + _OUT,
    ),
    # --- pointers
    C("pointers", "an address multiplied", "r1 *= 2 | r0 = 0 | exit", "ADD and SUB"),
    C("pointers", "an address masked", "r2 = r10 | r2 &= -8 | r0 = 0 | exit", "ADD and SUB"),
    C("pointers", "two addresses added", "r2 = r10 | r2 += r10 | r0 = 0 | exit", "two addresses"),
    C("pointers", "32-bit arithmetic", "r2 = r10 | w2 += 4 | r0 = 0 | exit", "32-bit arithmetic"),
    C("pointers", "half an address copied", "w0 = w10 | exit", "part of an address", PERFMON),
    C("pointers", "an address returned", "r0 = r1 | exit", "an address leaks", PERFMON),
    C(
        "pointers",
        "an address in a map",
        _LOOKUP + "*(u64 *)(r0 + 0) = r10" + _OUT,
        "an address leaks",
        PERFMON,
    ),
    C(
        "pointers",
        "an address in the context",
        "*(u32 *)(r1 + 48) = r1 | r0 = 0 | exit",
        "stored in the context",
        PERFMON,
    ),
    C(
        "pointers",
        "compared with a number",
        "if r10 == 5 goto a | a: r0 = 0 | exit",
        "an address leaks",
        PERFMON,
    ),
    C(
        "pointers",
        "a map handle looked into",
        "r1 = map[table] ll | r0 = *(u64 *)(r1 + 0) | exit",
        "may not look into it",
        "the kernel lets privileged programs read struct bpf_map by BTF",
    ),
    C(
        "pointers",
        "a map handle moved",
        "r1 = map[table] ll | r1 += 8 | r0 = 0 | exit",
        "arithmetic on",
    ),
    C(
        "pointers",
        "moved far away",
        "r1 = map[known][0]+0 ll | r2 = 0x7fffffff | r1 += r2 | r0 = 0 | exit",
        "moved by",
    ),
    C(
        "pointers",
        "arithmetic before the null check",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[values] ll | "
        "call 1 | r0 += 8 | r0 = 0 | exit",
        "may be null",
        KNOWN_KEY,
    ),
    C(
        "pointers",
        "a number as an address",
        "r1 = 4096 | r0 = *(u64 *)(r1 + 0) | exit",
        "number, not an address",
    ),
    C(
        "pointers",
        "subtraction from the stack",
        "r2 = r10 | r2 -= 8 | r0 = 0 | exit",
        "subtraction from a stack",
    ),
    # --- stack
    C("stack", "write and read", "*(u64 *)(r10 - 8) = 5 | r0 = *(u64 *)(r10 - 8) | exit"),
    C("stack", "never written", "r0 = *(u64 *)(r10 - 8) | exit", "never written", STRICT_STACK),
    C(
        "stack",
        "half written",
        "*(u32 *)(r10 - 8) = 5 | r0 = *(u64 *)(r10 - 8) | exit",
        "never written",
        STRICT_STACK,
    ),
    C(
        "stack",
        "both halves written",
        "*(u32 *)(r10 - 8) = 5 | *(u32 *)(r10 - 4) = 5 | r0 = *(u64 *)(r10 - 8) | exit",
    ),
    C("stack", "beyond 512 bytes", "*(u64 *)(r10 - 520) = 5 | r0 = 0 | exit", "outside the stack"),
    C("stack", "at the top", "*(u64 *)(r10 + 0) = 5 | r0 = 0 | exit", "outside the stack"),
    C("stack", "not aligned", "*(u64 *)(r10 - 12) = 5 | r0 = 0 | exit", "not aligned"),
    C(
        "stack",
        "spill and fill of an address",
        "*(u64 *)(r10 - 8) = r1 | r2 = *(u64 *)(r10 - 8) | r0 = *(u32 *)(r2 + 0) | exit",
    ),
    C(
        "stack",
        "part of a spilled address read",
        "*(u64 *)(r10 - 8) = r1 | r0 = *(u32 *)(r10 - 8) | exit",
        "of the 8 bytes of an address",
    ),
    C(
        "stack",
        "spilled address overwritten in part",
        "*(u64 *)(r10 - 8) = r1 | *(u8 *)(r10 - 8) = 0 | r0 = *(u64 *)(r10 - 8) | exit",
        "never written",
        PERFMON,
    ),
    C(
        "stack",
        "the rest of a spilled address that was overwritten in part",
        "*(u64 *)(r10 - 8) = r1 | *(u32 *)(r10 - 8) = 0 | r0 = *(u32 *)(r10 - 4) | exit",
        "never written",
        PERFMON,
    ),
    C(
        "stack",
        "a number in the place of a spilled address",
        "*(u64 *)(r10 - 8) = r1 | *(u32 *)(r10 - 8) = 7 | r0 = *(u32 *)(r10 - 8) | exit",
        None,
    ),
    C(
        "stack",
        "bounds kept over a spill",
        _LOOKUP + "r6 = r0 | call 5 | if r0 > 63 goto out | *(u64 *)(r10 - 16) = r0 | "
        "call 7 | r1 = *(u64 *)(r10 - 16) | r6 += r1 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "stack",
        "bounds learned of the copy in memory",
        _LOOKUP + "r6 = r0 | call 5 | *(u64 *)(r10 - 16) = r0 | "
        "if r0 > 63 goto out | r1 = *(u64 *)(r10 - 16) | r6 += r1 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT,
    ),
    C(
        "stack",
        "a 32-bit spill",
        _LOOKUP
        + "r6 = r0 | call 7 | r0 &= 63 | *(u32 *)(r10 - 16) = r0 | r1 = *(u32 *)(r10 - 16) | "
        "r6 += r1 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
    ),
    C(
        "stack",
        "a variable offset, all written",
        "*(u64 *)(r10 - 8) = 1 | *(u64 *)(r10 - 16) = 2 | call 7 | r0 &= 8 | "
        "r2 = r10 | r2 += -16 | r2 += r0 | r0 = *(u64 *)(r2 + 0) | exit",
    ),
    C(
        "stack",
        "a variable offset, half written",
        "*(u64 *)(r10 - 8) = 1 | call 7 | r0 &= 8 | r2 = r10 | r2 += -16 | "
        "r2 += r0 | r0 = *(u64 *)(r2 + 0) | exit",
        "never written",
        STRICT_STACK,
    ),
    C(
        "stack",
        "a variable offset out of bounds",
        "*(u64 *)(r10 - 8) = 1 | call 7 | r0 &= 15 | r2 = r10 | r2 += -8 | "
        "r2 += r0 | r0 = *(u8 *)(r2 + 0) | exit",
        "outside the stack",
    ),
    # --- context
    C("context", "a field", "r0 = *(u32 *)(r1 + 0) | exit"),
    C("context", "past the end", "r0 = *(u32 *)(r1 + 192) | exit", "may not be read"),
    C("context", "a field of 8 bytes", "r0 = *(u64 *)(r1 + 0) | exit", "may not be read"),
    C("context", "not aligned", "r0 = *(u32 *)(r1 + 2) | exit", "not aligned"),
    C(
        "context",
        "a field that may not be written",
        "*(u32 *)(r1 + 0) = 1 | r0 = 0 | exit",
        "may not be written",
    ),
    C("context", "cb written", "*(u32 *)(r1 + 48) = 1 | r0 = 0 | exit"),
    C("context", "through a moved pointer", "r1 += 4 | r0 = *(u32 *)(r1 + 0) | exit", "moved by 4"),
    C(
        "context",
        "at a variable offset",
        "r6 = r1 | call 7 | r0 &= 4 | r6 += r0 | r0 = *(u32 *)(r6 + 0) | exit",
        "variable offset",
    ),
    C("context", "packet of a socket filter", "r0 = *(u32 *)(r1 + 76) | exit", "may not be read"),
    C(
        "context",
        "atomic",
        "r2 = 1 | lock *(u32 *)(r1 + 48) += r2 | r0 = 0 | exit",
        "atomic operations work on",
    ),
    # --- packet
    C(
        "packet",
        "checked",
        _PACKET + "r4 = r2 | r4 += 8 | if r4 > r3 goto out | r0 = *(u64 *)(r2 + 0) | exit" + _OUT,
        type="xdp",
    ),
    C(
        "packet",
        "not checked",
        _PACKET + "r0 = *(u8 *)(r2 + 0) | exit",
        "not known to be there",
        type="xdp",
    ),
    C(
        "packet",
        "one byte too many",
        _PACKET + "r4 = r2 | r4 += 8 | if r4 > r3 goto out | r0 = *(u8 *)(r2 + 8) | exit" + _OUT,
        "not known to be there",
        type="xdp",
    ),
    C(
        "packet",
        "checked on the other branch",
        _PACKET + "r4 = r2 | r4 += 8 | if r4 > r3 goto in | r0 = 0 | exit | "
        "in: r0 = *(u8 *)(r2 + 0) | exit",
        "not known to be there",
        type="xdp",
    ),
    C(
        "packet",
        "compared from the end",
        _PACKET + "r4 = r2 | r4 += 8 | if r3 < r4 goto out | r0 = *(u8 *)(r2 + 7) | exit" + _OUT,
        type="xdp",
    ),
    C(
        "packet",
        "compared with or equal",
        _PACKET + "r4 = r2 | r4 += 8 | if r4 >= r3 goto out | r0 = *(u8 *)(r2 + 8) | exit" + _OUT,
        type="xdp",
    ),
    C(
        "packet",
        "a variable offset",
        _PACKET + "r6 = r2 | r7 = r3 | call 7 | r0 &= 15 | r6 += r0 | r4 = r6 | r4 += 4 | "
        "if r4 > r7 goto out | r0 = *(u32 *)(r6 + 0) | exit" + _OUT,
        type="xdp",
    ),
    C(
        "packet",
        "a variable offset, not checked again",
        _PACKET + "r6 = r2 | r7 = r3 | r4 = r2 | r4 += 16 | if r4 > r3 goto out | "
        "call 7 | r0 &= 7 | r6 += r0 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "not known to be there",
        type="xdp",
    ),
    C(
        "packet",
        "the end looked into",
        _PACKET + "r0 = *(u8 *)(r3 + 0) | exit",
        "may not look into it",
        type="xdp",
    ),
    C("packet", "the end moved", _PACKET + "r3 += -8 | r0 = 0 | exit", "arithmetic on", type="xdp"),
    C(
        "packet",
        "written",
        _PACKET + "r4 = r2 | r4 += 8 | if r4 > r3 goto out | *(u64 *)(r2 + 0) = 1" + _OUT,
        type="xdp",
    ),
    C(
        "packet",
        "metadata",
        "r2 = *(u32 *)(r1 + 8) | r3 = *(u32 *)(r1 + 0) | r4 = r2 | r4 += 4 | if r4 > r3 goto out | "
        "r0 = *(u32 *)(r2 + 0) | exit" + _OUT,
        type="xdp",
    ),
    C("packet", "loads of classic programs", "r6 = r1 | r0 = *(u16 *)skb[12] | exit"),
    C(
        "packet",
        "loads of classic programs without the context",
        "r6 = 1 | r0 = *(u16 *)skb[12] | exit",
        "the context in r6",
    ),
    # --- helpers
    C("helpers", "unknown", "call 999 | r0 = 0 | exit", "is not known"),
    C("helpers", "of another program type", "r2 = 5 | call 58 | r0 = 0 | exit", "may not call"),
    C(
        "helpers",
        "a key never written",
        "r2 = r10 | r2 += -4 | r1 = map[values] ll | call 1 | r0 = 0 | exit",
        "never written",
        STRICT_STACK,
    ),
    C(
        "helpers",
        "a key too short",
        "*(u32 *)(r10 - 4) = 0 | r2 = r10 | r2 += -4 | r1 = map[table] ll | call 1 | r0 = 0 | exit",
        "outside the stack",
    ),
    C("helpers", "no map", "r1 = 0 | r2 = r10 | call 1 | r0 = 0 | exit", "takes a map"),
    C(
        "helpers",
        "a helper of another map type",
        "r1 = map[values] ll | r2 = 16 | r3 = 0 | call 131 | r0 = 0 | exit",
        "does not work on",
    ),
    C(
        "helpers",
        "update of a read-only map",
        "*(u32 *)(r10 - 4) = 0 | *(u64 *)(r10 - 16) = 0 | *(u64 *)(r10 - 24) = 0 | r2 = r10 | "
        "r2 += -4 | r3 = r10 | r3 += -24 | r4 = 0 | r1 = map[known] ll | call 2 | r0 = 0 | exit",
        "read-only for programs",
    ),
    C(
        "helpers",
        "a store to a read-only map",
        "r1 = map[known][0]+0 ll | *(u8 *)(r1 + 0) = 1 | r0 = 0 | exit",
        "read-only",
    ),
    C(
        "helpers",
        "push and pop",
        "*(u64 *)(r10 - 8) = 1 | r1 = map[queue] ll | r2 = r10 | r2 += -8 | r3 = 0 | call 87 | "
        "r1 = map[queue] ll | r2 = r10 | r2 += -16 | call 88 | r0 = *(u64 *)(r10 - 16) | exit",
    ),
    C(
        "helpers",
        "size of zero",
        "r1 = r10 | r1 += -8 | r2 = 0 | call 16 | r0 = 0 | exit",
        "size may be 0",
        type="raw_tracepoint",
    ),
    C(
        "helpers",
        "size beyond the buffer",
        "r1 = r10 | r1 += -8 | r2 = 16 | call 16 | r0 = 0 | exit",
        "outside the stack",
        type="raw_tracepoint",
    ),
    C(
        "helpers",
        "size that may be negative",
        "call 7 | r2 = r0 | r2 <<= 32 | r2 s>>= 32 | r1 = r10 | r1 += -8 | call 16 | r0 = 0 | exit",
        "may be negative",
        type="raw_tracepoint",
    ),
    C(
        "helpers",
        "bounded size",
        "call 7 | r2 = r0 | r2 &= 7 | r2 += 1 | *(u64 *)(r10 - 8) = 0 | r1 = r10 | r1 += -8 | call 16 | "
        "r0 = *(u64 *)(r10 - 8) | exit",
        type="raw_tracepoint",
    ),
    C(
        "helpers",
        "memory is null",
        "r1 = 0 | r2 = 8 | call 16 | r0 = 0 | exit",
        "takes memory",
        type="raw_tracepoint",
    ),
    C("helpers", "tail call", "r2 = map[jumps] ll | r3 = 1 | call 12 | r0 = 0 | exit"),
    C(
        "helpers",
        "result of a tail call",
        "r2 = map[jumps] ll | r3 = 1 | call 12 | exit",
        "without a value",
    ),
    # --- references
    C(
        "references",
        "reserve and submit",
        _RESERVE
        + "if r0 == 0 goto out | *(u64 *)(r0 + 8) = 1 | r1 = r0 | r2 = 0 | call 132"
        + _OUT,
    ),
    C(
        "references",
        "reserve and discard",
        _RESERVE + "if r0 == 0 goto out | r1 = r0 | r2 = 0 | call 133" + _OUT,
    ),
    C(
        "references",
        "leaked",
        _RESERVE + "if r0 == 0 goto out | *(u64 *)(r0 + 8) = 1" + _OUT,
        "is not released",
    ),
    C("references", "leaked without a null check", _RESERVE + "r0 = 0 | exit", "is not released"),
    C(
        "references",
        "released twice",
        _RESERVE
        + "if r0 == 0 goto out | r6 = r0 | r1 = r0 | r2 = 0 | call 132 | r1 = r6 | r2 = 0 | "
        "call 132" + _OUT,
        "never written",
    ),
    C(
        "references",
        "used after release",
        _RESERVE + "if r0 == 0 goto out | r6 = r0 | r1 = r0 | r2 = 0 | call 132 | "
        "r0 = *(u64 *)(r6 + 0)" + _OUT,
        "never written",
    ),
    C(
        "references",
        "released without a null check",
        _RESERVE + "r1 = r0 | r2 = 0 | call 132 | r0 = 0 | exit",
        "takes a reserved",
    ),
    C(
        "references",
        "a moved record is released",
        _RESERVE + "if r0 == 0 goto out | r1 = r0 | r1 += 8 | r2 = 0 | call 132" + _OUT,
        "takes a reserved",
    ),
    C(
        "references",
        "beyond the record",
        _RESERVE
        + "if r0 == 0 goto out | *(u64 *)(r0 + 16) = 1 | r1 = r0 | r2 = 0 | call 132"
        + _OUT,
        "has 16 bytes",
    ),
    C(
        "references",
        "a map value is submitted",
        _LOOKUP + "r1 = r0 | r2 = 0 | call 132" + _OUT,
        "takes a reserved",
    ),
    C(
        "references",
        "size is not constant",
        "call 7 | r2 = r0 | r1 = map[ring] ll | r3 = 0 | call 131 | r0 = 0 | exit",
        "constant size",
    ),
    C(
        "references",
        "released on one path only",
        _RESERVE + "if r0 == 0 goto out | r6 = r0 | call 7 | if r0 == 0 goto out | "
        "r1 = r6 | r2 = 0 | call 132" + _OUT,
        "is not released",
    ),
    C(
        "references",
        "tail call while held",
        "r6 = r1 | "
        + _RESERVE
        + "if r0 == 0 goto out | r7 = r0 | r1 = r6 | r2 = map[jumps] ll | r3 = 0 | "
        "call 12 | r1 = r7 | r2 = 0 | call 132" + _OUT,
        "while something is held",
    ),
    # --- atomics
    C(
        "atomics",
        "on the stack",
        "*(u64 *)(r10 - 8) = 1 | r1 = 2 | r1 = atomic_fetch_add((u64 *)(r10 - 8), r1) | r0 = r1 | exit",
    ),
    C("atomics", "on a map value", _LOOKUP + "r1 = 1 | lock *(u64 *)(r0 + 8) += r1" + _OUT),
    C(
        "atomics",
        "not aligned",
        _LOOKUP + "r1 = 1 | lock *(u64 *)(r0 + 4) += r1" + _OUT,
        "not aligned",
    ),
    C(
        "atomics",
        "out of bounds",
        _LOOKUP + "r1 = 1 | lock *(u64 *)(r0 + 64) += r1" + _OUT,
        "has 64 bytes",
    ),
    C(
        "atomics",
        "on stack never written",
        "r1 = 2 | lock *(u64 *)(r10 - 8) += r1 | r0 = 0 | exit",
        "never written",
        STRICT_STACK,
    ),
    C(
        "atomics",
        "compare with r0 never written",
        "*(u64 *)(r10 - 8) = 1 | r1 = 2 | r0 = cmpxchg_64(r10 - 8, r0, r1) | exit",
        "r0",
    ),
    C(
        "atomics",
        "on the packet",
        _PACKET
        + "r4 = r2 | r4 += 8 | if r4 > r3 goto out | r5 = 1 | lock *(u64 *)(r2 + 0) += r5"
        + _OUT,
        "atomic operations work on",
        type="xdp",
    ),
    # --- loops
    C("loops", "bounded", "r6 = 0 | a: r6 += 1 | if r6 < 100 goto a | r0 = r6 | exit"),
    C(
        "loops",
        "bounded by a masked number",
        "call 7 | r0 &= 15 | r6 = 0 | a: r6 += 1 | if r6 < r0 goto a | r0 = 0 | exit",
    ),
    C(
        "loops",
        "over an array",
        _LOOKUP
        + "r6 = r0 | r7 = 0 | r8 = 0 | a: r1 = r6 | r1 += r7 | r2 = *(u8 *)(r1 + 0) | r8 += r2 | "
        "r7 += 1 | if r7 < 64 goto a | r0 = r8 | exit" + _OUT,
    ),
    C(
        "loops",
        "one too far",
        _LOOKUP
        + "r6 = r0 | r7 = 0 | r8 = 0 | a: r1 = r6 | r1 += r7 | r2 = *(u8 *)(r1 + 0) | r8 += r2 | "
        "r7 += 1 | if r7 <= 64 goto a | r0 = r8 | exit" + _OUT,
        "has 64 bytes",
    ),
    C(
        "loops",
        "longer than the budget",
        "call 5 | r6 = r0 | r7 = 0 | a: r7 += 1 | if r7 != r6 goto a | r0 = 0 | exit",
        None,
        PATH_BUDGET,
    ),
    C(
        "loops",
        "longer than the budget, out of bounds",
        _LOOKUP + "r8 = r0 | call 5 | r6 = r0 | r7 = 0 | a: r8 += 1 | r7 += 1 | "
        "if r7 != r6 goto a | r0 = *(u8 *)(r8 + 0) | exit" + _OUT,
        "",
    ),
    C("loops", "may_goto", "r6 = 0 | a: may_goto b | r6 += 1 | goto a | b: r0 = 0 | exit"),
    # --- calls
    C("calls", "a function", "r1 = 5 | call local fn | exit | fn: r0 = r1 | r0 += 1 | exit"),
    C(
        "calls",
        "its argument was not given",
        "call local fn | exit | fn: r0 = r2 | exit",
        "r2 was never written",
    ),
    C(
        "calls",
        "callee-saved registers",
        "r6 = 5 | call local fn | r0 = r6 | exit | fn: r6 = 9 | r0 = 0 | exit",
    ),
    C(
        "calls",
        "callee's registers are its own",
        "r6 = 5 | call local fn | exit | fn: r0 = r6 | exit",
        "r6 was never written",
    ),
    C(
        "calls",
        "recursion",
        "call local fn | exit | fn: r0 = 0 | call local fn | exit",
        "calls itself",
    ),
    C(
        "calls",
        "caller's stack written",
        "r1 = r10 | r1 += -8 | call local fn | r0 = *(u64 *)(r10 - 8) | exit | "
        "fn: *(u64 *)(r1 + 0) = 7 | r0 = 0 | exit",
    ),
    C(
        "calls",
        "caller's stack, out of bounds",
        "r1 = r10 | r1 += -8 | call local fn | r0 = 0 | exit | "
        "fn: *(u64 *)(r1 + 8) = 7 | r0 = 0 | exit",
        "outside the stack",
    ),
    C(
        "calls",
        "address of a local returned",
        "call local fn | r0 = *(u64 *)(r0 - 8) | exit | fn: *(u64 *)(r10 - 8) = 1 | r0 = r10 | exit",
        "leaves the function",
    ),
    C(
        "calls",
        "address of a local stored in the caller",
        "r1 = r10 | r1 += -8 | call local fn | r0 = 0 | exit | "
        "fn: r2 = r10 | *(u64 *)(r1 + 0) = r2 | r0 = 0 | exit",
        "outlives",
    ),
    C(
        "calls",
        "too much stack together",
        "*(u64 *)(r10 - 300) = 1 | call local fn | exit | fn: *(u64 *)(r10 - 304) = 1 | r0 = 0 | exit",
        "not aligned",
    ),
    C(
        "calls",
        "too much stack in two functions",
        "*(u64 *)(r10 - 304) = 1 | call local fn | exit | fn: *(u64 *)(r10 - 304) = 1 | r0 = 0 | exit",
        "bytes of stack together",
    ),
    C(
        "calls",
        "bounds of an argument",
        _LOOKUP
        + "r1 = r0 | r2 = 64 | call local fn"
        + _OUT
        + " | fn: r1 += r2 | r0 = *(u8 *)(r1 + 0) | exit",
        "has 64 bytes",
    ),
    # --- callbacks
    C(
        "callbacks",
        "bpf_loop",
        "r1 = 10 | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 181 | r0 = 0 | exit | fn: r0 = 0 | exit",
    ),
    C(
        "callbacks",
        "a result out of range",
        "r1 = 10 | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 181 | r0 = 0 | exit | fn: r0 = 2 | exit",
        "may return 0 to 1",
    ),
    C(
        "callbacks",
        "a counter on the stack",
        "*(u64 *)(r10 - 8) = 0 | r1 = 10 | r2 = subprog[fn] | r3 = r10 | r3 += -8 | r4 = 0 | call 181 | "
        "r0 = *(u64 *)(r10 - 8) | exit | fn: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
    ),
    C(
        "callbacks",
        "an index that the callback moves",
        _LOOKUP + "r6 = r0 | *(u64 *)(r10 - 16) = 0 | r1 = 100 | r2 = subprog[fn] | "
        "r3 = r10 | r3 += -16 | r4 = 0 | call 181 | r1 = *(u64 *)(r10 - 16) | r6 += r1 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT
        + " | fn: r3 = *(u64 *)(r2 + 0) | r3 += 1 | *(u64 *)(r2 + 0) = r3 | r0 = 0 | exit",
        "",
    ),
    C(
        "callbacks",
        "over the elements of a map",
        "r1 = map[table] ll | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 164 | r0 = 0 | exit | "
        "fn: r1 = *(u64 *)(r2 + 0) | *(u64 *)(r3 + 8) = r1 | r0 = 0 | exit",
    ),
    C(
        "callbacks",
        "beyond an element",
        "r1 = map[table] ll | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 164 | r0 = 0 | exit | "
        "fn: r1 = *(u64 *)(r3 + 16) | r0 = 0 | exit",
        "has 16 bytes",
    ),
    C(
        "callbacks",
        "a key is written",
        "r1 = map[table] ll | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 164 | r0 = 0 | exit | "
        "fn: *(u64 *)(r2 + 0) = 1 | r0 = 0 | exit",
        "read-only",
    ),
    C(
        "callbacks",
        "a reference kept by the callback",
        "r1 = 10 | r2 = subprog[fn] | r3 = 0 | r4 = 0 | call 181 | r0 = 0 | exit | "
        "fn: r1 = map[ring] ll | r2 = 8 | r3 = 0 | call 131 | r0 = 0 | exit",
        "acquired",
    ),
    # --- dynptrs
    C(
        "dynptrs",
        "reserve and submit",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r1 = r10 | r1 += -16 | "
        "r2 = 0 | call 199 | r0 = 0 | exit",
    ),
    C(
        "dynptrs",
        "not released",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r0 = 0 | exit",
        "is not released",
    ),
    C(
        "dynptrs",
        "read by the program",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r0 = *(u64 *)(r10 - 16) | exit",
        "only helpers",
    ),
    C(
        "dynptrs",
        "overwritten",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | *(u64 *)(r10 - 16) = 0 | r0 = 0 | exit",
        "overwritten",
    ),
    C(
        "dynptrs",
        "a slice",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | "
        "call 203 | if r0 == 0 goto o | *(u64 *)(r0 + 0) = 1 | o: r1 = r10 | r1 += -16 | r2 = 0 | call 199 | r0 = 0 | exit",
    ),
    C(
        "dynptrs",
        "a slice after release",
        "r1 = map[ring] ll | r2 = 16 | r3 = 0 | r4 = r10 | r4 += -16 | call 198 | r1 = r10 | r1 += -16 | r2 = 0 | "
        "r3 = 8 | call 203 | r6 = r0 | r1 = r10 | r1 += -16 | r2 = 0 | call 199 | if r6 == 0 goto o | *(u64 *)(r6 + 0) = 1 | o: r0 = 0 | exit",
        "never written",
    ),
    C(
        "dynptrs",
        "never made",
        "*(u64 *)(r10 - 8) = 0 | *(u64 *)(r10 - 16) = 0 | r1 = r10 | r1 += -16 | r2 = 0 | r3 = 8 | call 203 | r0 = 0 | exit",
        "no dynptr",
    ),
    C(
        "dynptrs",
        "over the stack",
        "*(u64 *)(r10 - 24) = 0 | r1 = r10 | r1 += -24 | r2 = 8 | r3 = 0 | r4 = r10 | r4 += -16 | call 197 | r0 = 0 | exit",
        "takes a pointer into a map value",
    ),
    C(
        "dynptrs",
        "over a map value",
        _LOOKUP + "r1 = r0 | r2 = 8 | r3 = 0 | r4 = r10 | r4 += -24 | call 197" + _OUT,
    ),
    C(
        "callbacks",
        "a key kept by the caller",
        "*(u64 *)(r10 - 8) = 0 | r1 = map[table] ll | r2 = subprog[fn] | r3 = r10 | r3 += -8 | r4 = 0 | call 164 | r0 = 0 | exit | "
        "fn: *(u64 *)(r4 + 0) = r2 | r0 = 0 | exit",
        "ends with this function",
        "the kernel's keys stay valid until the program ends",
    ),
    C("loops", "may_goto back", "r6 = 0 | a: r6 += 1 | may_goto a | r0 = 0 | exit", "jumps back"),
    # --- states that may not be taken for one another
    C(
        "pruning",
        "a number that matters later",
        _LOOKUP
        + "r6 = r0 | call 7 | r7 = 8 | if r0 == 0 goto a | r7 = 80 | a: r1 = 1 | r1 += 1 | r1 += 1 | "
        "r1 += 1 | if r1 == 9 goto out | if r1 == 10 goto out | r1 += 1 | r1 += 1 | r6 += r7 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT,
        "has 64 bytes",
    ),
    C(
        "pruning",
        "a number that matters later, from the stack",
        _LOOKUP + "r6 = r0 | call 7 | *(u64 *)(r10 - 16) = 8 | if r0 == 0 goto a | "
        "*(u64 *)(r10 - 16) = 80 | a: r1 = 1 | r1 += 1 | r1 += 1 | r1 += 1 | if r1 == 9 goto out | if r1 == 10 goto out | r1 += 1 | r1 += 1 | "
        "r7 = *(u64 *)(r10 - 16) | r6 += r7 | r0 = *(u8 *)(r6 + 0) | exit" + _OUT,
        "has 64 bytes",
    ),
    C(
        "pruning",
        "stack written on one path only",
        "call 7 | r6 = r0 | if r6 == 0 goto a | *(u64 *)(r10 - 8) = 1 | a: r1 = 1 | r1 += 1 | r1 += 1 | "
        "r1 += 1 | if r1 == 9 goto out | if r1 == 10 goto out | r1 += 1 | r0 = *(u64 *)(r10 - 8) | exit"
        + _OUT,
        "never written",
        STRICT_STACK,
    ),
    C(
        "pruning",
        "reached through a copy",
        _LOOKUP
        + "r6 = r0 | call 5 | r7 = r0 | r8 = r7 | call 7 | if r0 == 0 goto a | r8 = 3 | a: r1 = 1 | r1 += 1 | "
        "r1 += 1 | r1 += 1 | if r1 == 9 goto out | if r1 == 10 goto out | if r8 > 63 goto out | r6 += r7 | r0 = *(u8 *)(r6 + 0) | exit"
        + _OUT,
        "without a bound",
    ),
)
