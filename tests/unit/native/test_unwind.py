"""Unwinding on stacks made by hand: every status, the fallback, both machines; random memory under sanitizers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from call_frames import SECTION, TEXT, cie, section

from workbench.errors import BadSpec
from workbench.native.unwind import (
    AARCH64,
    FRAME_POINTER,
    LAZY,
    MAPPING,
    RETURN_PROBES,
    ROW,
    SIGNAL,
    WANTED,
    X86_64,
    CfaKind,
    RuleKind,
    Status,
    build_rows,
    unwind_batch,
)

BIAS = 0x7F0000000000
SPACE_SIZE = 0x10000
SP = 0x7FFE00001000
LEAF, MIDDLE, OUTER, PLT, REALIGNED, TRAMPOLINE, STRANGE, NO_ROW = (TEXT + 0x100 * i for i in range(8))

ROWS = build_rows(
    section(
        (LEAF, 64, b""),  # sp + 8
        (MIDDLE, 64, b"\x0e\x20\x86\x02"),  # sp + 32, fp saved at cfa - 16
        (OUTER, 64, b"\x07\x10"),  # return address undefined
        (PLT, 64, b"\x0f\x0b\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22"),
        (REALIGNED, 64, b"\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00"),
        (STRANGE, 64, b"\x0c\x0a\x08"),
    ),
    SECTION,
    X86_64,
).rows


def space(rows: np.ndarray | None = ROWS, flags: int = 0) -> np.ndarray:
    mappings = np.zeros(2, MAPPING)
    mappings[0] = (BIAS + TEXT, BIAS + TEXT + SPACE_SIZE, BIAS, 0, 0, flags, 0)
    mappings[1] = (BIAS + 0x10000000, BIAS + 0x10001000, 0, 0, 0, 0, 0)  # generated code, no file
    if rows is not None:
        mappings[0]["rows"], mappings[0]["count"] = rows.ctypes.data, len(rows)
    return mappings


def at(address: int) -> int:
    return BIAS + address


JIT = BIAS + 0x10000000


def one(
    ip: int,
    words: list[int],
    fp: int = 0,
    mappings: np.ndarray | None = None,
    machine: int = X86_64,
    lr: int = 0,
    max_depth: int = 16,
    returns: list[int] | None = None,
) -> tuple[list[int], int]:
    stack = np.frombuffer(struct.pack(f"<{len(words)}Q", *words), np.uint8)
    addresses, lengths, status = unwind_batch(
        [space() if mappings is None else mappings],
        np.zeros(1, np.int32),
        np.array([[ip, SP, fp, lr]], np.uint64),
        stack,
        np.zeros(1, np.int64),
        np.array([len(stack)], np.int32),
        machine,
        max_depth,
        None if returns is None else np.array([returns], np.uint64),
    )
    assert lengths[0] == len(addresses)
    return addresses.tolist(), int(status[0])


def test_chain_to_the_outermost_frame() -> None:
    words = [at(MIDDLE + 5), 0, 0, 0xABC, at(OUTER + 9)]
    assert one(at(LEAF), words) == ([at(LEAF), at(MIDDLE + 4), at(OUTER + 8)], Status.COMPLETE)


def test_return_address_zero_ends_a_chain() -> None:
    assert one(at(LEAF), [0]) == ([at(LEAF)], Status.COMPLETE)


def test_call_as_last_instruction_is_found_in_its_own_function() -> None:
    # the return address is the first byte after MIDDLE, where no row is
    words = [at(MIDDLE + 64), 0, 0, 0, at(OUTER + 1)]
    assert one(at(LEAF), words) == ([at(LEAF), at(MIDDLE + 63), at(OUTER)], Status.COMPLETE)


def test_stack_copy_too_short() -> None:
    assert one(at(LEAF), [at(MIDDLE + 5), 0, 0]) == ([at(LEAF), at(MIDDLE + 4)], Status.TRUNCATED)
    assert one(at(LEAF), []) == ([at(LEAF)], Status.TRUNCATED)


def test_depth_limit() -> None:
    words = [at(LEAF + 1)] * 50
    assert one(at(LEAF), words, max_depth=10) == ([at(LEAF)] * 10, Status.DEPTH)


def test_popped_frame_pointer_is_kept_in_the_leaf_only() -> None:
    # MIDDLE with sp + 8: after the pops of its epilogue the saved slot lies below sp
    rows = build_rows(section((MIDDLE, 64, b"\x86\x04"), (OUTER, 64, b"\x07\x10")), SECTION, X86_64).rows
    assert one(at(MIDDLE), [at(OUTER + 1)], mappings=space(rows)) == ([at(MIDDLE), at(OUTER)], Status.COMPLETE)
    words = [at(MIDDLE + 1), at(OUTER + 1)]
    assert one(at(MIDDLE), words, mappings=space(rows))[1] == Status.BAD_MEMORY


@pytest.mark.parametrize(("low_bits", "pushed"), [(0, False), (10, False), (11, True), (15, True)])
def test_linkage_table(low_bits: int, pushed: bool) -> None:
    words = [*([3] if pushed else []), at(OUTER + 1)]
    assert one(at(PLT + low_bits), words) == ([at(PLT + low_bits), at(OUTER)], Status.COMPLETE)


def test_realigned_stack() -> None:
    # fp at SP + 16; [fp - 8] holds the CFA, [fp] the caller's fp
    cfa = SP + 48
    words = [0, cfa, 0x77, 0, 0, at(OUTER + 1)]
    assert one(at(REALIGNED), words, fp=SP + 16) == ([at(REALIGNED), at(OUTER)], Status.COMPLETE)


def test_unsupported_rule_and_missing_information() -> None:
    assert one(at(STRANGE), [at(OUTER + 1)]) == ([at(STRANGE)], Status.UNSUPPORTED)
    assert one(at(NO_ROW), [at(OUTER + 1)]) == ([at(NO_ROW)], Status.NO_TABLE)
    assert one(0x1234, [at(OUTER + 1)]) == ([0x1234], Status.NO_MAPPING)


def test_generated_code_by_frame_pointer() -> None:
    # fp is SP + 8 and holds {fp of MIDDLE's caller, return address}; MIDDLE's frame is the 4 words from SP + 24
    words = [1, SP + 32, at(MIDDLE + 2), 0, 0, 0xABC, at(OUTER + 1)]
    expected = [JIT, at(MIDDLE + 1), at(OUTER)]
    assert one(JIT, words, fp=SP + 8) == (expected, Status.COMPLETE | FRAME_POINTER)


@pytest.mark.parametrize(
    ("fp", "words"),
    [
        pytest.param(SP - 8, [0] * 8, id="below the stack pointer"),
        pytest.param(SP + 4, [0] * 8, id="not aligned"),
        pytest.param(SP + 56, [0] * 8, id="end of the copy"),
        pytest.param(2**64 - 8, [0] * 8, id="end of the address space"),
        pytest.param(SP + 8, [0] * 8, id="zeros"),
    ],
)
def test_what_is_no_frame_pointer(fp: int, words: list[int]) -> None:
    assert one(JIT, words, fp=fp) == ([JIT], Status.NO_TABLE)


def test_frame_pointer_that_leads_out_of_all_code_is_not_believed() -> None:
    words = [0, SP + 64, 0x4141414141414141, 0]
    assert one(JIT, words, fp=SP + 8) == ([JIT], Status.NO_MAPPING | FRAME_POINTER)


def test_signal_frame_gives_the_exact_interrupted_address() -> None:
    rows = np.concatenate([ROWS, np.zeros(2, ROW)])
    where = len(ROWS)
    rule = (CfaKind.SP_DEREF, RuleKind.AT_SP, RuleKind.AT_SP, SIGNAL)
    rows[where] = (TRAMPOLINE + 0x1000 - 1, 16, 8, 24, *rule)
    rows[where + 1]["start"] = TRAMPOLINE + 0x1010
    trampoline = TRAMPOLINE + 0x1000
    interrupted_sp = SP + 48
    words = [
        at(trampoline),  # handler returns here: the trampoline's first byte
        0, 0x99, interrupted_sp, at(LEAF), 0,  # at sp + 8: fp, sp, ip
        at(OUTER + 1),
    ]  # fmt: skip
    # LEAF was interrupted at its first byte: minus one would be outside of it
    got = one(at(LEAF), words, mappings=space(rows))
    assert got == ([at(LEAF), at(trampoline) - 1, at(LEAF), at(OUTER)], Status.COMPLETE)


def test_return_probes_are_undone() -> None:
    trampoline = JIT  # at the very start of its mapping
    mappings = space()
    mappings["flags"][1] = RETURN_PROBES
    words = [trampoline, 0, 0, 0, trampoline]
    whole = [at(LEAF), at(MIDDLE + 4), at(OUTER + 8)]
    originals = [at(MIDDLE + 5), at(OUTER + 9)]
    assert one(at(LEAF), words, mappings=mappings, returns=[*originals, 0]) == (whole, Status.COMPLETE)
    assert one(at(LEAF), words, mappings=mappings, returns=originals) == (whole, Status.COMPLETE)
    # without them, or with too few, the chain ends at the trampoline
    assert one(at(LEAF), words, mappings=mappings) == ([at(LEAF)], Status.UNSUPPORTED)
    got = one(at(LEAF), words, mappings=mappings, returns=[originals[0], 0, originals[1]])
    assert got == (whole[:2], Status.UNSUPPORTED)
    # other unknown addresses do not use them up
    got = one(at(LEAF), [0x1234], mappings=mappings, returns=originals)
    assert got == ([at(LEAF), 0x1233], Status.NO_MAPPING)
    # a trampoline that leads to itself
    got = one(at(LEAF), words, mappings=mappings, returns=[trampoline, trampoline, *originals])
    assert got == (whole, Status.COMPLETE)


def test_lazy_table_is_asked_for() -> None:
    mappings = space(None, LAZY)
    assert one(at(LEAF), [at(OUTER + 1)], mappings=mappings) == ([at(LEAF)], Status.WANTS_TABLE)
    assert mappings["flags"].tolist() == [LAZY | WANTED, 0]


def test_aarch64_link_register_and_signed_return_address() -> None:
    first = cie(b"\x0c\x1f\x00", ra=30, code_align=4)
    rows = build_rows(
        section((LEAF, 64, b""), (MIDDLE, 64, b"\x0e\x20\x9d\x04\x9e\x03"), (OUTER, 64, b"\x07\x1e"), first=first),
        SECTION,
        AARCH64,
    ).rows
    signed = at(OUTER + 5) | 0x2A << 56
    chain = one(at(LEAF), [0x55, signed, 0, 0], lr=at(MIDDLE + 5), mappings=space(rows), machine=AARCH64)
    assert chain == ([at(LEAF), at(MIDDLE + 4), at(OUTER + 4)], Status.COMPLETE)
    # a caller that has not saved the link register cannot be unwound
    got = one(at(LEAF), [0], lr=at(LEAF + 5), mappings=space(rows), machine=AARCH64)
    assert got[1] in (Status.BAD_MEMORY, Status.UNSUPPORTED)


def test_batch_of_two_processes_and_what_it_refuses() -> None:
    words = struct.pack("<2Q", at(OUTER + 1), at(OUTER + 1))
    rows = build_rows(section((LEAF, 64, b"\x0e\x10"), (OUTER, 64, b"\x07\x10")), SECTION, X86_64).rows
    other = space(rows)
    registers = np.array([[at(LEAF), SP, 0]] * 4, np.uint64)
    arguments = {
        "spaces": [space(), other],
        "space_of": np.array([0, 1, 0, 1], np.int32),
        "registers": registers,
        "stacks": np.frombuffer(b"\xff" * 3 + words, np.uint8),
        "offsets": np.array([3, 3, 11, 11], np.int64),
        "lengths": np.array([16, 16, 8, 8], np.int32),
        "machine": X86_64,
        "max_depth": 8,
    }
    _, lengths, status = unwind_batch(**arguments)  # type: ignore[arg-type]
    # the second process needs 16 bytes of stack per frame
    assert lengths.tolist() == [2, 2, 2, 1]
    assert status.tolist() == [Status.COMPLETE] * 3 + [Status.TRUNCATED]
    for name, value in (
        ("space_of", np.array([0, 1, 0, 2], np.int32)),
        ("space_of", np.array([0, 1, 0, -1], np.int32)),
        ("offsets", np.array([3, 3, 12, 11], np.int64)),
        ("offsets", np.array([3, 3, -1, 11], np.int64)),
        ("lengths", np.array([16, 16, -1, 8], np.int32)),
        ("registers", registers[:, :2]),
        ("registers", registers[0]),
        ("lengths", np.zeros(3, np.int32)),
        ("spaces", [np.zeros(1, np.uint64)]),
        ("returns", np.zeros((3, 2), np.uint64)),
        ("returns", np.zeros(4, np.uint64)),
    ):
        with pytest.raises(BadSpec):
            unwind_batch(**{**arguments, name: value})  # type: ignore[arg-type]


def test_kernel_thread_has_no_frames() -> None:
    addresses, lengths, status = unwind_batch(
        [space()],
        np.zeros(1, np.int32),
        np.zeros((1, 3), np.uint64),
        np.zeros(0, np.uint8),
        np.zeros(1, np.int64),
        np.zeros(1, np.int32),
        X86_64,
        16,
    )
    assert (len(addresses), lengths[0], status[0]) == (0, 0, Status.COMPLETE)


FUZZ = """
import ctypes, random, sys
import numpy as np
from workbench.native.unwind import AARCH64, MAPPING, ROW, Status, X86_64, unwind_batch

random.seed(7)
generator = np.random.default_rng(7)
SP = 0x7FFE00001000
counts = {}
for turn in range(400):
    tables, spaces = [], []
    for _ in range(2):
        rows = np.zeros(random.choice((0, 1, 50)), ROW)
        rows["start"] = np.sort(generator.integers(0, 2000, len(rows)))
        for name in ("cfa_offset", "fp_offset", "ra_offset"):
            rows[name] = generator.integers(-64, 128, len(rows)) * random.choice((1, 8, 8, 8, 2**24))
        for name in ("cfa_kind", "fp_rule", "ra_rule", "flags"):
            rows[name] = generator.integers(0, random.choice((7, 7, 256)), len(rows))
        tables.append(rows)
        mappings = np.zeros(random.choice((0, 1, 4)), MAPPING)
        for i in range(len(mappings)):
            mappings[i] = (i * 1000 + 10, i * 1000 + 1000, random.choice((0, 10, 2**63)),
                           rows.ctypes.data if len(rows) else 0, len(rows), random.choice((0, 1, 4)), 0)
        spaces.append(mappings)
    n = 40
    size = random.choice((0, 7, 8, 333, 4096))
    values = generator.choice(np.array([0, 1, 2**64 - 1, SP, SP + 64, 500, 1500, 3000], np.uint64), size // 8 + 1)
    code = generator.integers(0, 4000, len(values), np.uint64)
    stack = SP + generator.integers(0, 4096, len(values), np.uint64)
    values = np.choose(generator.integers(0, 4, len(values)), [values, code, code, stack])
    stacks = np.frombuffer(ctypes.create_string_buffer(values.tobytes()[:size], size) if size else b"", np.uint8)
    registers = np.empty((n, 4), np.uint64)
    registers[:, 0] = generator.integers(0, 4000, n)
    registers[:, 1] = generator.choice(np.array([SP, SP, SP, 0, 8, 2**64 - 8], np.uint64), n)
    registers[:, 2] = SP + generator.integers(0, 512, n, np.uint64) * np.uint64(8)
    registers[:, 3] = generator.integers(0, 4000, n)
    offsets = generator.integers(0, size + 1, n)
    lengths = (generator.random(n) * (size - offsets + 1)).astype(np.int32)
    depth = random.choice((1, 5, 100))
    addresses, found, status = unwind_batch(
        spaces, generator.integers(0, 2, n).astype(np.int32), registers, stacks, offsets, lengths,
        random.choice((X86_64, AARCH64)), depth,
        None if turn % 2 else generator.integers(0, 4000, (n, turn % 5), np.uint64))
    assert found.sum() == len(addresses) and (found >= 0).all() and (found <= depth).all()
    for value in (status & 0x0F).tolist():
        counts[Status(value).name] = counts.get(Status(value).name, 0) + 1
print(*counts)
"""


@pytest.mark.needs("C compiler")
def test_random_rows_registers_and_stacks_under_sanitizers(run_sanitized) -> None:  # type: ignore[no-untyped-def]
    assert set(run_sanitized(FUZZ).split()) == {status.name for status in Status}
