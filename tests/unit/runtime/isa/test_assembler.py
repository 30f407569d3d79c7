"""Text and code: what the disassembler prints is assembled to the same bytes; labels, names, both syntaxes."""

from __future__ import annotations

import pytest
from bpf_instructions import instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.runtime.isa import Instruction, assemble, decode, disassemble, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.statement import SyntaxProblem


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.lists(instructions(), min_size=1, max_size=8))
def test_disassembly_reassembles(made: list[Instruction]) -> None:
    code = encode(made)
    text = disassemble(code)
    assert len(text) == len(made)
    assert assemble("\n".join(text), check=False) == code


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_code_or_refused(text: str) -> None:
    try:
        decode(assemble(text))
    except WorkbenchError as refused:
        assert refused.hint


@pytest.mark.parametrize(
    ("mnemonic", "expression"),
    [
        ("mov %r1, %r2", "r1 = r2"),
        ("mov32 %r1, -1", "w1 = -0x1"),
        ("movsx3264 %r1, %r2", "r1 = (s32)r2"),
        ("movsx832 %r1, %r2", "w1 = (s8)w2"),
        ("sdiv32 %r3, 7", "w3 s/= 7"),
        ("smod %r3, %r4", "r3 s%= r4"),
        ("arsh %r1, 3", "r1 s>>= 3"),
        ("neg %r9", "r9 = -r9"),
        ("be32 %r2", "r2 = be32 r2"),
        ("swap64 %r2", "r2 = bswap64 r2"),
        ("lddw %r1, 0xffffffffffffffff", "r1 = -1 ll"),
        ("ldxw %r0, [%r1+4]", "r0 = *(u32 *)(r1 + 4)"),
        ("ldxw %r0, [%r1]", "w0 = *(u32 *)(r1 + 0x0)"),
        ("ldxsb %r0, [%r1-4]", "r0 = *(s8 *)(r1 - 0x4)"),
        ("stdw [%r10-8], 7", "*(u64 *)(r10 - 8) = 7"),
        ("stxh [%r1+2], %r3", "*(u16 *)(r1 + 2) = w3"),
        ("lock add [%r1+0], %r2", "lock *(u64 *)(r1 + 0) += r2"),
        ("lock or32 [%r1+0], %r2", "lock *(u32 *)(r1 + 0) |= w2"),
        ("lock fetch xor [%r1+8], %r2", "r2 = atomic_fetch_xor((u64 *)(r1 + 8), r2)"),
        ("lock xchg32 [%r1+8], %r2", "w2 = xchg32_32(r1 + 8, w2)"),
        ("lock cmpxchg [%r1+8], %r2", "r0 = cmpxchg_64(r1 + 8, r0, r2)"),
        ("jsgt %r1, -5, +1", "if r1 s> -0x5 goto +1"),
        ("jset32 %r1, %r2, -1", "if w1 & w2 goto -1"),
        ("ja +2", "goto +2"),
        ("ja32 +2", "gotol +0x2"),
        ("call 5", "call bpf_ktime_get_ns"),
        ("call %r3", "callx r3"),
        ("call local +1", "call pc+1"),
        ("call runtime 77", "call kfunc 77"),
        ("ldabsh 14", "r0 = *(u16 *)skb[0xe]"),
        ("ldindb %r3, 0", "r0 = *(u8 *)skb[r3]"),
        ("exit", "exit"),
    ],
)
def test_both_syntaxes(mnemonic: str, expression: str) -> None:
    assert assemble(mnemonic, check=False) == assemble(expression, check=False)


def test_labels_comments_and_slot_numbers() -> None:
    text = """
    start:  r0 = 0          # one
        1: if r0 == 0x0 goto done   ; to 4
        mov %r0, 1          // skipped
        jeq %r0, 1, start
    done: exit
    """
    made = decode(assemble(text))
    assert [one.target(n) for n, one in enumerate(made) if one.is_jump] == [4, 0]
    wide = decode(assemble("gotol far\nr1 = 5 ll\nfar: call f\nexit\nf: r1 = subprog[f] ll\nexit"))
    assert wide[0].target(0) == 3 and wide[2].target(3) == 5 and wide[4].target(5) == 5
    assert decode(assemble("jeq %r0, 0, exit\nmov %r0, 1\nexit\nexit"))[0].offset == 1


def test_names_of_maps_and_functions() -> None:
    maps = ("counts", ".bss")
    text = "main:\nr1 = map[counts] ll\nr2 = map[.bss][0]+8 ll\ncall helper_of_mine\nexit\nhelper_of_mine:\nexit"
    code = assemble(text, maps=maps)
    functions = {0: "main", 6: "helper_of_mine"}
    lines = disassemble(code, maps=maps, functions=functions)
    assert lines[:3] == ["r1 = map[counts] ll", "r2 = map[.bss][0]+8 ll", "call helper_of_mine"]
    assert decode(code)[0] == Instruction(op.LD_IMM64, 1, op.PSEUDO_MAP_IDX)
    assert disassemble(code)[1] == "r2 = map[idx:1][0]+8 ll"
    with pytest.raises(SyntaxProblem, match="no map 'count'"):
        assemble("r1 = map[count] ll", maps=maps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit\nfoo %r1", "line 2: 'foo %r1' is no instruction"),
        ("mov %r11, 0", "'%r11' is not a register"),
        ("mov %r1, 0x100000000", "does not fit in 32 bits"),
        ("ldxw %r1, [%r2+40000]", "does not fit in 16 bits"),
        ("add %r1", "add has 1 operands"),
        ("ja nowhere", "line 1: there is no label 'nowhere'"),
        ("x:\nx:\nexit", "line 2: label 'x' is defined twice"),
        ("lock nothing [%r1], %r2", "no atomic operation 'nothing'"),
        ("r1 = w2", "different widths"),
        ("r1 = be16 r2", "one r register"),
        ("r1 = 0x1ffffffffffffffff ll", "does not fit in 64 bits"),
        ("call bpf_no_such_helper", "no label 'bpf_no_such_helper'"),
    ],
)
def test_problems_name_line_and_cause(text: str, message: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        assemble(text)
    assert message in caught.value.message and caught.value.hint
