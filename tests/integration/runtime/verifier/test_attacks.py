"""Programs that try to get past the verifier do not; what it accepts does nothing wrong, whatever it is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attack_runs import compiled, interpret
from verifier_attacks import ATTACKS, MAPS, Attack

from workbench.errors import VerifierRejected
from workbench.kernel.raw_program import PROGRAM_TYPES, KernelMap, KernelProgram
from workbench.runtime.interpreter import machine
from workbench.runtime.jit.compile import TIERS
from workbench.runtime.verifier import verify

_BUDGET = 3_000  # small, so that loops without a bound are joined soon
_INPUTS = 12
_ACCEPTED = [one for one in ATTACKS if one.reason is None]
_REFUSED = [one for one in ATTACKS if one.reason is not None]


@pytest.fixture(autouse=True)
def own_namespaces(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))


@pytest.fixture(scope="module")
def maps() -> Iterator[list[KernelMap]]:
    made = [KernelMap(shape) for shape in MAPS]
    yield made
    for one in made:
        one.close()


def test_names_are_unique() -> None:
    assert len({one.id for one in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("one", _REFUSED, ids=lambda one: one.id)
def test_refused(one: Attack) -> None:
    with pytest.raises(VerifierRejected) as refused:
        verify(one.program(), one.object(), budget=_BUDGET)
    assert one.reason in refused.value.reason


@pytest.mark.parametrize("one", _REFUSED, ids=lambda one: one.id)
def test_joining_accepts_no_more(one: Attack) -> None:
    """Where the walk over all paths is given up, a bad program is refused as well, or a loop of it is counted."""
    for budget in (3, 12, 40):
        try:
            verdict = verify(one.program(), one.object(), budget=budget)
        except VerifierRejected:
            continue
        assert one.family == "loops" and verdict.widened and verdict.unbounded


@pytest.mark.needs("ring buffer")
@pytest.mark.parametrize(
    "one", [one for one in ATTACKS if one.type in PROGRAM_TYPES], ids=lambda one: one.id
)
def test_the_kernel_agrees(one: Attack, maps: list[KernelMap]) -> None:
    program = one.program()
    functions = program.functions if len(program.functions) > 1 else ()
    try:
        with KernelProgram(program.code, one.type, maps, functions):
            kernel = True
    except VerifierRejected:
        kernel = False
    # A case that names a reason is about kernels of one age: those may agree, all others have to.
    assert (one.reason is None) == kernel or one.kernel, f"the kernel says {kernel}"


@pytest.mark.parametrize("budget", [_BUDGET, 12])
@pytest.mark.parametrize("one", _ACCEPTED, ids=lambda one: one.id)
def test_accepted_programs_do_nothing_wrong(
    one: Attack, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreter and compiled code leave the same; a run that does not end is one whose loops are counted."""
    monkeypatch.setattr(machine, "MAY_GOTO_LOOPS", 500)
    program = one.program()
    try:
        verdict = verify(program, one.object(), budget=budget)
    except VerifierRejected:
        assert budget < _BUDGET  # joins forget what the proof needs
        return
    wanted = [interpret(program, verdict, MAPS, seed) for seed in range(_INPUTS)]
    for tier in TIERS:
        with compiled(program, verdict, MAPS, tier) as code:
            for seed, expected in enumerate(wanted):
                got = code.run(seed)
                if "may_goto" in one.text:  # each has its own number of rounds
                    continue
                assert got.stopped == expected.stopped, (tier, seed)
                assert got.stopped or got == expected, (tier, seed)


def test_loops_that_only_the_budget_ends_can_be_refused() -> None:
    """All paths are closed, on faith in a callback's rounds; the loop around them is found all the same."""
    one = next(one for one in ATTACKS if "closed by a callback's round" in one.name)
    assert verify(one.program(), one.object(), budget=_BUDGET).unbounded
    with pytest.raises(VerifierRejected, match="nothing but the run-time budget ends a loop"):
        verify(one.program(), one.object(), budget=_BUDGET, allow_unbounded=False)
