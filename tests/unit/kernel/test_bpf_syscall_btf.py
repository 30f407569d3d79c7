"""Looking up types in raw BTF: what a hand-made one holds, and nothing but ValueError for damaged ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.kernel.bpf_syscall import btf_ids

INT, POINTER, STRUCT, TYPEDEF, FUNCTION, PROTOTYPE = 1, 2, 4, 8, 12, 13
NAMES = b"\0int\0task\0task_t\0wake\0"


def kind(number: int, members: int = 0) -> int:
    return number << 24 | members


def name(text: bytes) -> int:
    return NAMES.index(b"\0" + text + b"\0") + 1


TYPES = b"".join(
    (
        struct.pack("<IIII", name(b"int"), kind(INT), 4, 32),
        struct.pack("<III", name(b"task"), kind(STRUCT, 2), 16) + struct.pack("<6I", 0, 1, 0, 0, 3, 64),
        struct.pack("<III", 0, kind(POINTER), 2),
        struct.pack("<III", name(b"task_t"), kind(TYPEDEF), 2),
        struct.pack("<III", 0, kind(PROTOTYPE, 1), 1) + struct.pack("<II", 0, 3),
        struct.pack("<III", name(b"wake"), kind(FUNCTION), 5),
        struct.pack("<III", name(b"task"), kind(FUNCTION), 5),
    )
)
BTF = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(TYPES), len(TYPES), len(NAMES)) + TYPES + NAMES
PRESENT = {(STRUCT, "task"), (TYPEDEF, "task_t"), (FUNCTION, "wake"), (FUNCTION, "task")}
WANTED = PRESENT | {(FUNCTION, "int"), (STRUCT, "absent")}


def test_ids_count_from_one_and_tell_kinds_apart() -> None:
    assert btf_ids(BTF, WANTED) == {
        (STRUCT, "task"): (2, 16),
        (TYPEDEF, "task_t"): (4, 2),
        (FUNCTION, "wake"): (6, 5),
        (FUNCTION, "task"): (7, 5),
    }


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(60), BTF[:20], BTF[:80]])
def test_what_is_not_whole_btf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="BTF"):
        btf_ids(data, WANTED)


@given(st.integers(0, len(BTF) - 1), st.binary(min_size=1, max_size=8))
def test_damage_gives_ids_or_value_error(at: int, patch: bytes) -> None:
    damaged = BTF[:at] + patch + BTF[at + len(patch) :]
    try:
        found = btf_ids(damaged, WANTED)
    except ValueError:
        return
    assert set(found) <= WANTED
