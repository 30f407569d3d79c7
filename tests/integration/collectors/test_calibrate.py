import pytest

from workbench.collectors import calibrate

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
    assert set(places) == {"emulated", "single-step"} and len(code) == 4096
    from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

    at, target = places["single-step"]
    calls = [
        i
        for i in Cs(CS_ARCH_ARM64, CS_MODE_ARM).disasm(code[at : at + 28], at)
        if i.mnemonic == "bl"
    ]
    assert calls[0].op_str == f"#{target:#x}"
