"""x86-64 instructions with what each does to the 8 bytes at `target`, and a program that runs them all.

Before every instruction rdi and rsi hold &target, r8 &other, rcx 2, rax and rdx 0; flags are clear.
"""

from __future__ import annotations

from pathlib import Path

# assembly, what it does to `target`, CPU flags it needs
CASES: list[tuple[str, str, str]] = [
    ("movq %rax, (%rdi)", "write", ""),
    ("movl $5, 4(%rdi)", "write", ""),
    ("movb %al, 7(%rdi)", "write", ""),
    ("movq $7, target(%rip)", "write", ""),
    ("movq (%rdi), %rax", "read", ""),
    ("movq (%rdi), %rdi", "read", ""),
    ("movzbl 3(%rdi), %eax", "read", ""),
    ("movslq (%rdi), %rdx", "read", ""),
    ("addl %eax, -4(%rdi,%rcx,4)", "read-write", ""),
    ("addq (%rdi), %rax", "read", ""),
    ("cmpq %rax, (%rdi)", "read", ""),
    ("cmpq (%rdi), %rax", "read", ""),
    ("testb $1, (%rdi)", "read", ""),
    ("incl (%rdi)", "read-write", ""),
    ("negq (%rdi)", "read-write", ""),
    ("notw (%rdi)", "read-write", ""),
    ("orq $1, (%rdi)", "read-write", ""),
    ("shlq $3, (%rdi)", "read-write", ""),
    ("rclq (%rdi)", "read-write", ""),
    ("shldq $3, %rax, (%rdi)", "read-write", ""),
    ("adcq %rax, (%rdi)", "read-write", ""),
    ("sbbq (%rdi), %rax", "read", ""),
    ("imulq (%rdi), %rax", "read", ""),
    ("imulq $3, (%rdi), %rax", "read", ""),
    ("mulq (%rdi)", "read", ""),
    ("lock xaddq %rax, (%rdi)", "read-write", ""),
    ("lock cmpxchgq %rcx, (%rdi)", "read-write", ""),
    ("lock incq (%rdi)", "read-write", ""),
    ("cmpxchg8b (%rdi)", "read-write", ""),
    ("cmpxchg16b (%rdi)", "read-write", "cx16"),
    ("xchgq %rax, (%rdi)", "read-write", ""),
    ("btq $1, (%rdi)", "read", ""),
    ("btsq $1, (%rdi)", "read-write", ""),
    ("sete (%rdi)", "write", ""),
    ("cmovzq (%rdi), %rax", "read", ""),
    ("bsfq (%rdi), %rax", "read", ""),
    ("popcntq (%rdi), %rax", "read", "popcnt"),
    ("movbeq %rax, (%rdi)", "write", "movbe"),
    ("movnti %rax, (%rdi)", "write", ""),
    ("pushq (%rdi); popq %rax", "read", ""),
    ("stosq", "write", ""),
    ("movsq", "read-write", ""),  # from target to target
    ("lodsq", "read", ""),
    ("scasb", "read", ""),
    ("cmpsb", "read", ""),
    ("movaps %xmm0, (%rdi)", "write", ""),
    ("movups (%rdi), %xmm0", "read", ""),
    ("movlps %xmm0, (%rdi)", "write", ""),
    ("movhps (%rdi), %xmm0", "read", ""),
    ("movss %xmm0, 4(%rdi)", "write", ""),
    ("movsd (%rdi), %xmm0", "read", ""),
    ("movsd %xmm0, (%rdi)", "write", ""),
    ("movntdq %xmm0, (%rdi)", "write", ""),
    ("addsd (%rdi), %xmm0", "read", ""),
    ("cvtsi2sdq (%rdi), %xmm0", "read", ""),
    ("pextrb $1, %xmm0, (%rdi)", "write", "sse4_1"),
    ("pextrq $1, %xmm0, (%rdi)", "write", "sse4_1"),
    ("fldl (%rdi); fstp %st(0)", "read", ""),
    ("fistpll (%rdi)", "write", ""),
    ("fstpl (%rdi)", "write", ""),
    ("fnstcw (%rdi)", "write", ""),
    ("stmxcsr (%rdi)", "write", ""),
    ("vmovdqu %ymm0, (%rdi)", "write", "avx"),
    ("vmovdqu (%rdi), %ymm0", "read", "avx"),
    ("vmovss %xmm0, (%rdi)", "write", "avx"),
    ("vextractf128 $1, %ymm0, (%rdi)", "write", "avx"),
    ("vpextrq $1, %xmm0, (%rdi)", "write", "avx"),
    ("andnq (%rdi), %rax, %rdx", "read", "bmi1"),
]
# Instructions after each of which `target` was not touched; what stands before it must not be taken for the access.
HARMLESS = ("leaq (%rdi), %rax", "nopw 0(%rax,%rax)", "prefetcht0 (%rdi)")

_PROGRAM = """
.text
.globl main
.type main, @function
main:
    pushq %rbx
    subq $16, %rsp
{body}
    addq $16, %rsp
    popq %rbx
    xorl %eax, %eax
    ret
.size main, .-main
.data
.balign 64
.globl target
.type target, @object
.size target, 8
target: .quad 0
.fill 7, 8, 0
other: .fill 8, 8, 0
.section .note.GNU-stack,"",@progbits
"""
_SETUP = """
    leaq target(%rip), %rdi
    movq %rdi, %rsi
    leaq other(%rip), %r8
    movl $2, %ecx
    xorl %edx, %edx
    pxor %xmm0, %xmm0
    fld1
    cld
    xorl %eax, %eax
.globl case_{number}
case_{number}:
    {text}
    fninit
"""


def runnable(flags: set[str]) -> list[tuple[str, str]]:
    """The cases that a processor with these flags can run."""
    return [(text, access) for text, access, need in CASES if not need or need in flags]


def processor_flags() -> set[str]:
    """CPU flags of this machine."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


def program(cases: list[tuple[str, str]]) -> str:
    """Assembly of a program that runs each case once, at label case_N."""
    body = [
        _SETUP.format(
            number=number, text=text.replace("; ", "\n    ") + "\n    " + HARMLESS[number % 3]
        )
        for number, (text, _) in enumerate(cases)
    ]
    return _PROGRAM.format(body="".join(body))
