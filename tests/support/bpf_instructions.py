"""Random valid instructions, made from the rules of RFC 9669 rather than from the decoder's."""

from __future__ import annotations

from hypothesis import strategies as st

from workbench.runtime.isa import Instruction
from workbench.runtime.isa import opcodes as op

REGISTER = st.integers(0, 10)
IMM = st.integers(-(2**31), 2**31 - 1)
OFFSET = st.integers(-(2**15), 2**15 - 1)
KIND = st.sampled_from((op.ALU, op.ALU64))
SIZE = st.sampled_from((op.B, op.H, op.W, op.DW))
SIMPLE = (op.ADD, op.SUB, op.MUL, op.OR, op.AND, op.LSH, op.RSH, op.XOR, op.MOV, op.ARSH, op.DIV, op.MOD)
JUMPS = (op.JEQ, op.JGT, op.JGE, op.JSET, op.JNE, op.JSGT, op.JSGE, op.JLT, op.JLE, op.JSLT, op.JSLE)


def _wide(dst: int, src: int, low: int, high: int) -> Instruction:
    return Instruction(op.LD_IMM64, dst, src, 0, low, (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF)


def instructions() -> st.SearchStrategy[Instruction]:
    """Any instruction of the set; jumps go anywhere."""
    make = st.builds
    alu = st.sampled_from(SIMPLE)
    jump, width = st.sampled_from(JUMPS), st.sampled_from((op.JMP, op.JMP32))
    atomic = st.sampled_from(
        [o | f for o in (op.ADD, op.OR, op.AND, op.XOR) for f in (0, op.FETCH)] + [op.XCHG, op.CMPXCHG]
    )
    return st.one_of(
        make(lambda k, o, d, i: Instruction(k | o, d, 0, 0, i), KIND, alu, REGISTER, IMM),
        make(lambda k, o, d, s: Instruction(k | o | op.X, d, s), KIND, alu, REGISTER, REGISTER),
        make(
            lambda k, o, d, i: Instruction(k | o, d, 0, 1, i),
            KIND,
            st.sampled_from((op.DIV, op.MOD)),
            REGISTER,
            IMM,
        ),
        make(
            lambda k, o, d, s: Instruction(k | o | op.X, d, s, 1),
            KIND,
            st.sampled_from((op.DIV, op.MOD)),
            REGISTER,
            REGISTER,
        ),
        make(
            lambda k, d, s, b: Instruction(k | op.MOV | op.X, d, s, b),
            KIND,
            REGISTER,
            REGISTER,
            st.sampled_from((8, 16)),
        ),
        make(lambda d, s: Instruction(op.ALU64 | op.MOV | op.X, d, s, 32), REGISTER, REGISTER),
        make(lambda k, d: Instruction(k | op.NEG, d), KIND, REGISTER),
        make(
            lambda o, d, b: Instruction(o, d, imm=b),
            st.sampled_from((op.ALU | op.END, op.ALU | op.END | op.X, op.ALU64 | op.END)),
            REGISTER,
            st.sampled_from((16, 32, 64)),
        ),
        make(lambda w, j, d, i, o: Instruction(w | j, d, 0, o, i), width, jump, REGISTER, IMM, OFFSET),
        make(lambda w, j, d, s, o: Instruction(w | j | op.X, d, s, o), width, jump, REGISTER, REGISTER, OFFSET),
        make(lambda o, t: Instruction(o, offset=t), st.sampled_from((op.GOTO, op.MAY_GOTO)), OFFSET),
        make(lambda t: Instruction(op.GOTOL, imm=t), IMM),
        make(lambda s, t: Instruction(op.CALL_IMM, src=s, imm=t), st.sampled_from((0, 1)), IMM),
        make(lambda o, t: Instruction(op.CALL_IMM, 0, op.CALL_KFUNC, o, t), OFFSET, IMM),
        make(lambda d: Instruction(op.CALLX, d), REGISTER),
        st.just(Instruction(op.EXIT_OP)),
        make(
            lambda m, b, s, i: Instruction(op.LD | m | b, 0, s if m == op.IND else 0, 0, i),
            st.sampled_from((op.ABS, op.IND)),
            st.sampled_from((op.B, op.H, op.W)),
            REGISTER,
            IMM,
        ),
        make(_wide, REGISTER, st.sampled_from((0, 2, 3, 6)), IMM, IMM),
        make(lambda d, s, i: _wide(d, s, i, 0), REGISTER, st.sampled_from((1, 4, 5)), IMM),
        make(lambda b, d, s, o: Instruction(op.LDX | op.MEM | b, d, s, o), SIZE, REGISTER, REGISTER, OFFSET),
        make(
            lambda b, d, s, o: Instruction(op.LDX | op.MEMSX | b, d, s, o),
            st.sampled_from((op.B, op.H, op.W)),
            REGISTER,
            REGISTER,
            OFFSET,
        ),
        make(lambda b, d, o, i: Instruction(op.ST | op.MEM | b, d, 0, o, i), SIZE, REGISTER, OFFSET, IMM),
        make(lambda b, d, s, o: Instruction(op.STX | op.MEM | b, d, s, o), SIZE, REGISTER, REGISTER, OFFSET),
        make(
            lambda b, d, s, o, i: Instruction(op.STX | op.ATOMIC | b, d, s, o, i),
            st.sampled_from((op.W, op.DW)),
            REGISTER,
            REGISTER,
            OFFSET,
            atomic,
        ),
        make(
            lambda b, d, s, o, i: Instruction(op.STX | op.ATOMIC | b, d, s, o, i),
            SIZE,
            REGISTER,
            REGISTER,
            OFFSET,
            st.sampled_from((op.LOAD_ACQ, op.STORE_REL)),
        ),
    )
