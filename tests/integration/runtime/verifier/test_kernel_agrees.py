"""The running kernel decides as we do, or the case says why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from verifier_cases import CASES, MAPS, Case

from workbench.errors import VerifierRejected
from workbench.kernel.raw_program import PROGRAM_TYPES, KernelMap, KernelProgram
from workbench.runtime.verifier import verify

_BUDGET = 2_000


@pytest.fixture(scope="module")
def maps() -> Iterator[list[KernelMap]]:
    made = [KernelMap(shape) for shape in MAPS]
    yield made
    for one in made:
        one.close()


@pytest.mark.needs("ring buffer")
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.type in PROGRAM_TYPES], ids=lambda case: case.id
)
def test_verdicts_agree(case: Case, maps: list[KernelMap]) -> None:
    program = case.program()
    functions = program.functions if len(program.functions) > 1 else ()
    try:
        with KernelProgram(program.code, case.type, maps, functions):
            kernel = True
    except VerifierRejected:
        kernel = False
    try:
        verify(program, case.object(), budget=_BUDGET)
        ours = True
    except VerifierRejected:
        ours = False
    # A case that names a reason is about kernels of one age: those may agree, all others have to.
    assert ours == kernel or case.kernel, f"we say {ours}, the kernel says {kernel}"
