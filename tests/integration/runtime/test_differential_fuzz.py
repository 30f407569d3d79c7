"""Random programs give the same everywhere: interpreter, both tiers, kernel; nothing that we accept faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.bench import fuzz
from workbench.bench.fuzz import Campaign, campaign, normalised
from workbench.bench.fuzz_engines import InterpreterEngine, compare
from workbench.bench.fuzz_programs import generate
from workbench.bench.fuzz_risks import RISKS
from workbench.bench.fuzz_worker import Judge
from workbench.cli import main
from workbench.errors import RunFailed
from workbench.runtime.interpreter import ProgramFault
from workbench.runtime.isa import check_targets, decode_slots

PROGRAMS = 600  # `workbench bpf fuzz` runs as many as one likes
_FINDINGS = [
    1004000000368, 1018000000846, 1031000000504, 1077000000627, 1102000000059, 1124000000085,
]  # fmt: skip


@pytest.mark.timeout(900)
def test_seeded_campaign() -> None:
    """Without privilege the kernel is left out, and only the kernel."""
    found = campaign(PROGRAMS, seed=2)
    assert not found.bugs, found
    assert found.programs == PROGRAMS and set(found.left_out) <= {"kernel"}
    assert found.accepted["ours"] > PROGRAMS // 2
    assert found.compared["quick"] == found.compared["optimised"]
    # Those that read more context than there is are accepted and not run.
    assert found.compared["quick"] >= found.accepted["ours"] - PROGRAMS // 100
    if "kernel" not in found.left_out:
        assert found.compared["kernel"] > PROGRAMS // 2
        ours_only = sum(count for (who, _), (count, _) in found.disagreements.items() if who == "ours")
        assert ours_only <= PROGRAMS // 50, found  # gambles: ranges that only our verifier tracks


def test_a_campaign_is_resumed() -> None:
    without = ("kernel", "optimised")
    whole = campaign(3, seed=3, without=without)
    parts = [campaign(count, seed=3, first=first, without=without) for first, count in ((0, 1), (1, 2))]
    assert whole.accepted == parts[0].accepted + parts[1].accepted


@pytest.mark.parametrize("seed", _FINDINGS)
def test_earlier_findings(seed: int) -> None:
    """Loops that only may_goto ends and unknown helpers are none; a map that does not exist is refused.

    Then: probe_read's source and destination overlap; bpf_loop of too many rounds, which the kernel has in line.
    """
    judge = Judge(("optimised",))
    assert not judge.row(generate(seed))["bugs"]
    judge.close()


def test_the_same_seed_is_the_same_program() -> None:
    assert generate(7) == generate(7) != generate(8)
    risky = [generate(seed, risky=True) for seed in range(200)]
    assert {one.risky for one in risky} >= set(RISKS) - {"endless loop"}
    for one in risky:
        check_targets(decode_slots(one.program.code))
        assert sum(function.count for function in one.program.functions) * 8 == len(one.program.code)


def test_the_interpreter_finds_what_is_out_of_bounds() -> None:
    """The campaign would see an accepted program that faults: the risky ones do fault."""
    engine, faults = InterpreterEngine(), set()
    for seed in range(400):
        one = generate(seed, risky=True)
        try:
            engine.run(one)
        except ProgramFault:
            faults.add(one.risky)
    engine.close()
    assert faults >= {"out of bounds", "index too large", "index without bound", "register without value"}
    assert faults >= {"null not checked", "misaligned stack", "context written", "argument"}


def test_a_difference_is_seen() -> None:
    engine = InterpreterEngine()
    first, second = (engine.run(generate(seed, risky=False)) for seed in (1, 2))
    engine.close()
    assert compare("a", first, "b", first) is None
    assert compare("a", first, "b", second) is not None


def test_a_crash_is_a_finding_and_the_campaign_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "dies.py"
    worker.write_text(
        "import json, os, sys\n"
        "first, count = int(sys.argv[1]), int(sys.argv[2])\n"
        "for seed in range(first, first + count):\n"
        "    print(json.dumps({'starts': seed}), flush=True)\n"
        "    if seed == 3:\n"
        "        os.kill(os.getpid(), 11)\n"
        "    row = {'seed': seed, 'ours': '', 'kernel': 'R1 max 5', 'compared': ['quick'], 'bugs': []}\n"
        "    print(json.dumps(row), flush=True)\n"
        "print(json.dumps({'done': True}))\n"
    )
    monkeypatch.setattr(fuzz, "COMMAND", (str(worker),))
    found = campaign(6)
    assert (found.programs, found.bugs["crash"], found.compared["quick"]) == (6, 1, 5)
    assert found.findings == [{"seed": 3, "kind": "crash", "what": "signal 11"}]
    document = json.loads(json.dumps(found.to_json()))
    assert document["disagreements"] == [
        {"accepted_by": "ours", "reason_of_the_other": "rN max N", "count": 5, "seed": 0}
    ]
    assert "seed 3: crash" in str(found)


def test_a_child_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "empty.py"
    worker.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(fuzz, "COMMAND", (str(worker),))
    with pytest.raises(RunFailed, match="exit status 3 before its first program"):
        campaign(3)


def test_reasons_without_numbers() -> None:
    assert normalised("R3 offset -12 is 0x1f\nmore") == "rN offset N is N"
    assert Campaign().to_json()["bugs"] == {}


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bpf", "fuzz", "--programs", "3", "--without", "kernel", "--without", "optimised", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["programs"] == 3 and document["compared"].get("optimised") is None
    assert main(["bpf", "fuzz", "--show", "5"]) == 0
    assert "; seed 5" in capsys.readouterr().out
    assert main(["bpf", "fuzz", "--programs", "0"]) == 2
