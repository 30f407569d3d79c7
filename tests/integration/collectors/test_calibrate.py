from pathlib import Path

import numpy as np
import pytest

from workbench.collectors import calibrate
from workbench.frames.symbols.elf import ElfSymbols

pytestmark = pytest.mark.needs("uprobe")


def test_costs_of_every_class_and_their_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    rows = calibrate.measure_uprobe_costs(("count",))
    assert {row["mode"] for row in rows} == {"count"}
    assert [row["class"] for row in rows] == [
        c for c in calibrate.CLASSES if c in calibrate.machine_code()[1]
    ]
    # A hit that was missed would cost nothing at all; the bare call takes about one ns.
    assert all(row["low"] > 50 and row["low"] <= row["median"] <= row["high"] for row in rows)
    again = calibrate.uprobe_cost(rows[0]["class"], "count")
    assert again.median == rows[0]["median"]
    assert list(tmp_path.rglob("*.json"))


def test_code_exists_for_the_other_architecture_too():
    code, places = calibrate.machine_code("aarch64")
    assert set(places) == {"emulated", "single-step"} and len(code) <= 3072
    from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

    at, target = places["single-step"]
    calls = [
        i
        for i in Cs(CS_ARCH_ARM64, CS_MODE_ARM).disasm(code[at : at + 28], at)
        if i.mnemonic == "bl"
    ]
    assert calls[0].op_str == f"#{target:#x}"


def test_the_probed_file_is_an_elf_file_that_names_its_functions(tmp_path):
    with calibrate.Runner() as runner:
        symbols = ElfSymbols.open(Path(runner.path))
        for name, (_, target) in runner.places.items():
            (found,) = symbols.find_name(f"probed_{name}", "function")
            offsets, _ = symbols.vaddr_to_offset(np.array([found.address], np.uint64))
            assert int(offsets[0]) == target
        assert all(runner.time(name, 100) > 0 for name in runner.places)
