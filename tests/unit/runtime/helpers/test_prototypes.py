"""The table of prototypes: complete, in step with the C table and with the kernel's header."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from workbench.errors import MissingCapability
from workbench.runtime.helpers.model import USERSPACE, Argument
from workbench.runtime.helpers.native import core
from workbench.runtime.helpers.prototypes import BY_NAME, HELPERS, NAMES, require
from workbench.runtime.helpers.tracing import OWN

HEADER = Path("/usr/include/linux/bpf.h")


def test_every_helper_of_the_kernel_is_known() -> None:
    own = {row.number for row in OWN}
    theirs = sorted(set(HELPERS) - own)
    assert theirs == list(range(1, 1 + len(NAMES))) and min(own) > 2 * len(NAMES)
    assert [HELPERS[number].name for number in theirs] == [f"bpf_{name}" for name in NAMES]
    if HEADER.exists():
        found = re.findall(r"^\s+FN\(([a-z0-9_]+)(?:, \d+)?", HEADER.read_text(), re.M)
        named = [name for name in found if name != "unspec"]
        assert list(NAMES[: len(named)]) == named[: len(NAMES)]


def test_the_c_table_has_what_the_model_promises() -> None:
    table = (ctypes.c_uint64 * 512).in_dll(core(), "wb_helpers")
    there = {number for number, entry in enumerate(table) if entry}
    promised = {number for number, row in HELPERS.items() if row.userspace}
    assert there == promised
    assert {HELPERS[number].name for number in there} == {f"bpf_{name}" for name in USERSPACE}


def test_prototypes_are_sound() -> None:
    sizes = {Argument.CONST_SIZE, Argument.CONST_SIZE_OR_ZERO}
    for row in HELPERS.values():
        if row.arguments is None:
            assert not row.userspace
            continue
        assert len(row.arguments) <= 5
        for before, kind in zip((None, *row.arguments), row.arguments, strict=False):
            if kind in sizes:
                assert before is not None and (
                    "memory" in before.value or "map value" in before.value
                ), row
        if row.releases is not None:
            assert row.releases < len(row.arguments)


def test_what_is_missing_is_named_with_the_backend_that_has_it() -> None:
    assert require(1) is BY_NAME["bpf_map_lookup_elem"]
    with pytest.raises(
        MissingCapability, match="bpf_get_branch_snapshot is missing in user space"
    ) as missing:
        require(BY_NAME["bpf_get_branch_snapshot"].number)
    assert 'backend="kernel"' in missing.value.hint
    with pytest.raises(MissingCapability, match="helper 999"):
        require(999)
