"""`.eh_frame` to rows: against readelf on real libraries, by hand for rare instructions, damaged under sanitizers."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from call_frames import (
    SECTION,
    TEXT,
    cie,
    leb,
    mapped_files,
    real_sections,
    record,
    section,
    sleb,
)

from workbench.errors import MissingCapability
from workbench.native.unwind import AARCH64, ROW, SIGNAL, X86_64, CfaKind, RuleKind, build_rows

ADVANCE4 = b"\x44"


def rows_of(data: bytes, machine: int = X86_64) -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for row in build_rows(data, SECTION, machine).rows]


def row(
    start: int, cfa: CfaKind, offset: int, fp: tuple[int, int] = (0, 0), ra: tuple[int, int] = (3, -8), flags: int = 0
) -> tuple[int, ...]:
    return (TEXT + start, offset, fp[1], ra[1], cfa, fp[0], ra[0], flags)


END = 32
NOTHING = (0, 0)


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        pytest.param(b"", [row(0, CfaKind.SP, 8)], id="no instruction"),
        pytest.param(
            # push rbp; mov rbp, rsp; ...; pop
            b"\x41\x0e\x10\x86\x02" b"\x43\x0d\x06" b"\x50\x0c\x07\x08",
            [
                row(0, CfaKind.SP, 8),
                row(1, CfaKind.SP, 16, (RuleKind.AT_CFA, -16)),
                row(4, CfaKind.FP, 16, (RuleKind.AT_CFA, -16)),
                row(20, CfaKind.SP, 8, (RuleKind.AT_CFA, -16)),
            ],
            id="frame pointer",
        ),
        pytest.param(
            ADVANCE4 + b"\x0e\x20\x0a" + ADVANCE4 + b"\x0e\x08" + ADVANCE4 + b"\x0b",
            [row(0, CfaKind.SP, 8), row(4, CfaKind.SP, 32), row(8, CfaKind.SP, 8), row(12, CfaKind.SP, 32)],
            id="remember and restore state",
        ),
        pytest.param(
            b"\x86\x04" + ADVANCE4 + b"\xc6",
            [row(0, CfaKind.SP, 8, (RuleKind.AT_CFA, -32)), row(4, CfaKind.SP, 8)],
            id="restore",
        ),
        pytest.param(b"\x05" + leb(6) + leb(3), [row(0, CfaKind.SP, 8, (RuleKind.AT_CFA, -24))], id="offset_extended"),
        pytest.param(b"\x11\x06" + sleb(3), [row(0, CfaKind.SP, 8, (RuleKind.AT_CFA, -24))], id="offset_extended_sf"),
        pytest.param(b"\x2f\x06" + leb(3), [row(0, CfaKind.SP, 8, (RuleKind.AT_CFA, 24))], id="negative offset"),
        pytest.param(b"\x14\x06" + leb(2), [row(0, CfaKind.SP, 8, (RuleKind.CFA, -16))], id="val_offset"),
        pytest.param(b"\x86\x02\x08\x06", [row(0, CfaKind.SP, 8)], id="same_value"),
        pytest.param(
            b"\x07\x10", [(TEXT, 0, 0, 0, CfaKind.SP, 0, RuleKind.UNDEFINED, 0)], id="outermost"
        ),
        pytest.param(
            b"\x09\x10\x05", [row(0, CfaKind.SP, 8, ra=(RuleKind.UNSUPPORTED, 0))], id="return address in rdi"
        ),
        pytest.param(
            b"\x0c\x0a\x08", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="cfa from r10"
        ),
        pytest.param(
            b"\x0f\x0b\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22", [row(0, CfaKind.PLT, 11)], id="linkage table"
        ),
        pytest.param(b"\x0f\x03\x76\x78\x06", [row(0, CfaKind.FP_DEREF, -8)], id="realigned stack"),
        pytest.param(b"\x0f\x02\x76\x78", [row(0, CfaKind.FP, -8)], id="expression without dereference"),
        pytest.param(
            b"\x0f\x04\x77\xa0\x01\x06\x10\x06\x03\x77\xf8\x00\x10\x10\x03\x77\xa8\x01",
            [row(0, CfaKind.SP_DEREF, 160, (RuleKind.AT_SP, 120), (RuleKind.AT_SP, 168))],
            id="signal trampoline",
        ),
        pytest.param(
            b"\x10\x06\x02\x76\x00", [row(0, CfaKind.SP, 8, (RuleKind.AT_FP, 0))], id="frame pointer at frame pointer"
        ),
        pytest.param(
            b"\x0f\x03\x77\x08\x23", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="another expression"
        ),
        pytest.param(b"\x2e\x10\x02\x04\x13\x7e", [row(0, CfaKind.SP, 8), row(4, CfaKind.SP, 16)], id="args_size, sf"),
        pytest.param(b"\x12\x06\x7e", [row(0, CfaKind.FP, 16)], id="def_cfa_sf"),
        pytest.param(b"\x03\x08\x00\x0e\x18", [row(0, CfaKind.SP, 8), row(8, CfaKind.SP, 24)], id="advance_loc2"),
        pytest.param(b"\x04\x08\0\0\0\x0e\x18", [row(0, CfaKind.SP, 8), row(8, CfaKind.SP, 24)], id="advance_loc4"),
        pytest.param(
            b"\x0e" + leb(1 << 40), [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="offset beyond 32 bits"
        ),
        pytest.param(b"\x0b", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="restore without remember"),
        pytest.param(b"\x0a" * 40, [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="remember without end"),
        pytest.param(b"\x3f", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="unknown instruction"),
        pytest.param(b"\x7f\x0e\x10", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="beyond the function"),
        pytest.param(b"\x0f\xff\x7f\x77", [(TEXT, 0, 0, 0, CfaKind.UNSUPPORTED, 0, 0, 0)], id="cut off"),
    ],
)
def test_instructions(instructions: bytes, expected: list[tuple[int, ...]]) -> None:
    got = rows_of(section((TEXT, END, instructions)))
    assert got[:-1] == expected
    assert got[-1] == (TEXT + END, *[0] * 7), "nothing is said about what follows the function"


def test_functions_come_out_in_order_with_gaps_marked() -> None:
    data = section((TEXT + 0x200, 16, b"\x0e\x10"), (TEXT, 16, b""), (TEXT + 0x18, 8, b"\x0e\x20"))
    got = rows_of(data)
    assert [(r[0] - TEXT, r[4], r[1]) for r in got] == [
        (0, CfaKind.SP, 8),
        (0x18, CfaKind.SP, 32),  # the 8 bytes before are padding
        (0x20, CfaKind.NONE, 0),
        (0x200, CfaKind.SP, 16),
        (0x210, CfaKind.NONE, 0),
    ]


def test_overlapping_functions_stay_sorted() -> None:
    data = section((TEXT, 100, b"\x60\x0e\x10"), (TEXT + 10, 10, b"\x0e\x20"), (TEXT + 10, 5, b"\x0e\x30"))
    starts = [r[0] for r in rows_of(data)]
    assert starts == sorted(set(starts))


def test_64_bit_records_signal_frames_and_other_augmentations() -> None:
    expected = row(0, CfaKind.SP, 8)
    assert rows_of(section((TEXT, END, b""), long=True))[0] == expected
    with_all = cie(augmentation=b"zPLRS", data=b"\x9b\x01\x02\x03\x04\x1b\x1b")
    assert rows_of(section((TEXT, END, b""), first=with_all))[0] == (*expected[:-1], SIGNAL)
    assert rows_of(section((TEXT, END, b""), first=cie(version=3)))[0] == expected
    unknown = build_rows(section((TEXT, END, b""), first=cie(augmentation=b"zQ")), SECTION, X86_64)
    assert (len(unknown.rows), unknown.functions, unknown.malformed) == (0, 1, 1)


@pytest.mark.parametrize(
    ("encoding", "pointer"),
    [
        (0x00, struct.pack("<QQ", TEXT, END)),
        (0x03, struct.pack("<II", TEXT, END)),
        (0x0B, struct.pack("<ii", TEXT, END)),
        (0x04, struct.pack("<QQ", TEXT, END)),
        (0x01, leb(TEXT) + leb(END)),
    ],
)
def test_pointer_encodings(encoding: int, pointer: bytes) -> None:
    first = cie(data=bytes([encoding]))
    data = first + record(struct.pack("<I", len(first) + 4) + pointer + leb(0))
    assert rows_of(data)[0] == row(0, CfaKind.SP, 8)


def test_limit_and_terminator_between_object_files() -> None:
    one = section((TEXT, 16, b""))
    more = section((TEXT + 64, 16, b"\x0e\x10"))
    # the second part's pointers are relative to its place
    moved = section((TEXT + 64 - len(one), 16, b"\x0e\x10"))
    assert len(more) == len(moved)
    got = [r[0] - TEXT for r in rows_of(one + moved)]
    assert got == [0, 16, 64, 80]
    assert build_rows(one + moved, SECTION, X86_64, limit=1).functions == 1


def test_other_machines_are_refused() -> None:
    with pytest.raises(MissingCapability, match="ELF machine 243"):
        build_rows(section((TEXT, 16, b"")), SECTION, 243)


def test_aarch64_return_address_stays_in_the_link_register() -> None:
    # stp x29, x30, [sp, -32]!; mov x29, sp; ...; paciasp before
    body = b"\x41\x2d" b"\x41\x0e\x20\x9d\x04\x9e\x03" b"\x41\x0d\x1d"
    first = cie(b"\x0c\x1f\x00", b"zRB", b"\x1b", ra=30, code_align=4)
    got = rows_of(section((TEXT, END, body), first=first), AARCH64)
    saved = ((RuleKind.AT_CFA, -32), (RuleKind.AT_CFA, -24))
    assert got[:3] == [
        row(0, CfaKind.SP, 0, ra=(RuleKind.SAME, 0)),
        row(8, CfaKind.SP, 32, *saved),
        row(12, CfaKind.FP, 32, *saved),
    ]


def _expected_by_readelf(path: str) -> tuple[list[int], list[tuple[str, str, str]]]:
    text = subprocess.run(
        ["readelf", "--debug-dump=frames-interp", "-W", path], capture_output=True, text=True, check=False
    ).stdout
    columns: list[str] = []
    end = 0
    addresses, rules = [], []
    for line in text.splitlines():
        if found := re.match(r"[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ FDE .*pc=[0-9a-f]+\.\.([0-9a-f]+)", line):
            end = int(found[1], 16)
        elif " CIE" in line:
            end = 0
        elif "LOC" in line:
            columns = line.split()
        elif end and re.match(r"[0-9a-f]{16} ", line):
            values = re.sub(r"(r\d+) \(\w+\)", r"\1", line).split()
            if int(values[0], 16) < end:
                cells = dict(zip(columns, values, strict=True))
                addresses.append(int(values[0], 16))
                rules.append((cells["CFA"], cells.get("rbp", "u"), cells["ra"]))
    return addresses, rules


@pytest.mark.needs("C compiler")
def test_rows_agree_with_readelf() -> None:
    if X86_64 not in {machine for *_, machine in real_sections(mapped_files()[:1])}:
        pytest.skip("readelf's register names are compared on x86-64")
    chosen = [s for s in real_sections() if re.search(r"/(libc|libcrypto|_sqlite3|libsqlite3|libz)[.-]", s[0])]
    assert chosen, "no C library among the files of this process"
    for path, data, address, machine in chosen[:3]:
        rows = build_rows(data, address, machine).rows
        addresses, rules = _expected_by_readelf(path)
        assert len(addresses) > 100
        at = np.searchsorted(rows["start"], addresses, "right") - 1
        kinds = {"rsp": CfaKind.SP, "rbp": CfaKind.FP}
        for place, got, (cfa, fp, ra) in zip(addresses, rows[at].tolist(), rules, strict=True):
            where = f"{path} {place:#x}: {got} for {cfa} {fp} {ra}"
            _, cfa_offset, fp_offset, ra_offset, cfa_kind, fp_rule, ra_rule, _ = got
            if ra == "u":
                assert ra_rule == RuleKind.UNDEFINED, where
                continue
            if (plain := re.fullmatch(r"(\w+)([+-]\d+)", cfa)) is None:
                assert cfa == "exp", where
                continue
            expected = kinds.get(plain[1], CfaKind.UNSUPPORTED)
            assert cfa_kind == expected, where
            if expected == CfaKind.UNSUPPORTED:
                continue
            assert cfa_offset == int(plain[2]), where
            assert (ra_rule, f"c{ra_offset:+}") == (RuleKind.AT_CFA, ra) or (
                ra_rule == RuleKind.UNSUPPORTED and ra.startswith("r")
            ), where
            if fp.startswith("c"):
                assert (fp_rule, f"c{fp_offset:+}") == (RuleKind.AT_CFA, fp), where


FUZZ = """
import ctypes, random, sys
import numpy as np
from call_frames import SECTION, TEXT, cie, fde, real_sections
from workbench.native.unwind import AARCH64, X86_64, CfaKind, RuleKind, build_rows

random.seed(int(sys.argv[1]))
corpus = [(data, address, machine) for _, data, address, machine in real_sections()]
assert corpus
rows = malformed = 0

def check(data, address, machine):
    global rows, malformed
    exact = ctypes.create_string_buffer(data, len(data)) if data else (ctypes.c_char * 0)()
    built = build_rows(exact, address, machine, random.choice((0, 0, 1, 50)))
    starts = built.rows["start"]
    assert (starts[1:] > starts[:-1]).all()
    assert (built.rows["cfa_kind"] <= max(CfaKind)).all() and (built.rows["ra_rule"] <= max(RuleKind)).all()
    rows += len(starts)
    malformed += built.malformed

for turn in range(1500):
    data, address, machine = random.choice(corpus)
    size = min(len(data), random.choice((64, 500, 4000)))
    # most begin at the section's own begin, where the first CIE is
    begin = 0 if random.random() < 0.8 else random.randrange(0, len(data) - size + 1, 4)
    piece = bytearray(data[begin : begin + size])
    for _ in range(random.choice((0, 1, 3, 20))):
        at = random.randrange(len(piece))
        piece[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    if random.random() < 0.3:
        del piece[random.randrange(len(piece)) :]
    check(bytes(piece), address if random.random() < 0.9 else 2**64 - 8, random.choice((X86_64, AARCH64)))
for turn in range(2000):  # random instructions in sound records
    code = [bytes(random.randrange(256) for _ in range(random.randrange(40))) for _ in range(3)]
    data = cie(code[0] if turn % 4 == 0 else b"\\x0c\\x07\\x08\\x90\\x01",
               random.choice((b"zR", b"zRS", b"zPLR", b"", b"zRB")),
               bytes(random.choice((0x1B, 0, 3, 0x50, 0xFF, 0x9B)) for _ in range(random.randrange(12))),
               code_align=random.choice((1, 4, 2**63)), data_align=random.choice((-8, -(2**63), 1)))
    for k in (1, 2):
        data += fde(len(data), 0, TEXT + random.randrange(200), random.choice((0, 1, 300, 2**32 - 1)), code[k])
    check(data, SECTION, random.choice((X86_64, AARCH64)))
check(b"", 0, X86_64)
print(rows, malformed)
"""


@pytest.mark.needs("C compiler")
@pytest.mark.parametrize("seed", ["1", "2"])
def test_damaged_sections_under_sanitizers(run_sanitized, seed: str) -> None:  # type: ignore[no-untyped-def]
    rows, malformed = map(int, run_sanitized(FUZZ, seed).split())
    assert rows > 10_000 and malformed > 500, "the damaged sections exercise both the rows and the refusals"


@pytest.mark.needs("C compiler")
def test_the_sanitizer_sees_a_read_past_the_end(run_sanitized) -> None:  # type: ignore[no-untyped-def]
    report = run_sanitized(
        """
import ctypes
from workbench.native.unwind import _core
data = ctypes.create_string_buffer(bytes([20, 0, 0, 0] + [0] * 12), 16)
rows, stats = ctypes.c_void_p(), (ctypes.c_uint64 * 3)()
_core().wb_eh_frame_build(data, 64, 0, 62, 0, ctypes.byref(rows), stats)
""",
        fails=True,
    )
    assert "AddressSanitizer: heap-buffer-overflow" in report


def test_row_layout() -> None:
    header = (Path(__file__).parents[3] / "workbench/native/eh_frame.h").read_text()
    fields = re.findall(r"(u?int\d+)_t (\w+);", header.split("struct wb_unwind_row {")[1].split("}")[0])
    assert ROW.itemsize == 24
    assert [(np.dtype(kind), name) for kind, name in fields] == [(ROW[name], name) for name in ROW.names or ()]
