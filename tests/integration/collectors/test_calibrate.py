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
    assert all(row["low"] > 50 and row["low"] <= row["usual"] <= row["high"] for row in rows)
    again = calibrate.uprobe_cost(rows[0]["class"], "count")
    assert again.usual == rows[0]["usual"]
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


def test_disturbed_batches_do_not_raise_the_cost():
    bare = np.full(60, 2.0)
    probed = np.full(60, 69.0)
    probed[::2] = 2800.0  # what a preempted batch looks like
    cost = calibrate._cost(probed, bare)
    assert cost.usual == 67.0 and cost.low == 67.0


@pytest.mark.needs("userspace probe")
def test_costs_in_user_space(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    call, probe = calibrate.syscall_cost(), calibrate.uprobe_cost("jump", "count")
    for cost in (call, probe):
        assert cost.usual > 1 and cost.low <= cost.usual <= cost.high
    assert calibrate.syscall_cost() == call


def test_the_twin_of_a_probed_function_is_not_probed():
    code, places = calibrate.machine_code("x86_64")
    half = len(code) // 2
    assert code[:half] == code[half:] and all(place[1] < half for place in places.values())
