"""The symbolizer benchmark measures what it says, on a small library; its numbers are not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.bench import symbols
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.store import SymbolStore
from workbench.frames.symbols.symbolizer import Symbolizer


@pytest.fixture
def library() -> Path:
    import ctypes

    ctypes.CDLL("libc.so.6")
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Path(next(line.split()[-1] for line in lines if "libc.so" in line))


def test_the_largest_library_is_an_elf_file_with_symbols() -> None:
    with symbols.largest_library().open("rb") as file:
        assert file.read(4) == b"\x7fELF"


def test_addresses_are_distinct_and_every_one_is_in_a_function(
    library: Path, tmp_path: Path
) -> None:
    table = ElfSymbols.open(library)
    vaddrs = symbols.unique_addresses(table, 5000)
    assert len(np.unique(vaddrs)) == len(vaddrs) > 1000
    assert (table.find_address(vaddrs, "function") >= 0).all()
    # As if mapped, they give the same names.
    with Symbolizer(symbols.mapped(table), lines=False, store=SymbolStore(tmp_path)) as symbolizer:
        names = symbolizer.functions(
            symbols.PID, vaddrs[:50] + np.uint64(symbols.LOAD_BIAS)
        ).to_pylist()
    assert names == [table[i].demangled for i in table.find_address(vaddrs[:50]).tolist()]


def test_result_is_a_json_document_with_both_checks(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "ADDRESSES", 2000)
    monkeypatch.setattr(symbols, "PEER_ADDRESSES", {"llvm-symbolizer": 2, "addr2line": 2})
    result = json.loads(json.dumps(symbols._measure(library, "libc", tmp_path).to_json()))
    assert result["bench"] == "symbols" and len(result["checks"]) == 2
    assert all(row["value"] > 0 for row in result["rows"])
    assert any("libc" in row["name"] for row in result["rows"])
