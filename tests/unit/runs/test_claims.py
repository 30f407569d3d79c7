from __future__ import annotations

import nbformat
import numpy as np
import pytest

from workbench.errors import BadSpec, RunFailed
from workbench.runs.claims import MEDIA_TYPE, Claim, check, claim, claimed


def notebook(*claims: tuple[str, object]) -> nbformat.NotebookNode:
    nb = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("wb.claim(...)")
    cell.outputs = [
        nbformat.v4.new_output("display_data", {MEDIA_TYPE: {"name": name, "value": value, "unit": ""}})
        for name, value in claims
    ]
    nb.cells = [nbformat.v4.new_markdown_cell("text"), cell]
    return nb


def test_outside_a_notebook_it_prints_and_returns(capsys: pytest.CaptureFixture[str]) -> None:
    value = np.float64(0.25)
    assert claim("share of leaf_a", value, "of samples") is value
    assert capsys.readouterr().out == "claim share of leaf_a = 0.25 of samples\n"


def test_an_array_is_no_claim() -> None:
    with pytest.raises(BadSpec, match="'x' is a ndarray"):
        claim("x", np.arange(3))


def test_values_come_back() -> None:
    found = claimed(notebook(("a", 1), ("b", "nan"), ("c", True), ("a", 1)))
    assert list(found) == ["a", "b", "c"] and found["a"] == 1 and found["c"] is True and found["b"] != found["b"]


def test_two_values_under_one_name() -> None:
    with pytest.raises(RunFailed, match="claims 'a' twice: 1 and 2"):
        claimed(notebook(("a", 1), ("a", 2)))


@pytest.mark.parametrize(
    ("one", "good", "bad"),
    [
        (Claim("c", expected=0.2, tolerance=0.1), [0.3, 0.1, 0.2], [0.301, 0.09, float("nan"), "0.2"]),
        (Claim("c", expected=-200.0, relative=0.1), [-220, -180], [-221, 200]),
        (Claim("c", expected=0.0, relative=0.5), [0.0], [1e-9]),
        (Claim("c", at_least=3), [3, float("inf")], [2.99, float("nan")]),
        (Claim("c", at_least=3, at_most=4), [3, 3.5, 4], [2, 5]),
        (Claim("c", equals="leaf_a"), ["leaf_a"], ["leaf_b", 0]),
        (Claim("c", equals=True), [True], [False, 1]),
        (Claim("c", equals=5), [5, 5.0], [5.1]),
    ],
)
def test_what_holds(one: Claim, good: list[object], bad: list[object]) -> None:
    assert all(one.holds(value) for value in good)  # type: ignore[arg-type]
    assert not any(one.holds(value) for value in bad)  # type: ignore[arg-type]


def test_a_missing_claim_fails_and_says_what_there_is() -> None:
    claims = [Claim("a", at_most=1), Claim("b", at_most=1), Claim("c", at_most=1, where={"n": 2})]
    rows = check(claims, {"a": 1, "z": 0}, experiment="e", point="", parameters={"n": 1})
    assert [(row.claim.name, row.ok) for row in rows] == [("a", True), ("b", False)]
    assert "claims a, z" in rows[1].note
    assert rows[1].as_json()["got"] is None
