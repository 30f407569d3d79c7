"""What the kernel does with the first instruction of a probed function: it decides the cost of a hit.

Rules of arch/x86/kernel/uprobes.c and arch/arm64/kernel/probes/decode-insn.c: a 5-byte nop becomes a call (Linux 6.18
on x86), some instructions are emulated after the breakpoint trap, all others run out of line under a single-step
trap, which is by far the dearest, above all in virtual machines.
"""

from __future__ import annotations

import platform

__all__ = ("CLASSES", "instruction_class")

CLASSES = ("nop5", "emulated", "single-step")
_NOP5 = bytes.fromhex("0f1f440000")
# uprobes.c is_prefix_bad(): segment overrides and lock.
_BAD_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0xF0: "lock"}
_PREFIXES = {*_BAD_PREFIXES, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3}
# What good_insns_64 of uprobes.c leaves out, as far as compilers emit it as a first instruction.
_REFUSED: dict[int, str] = {
    0xCC: "a breakpoint",
    0xF1: "icebp",
    0xF4: "hlt",
    0xFA: "cli",
    0xFB: "sti",
    0xCD: "int",
    0xCE: "into",
} | {
    code: "input or output"
    for code in (0x6C, 0x6D, 0x6E, 0x6F, *range(0xE4, 0xE8), *range(0xEC, 0xF0))
}


def instruction_class(code: bytes, machine: str = "") -> tuple[str, str]:
    """Class of the instruction at the start of `code`.

    Parameters
    ----------
    code : bytes
        The first 16 bytes of the function (fewer at the end of the file).
    machine : str
        Default: this machine.

    Returns
    -------
    class : str
        One of `CLASSES`.
    refused : str
        Why the kernel does not take a probe here, or empty.
    """
    machine = machine or platform.machine()
    if machine == "aarch64":
        return _arm(int.from_bytes(code[:4], "little")), ""
    if machine != "x86_64":
        return "single-step", ""
    if code[:5] == _NOP5:
        return "nop5", ""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        if code[at] in _BAD_PREFIXES:
            return (
                "single-step",
                f"the kernel refuses instructions with prefix {_BAD_PREFIXES[code[at]]}",
            )
        at += 1
    narrowed = 0x66 in code[:at]
    if at < len(code) and 0x40 <= code[at] <= 0x4F:
        at += 1
    if at >= len(code):
        return "single-step", "the file ends here"
    opcode = code[at]
    mistaken = _mistaken(code[at : at + 5])
    if mistaken:
        return "single-step", f"the kernel mistakes this vector instruction for {mistaken}"
    if opcode in _REFUSED:
        return "single-step", f"the kernel refuses this instruction ({_REFUSED[opcode]})"
    if 0x50 <= opcode <= 0x57 or opcode == 0x90:
        return "emulated", ""
    branch = opcode in (0xE8, 0xE9, 0xEB) or 0x70 <= opcode <= 0x7F
    branch |= opcode == 0x0F and at + 1 < len(code) and 0x80 <= code[at + 1] <= 0x8F
    return ("emulated" if branch and not narrowed else "single-step"), ""


def _mistaken(code: bytes) -> str:
    """What the kernel takes an instruction with a VEX, EVEX or XOP prefix for; empty where it does no harm.

    uprobes.c looks at the opcode byte alone. branch_setup_xol_ops() emulates what it stands for without the prefix:
    ``vpbroadcastb %esi, %ymm17`` (opcode 7a) becomes a conditional jump, never runs, and the program computes
    something else; strchrnul and memset of glibc begin with it. good_insns_64 refuses ``vmovd`` (6e) as ``outs``.
    """
    prefix = {0xC5: 2, 0xC4: 3, 0x62: 4, 0x8F: 3}.get(code[0], 0)
    if not prefix or len(code) <= prefix:
        return ""
    if code[0] == 0x8F and code[1] & 0x1F < 8:  # pop, not XOP
        return ""
    opcode = code[prefix]
    if opcode in (0x90, 0xE8, 0xE9, 0xEB) or 0x70 <= opcode <= 0x7F:
        return "a branch or a nop, and would not run it"
    return _REFUSED.get(opcode, "")


def _arm(word: int) -> str:
    """Instructions that decode-insn.c simulates: branches, adr/adrp, literal loads, nop."""
    simulated = (
        word & 0x7C000000 == 0x14000000  # b, bl
        or word & 0xFF000010 == 0x54000000  # b.cond
        or word & 0x7E000000 in (0x34000000, 0x36000000)  # cbz, cbnz, tbz, tbnz
        or word & 0xFF9FFC1F == 0xD61F0000  # br, blr, ret
        or word & 0x1F000000 == 0x10000000  # adr, adrp
        or word & 0xBF000000 == 0x18000000  # ldr (literal)
        or word == 0xD503201F  # nop
    )
    return "emulated" if simulated else "single-step"
