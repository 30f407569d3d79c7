from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from workbench.errors import BadSpec
from workbench.runs.experiment import load_experiment, load_paper
from workbench.runs.parameters import notebook_parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nb = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("%matplotlib inline\nsize: int = 1\nseconds, rate = 5, 999\nrecording = ''")
    cell.metadata["tags"] = ["parameters"]
    nb.cells = [nbformat.v4.new_markdown_cell("# Title"), cell, nbformat.v4.new_code_cell("other = 1")]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "experiments").mkdir()
    nbformat.write(nb, tmp_path / "notebooks" / "tour.ipynb")
    return tmp_path / "experiments"


def write(folder: Path, text: str, name: str = "tour.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


NOTEBOOK = "notebook: ../notebooks/tour.ipynb\n"


def test_a_whole_file(folder: Path) -> None:
    one = load_experiment(
        write(
            folder,
            NOTEBOOK
            + "title: A tour\nparameters: {seconds: 2}\nrecordings: {recording: ../datasets/tour}\n"
            + "needs: [uprobe]\ngrid: {size: [1, 2], rate: [99, 999]}\ntimeout: 60\nclaims:\n"
            + "  - {name: share, expected: 0.7, tolerance: 0.1, text: most}\n"
            + "  - {name: lost, at_most: 0, where: {size: 1}}\n",
        )
    )
    assert one.name == "tour" and one.timeout == 60 and one.needs == ("uprobe",)
    assert one.recordings == {"recording": folder.parent / "datasets" / "tour"}
    assert [(p.name, p.parameters) for p in one.points()] == [
        (f"size={size},rate={rate}", {"seconds": 2, "size": size, "rate": rate})
        for size in (1, 2)
        for rate in (99, 999)
    ]
    assert [c.wanted for c in one.claims] == ["0.7", "<= 0"]
    fixed = one.with_parameters({"size": 7})
    assert [p.parameters["size"] for p in fixed.points()] == [7, 7]


def test_parameters_of_a_notebook(folder: Path) -> None:
    assert notebook_parameters(folder.parent / "notebooks" / "tour.ipynb") == ("size", "seconds", "rate", "recording")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a: [1", "line 1: not YAML"),
        ("- 1", "line 1: is a list, not a mapping"),
        ("title: x", "the key 'notebook' is missing"),
        ("\nnotebok: x", r"tour.yaml, line 2: unknown key 'notebok'\n  hint: did you mean 'notebook'"),
        ("notebook: nowhere.ipynb", "there is no notebook .*nowhere.ipynb"),
        (NOTEBOOK + NOTEBOOK, "line 2: the key 'notebook' is there twice"),
        (NOTEBOOK + "name: a/b", "line 2: name: 'a/b' is no file name"),
        (NOTEBOOK + "name: off", r"name: is a truth value, not text\n.*in quotes"),
        (NOTEBOOK + "parameters: 3", "line 2: parameters: is a number, not a mapping"),
        (NOTEBOOK + "parameters: {size: 2020-01-01}", "a date is not a plain value"),
        (NOTEBOOK + "parameters: {1: 2}", "the key 1 is not text"),
        (NOTEBOOK + "parameters: {source: live}", "parameters.source: the runner sets 'source'"),
        (NOTEBOOK + "parameters: {size: 1}\ngrid: {size: [1]}", "line 3: grid.size: 'size' is given twice"),
        (NOTEBOOK + "parameters: {seize: 1}", r"'seize', which the parameters cell of .* does not assign\n  hint: "
         "did you mean 'size'. the notebook has: size, seconds, rate, recording"),
        (NOTEBOOK + "needs: [uprobes]", r"needs\[0\]: no capability is named 'uprobes'\n.*did you mean 'uprobe"),
        (NOTEBOOK + "grid: {size: 3}", "grid.size: is a number, not a list"),
        (NOTEBOOK + "grid: {size: []}", "lists no value"),
        (NOTEBOOK + "grid: {size: [1, 1]}", "lists a value twice"),
        (NOTEBOOK + "timeout: soon", "line 2: timeout: is text, not a number"),
        (NOTEBOOK + "timeout: 0", "timeout: is not positive"),
        (NOTEBOOK + "claims:\n  - {name: a}", r"line 3: claims\[0\]: says in no way what is right"),
        (NOTEBOOK + "claims: [{expected: 1, tolerance: 1}]", "the key 'name' is missing"),
        (NOTEBOOK + "claims: [{name: a, expected: 1}]", "needs either tolerance .* or relative"),
        (NOTEBOOK + "claims: [{name: a, expected: 1, tolerance: 1, relative: 1}]", "needs either"),
        (NOTEBOOK + "claims: [{name: a, at_most: 1, equals: 1}]", "in 2 ways"),
        (NOTEBOOK + "claims: [{name: a, at_most: 1, tolerance: 1}]", "tolerance goes with expected only"),
        (NOTEBOOK + "claims: [{name: a, expected: 1, tolerance: -1}]", r"claims\[0\].tolerance: is negative"),
        (NOTEBOOK + "claims: [{name: a, expected: 1, tolerance: 1e-3}]", "is text, not a number\n.*1.0e-3"),
        (NOTEBOOK + "claims: [{name: a, at_most: 1, where: {sise: 2}}]", "'sise' is no parameter"),
        (NOTEBOOK + "claims: [{name: a, at_most: 1}, {name: a, at_most: 2}]", "a second claim named 'a'"),
        (NOTEBOOK + "claims: [{name: a, at_mots: 1}]", "did you mean 'at_most'"),
    ],
)  # fmt: skip
def test_what_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        load_experiment(write(folder, text))


def test_notebook_without_a_parameters_cell(folder: Path) -> None:
    nbformat.write(nbformat.v4.new_notebook(), folder / "bare.ipynb")
    with pytest.raises(BadSpec, match=r"bare.ipynb has no cell tagged `parameters`\n  hint: in JupyterLab"):
        load_experiment(write(folder, "notebook: bare.ipynb\nparameters: {size: 1}"))


def test_not_a_notebook(folder: Path) -> None:
    (folder / "bad.ipynb").write_text("{}")
    with pytest.raises(BadSpec, match="not a Jupyter notebook"):
        load_experiment(write(folder, "notebook: bad.ipynb\nparameters: {size: 1}"))


def test_missing_file_names_its_neighbour(folder: Path) -> None:
    write(folder, NOTEBOOK)
    with pytest.raises(BadSpec, match=r"did you mean 'tour\.yaml'"):
        load_experiment(folder / "tuor.yaml")


def test_a_paper(folder: Path) -> None:
    write(folder, NOTEBOOK)
    paper = load_paper(
        write(folder, f"title: T\nexperiments:\n  - tour.yaml\n  - {{name: again, {NOTEBOOK.strip()}}}", "paper.yaml")
    )
    assert (paper.title, [one.name for one in paper.experiments]) == ("T", ["tour", "again"])
    assert [one.name for one in load_paper(folder / "tour.yaml").experiments] == ["tour"]
    with pytest.raises(BadSpec, match="is a paper"):
        load_experiment(folder / "paper.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x", "line 1: the key 'experiments' is missing"),
        ("experiments: []", "lists no experiment"),
        ("experiments: [nowhere.yaml]", r"experiments\[0\]: there is no file .*nowhere.yaml"),
        ("experiments: [tour.yaml, tour.yaml]", "a second experiment named 'tour'"),
        ("experiments: [{notebook: ../notebooks/tour.ipynb}]", "the key 'name' is missing"),
    ],
)
def test_papers_that_are_refused(folder: Path, text: str, message: str) -> None:
    write(folder, NOTEBOOK)
    with pytest.raises(BadSpec, match=message):
        load_paper(write(folder, text, "paper.yaml"))


def test_names_of_points_are_file_names(folder: Path) -> None:
    one = load_experiment(write(folder, NOTEBOOK + "grid: {recording: ['a/b', 'a_b', '" + "x" * 300 + "']}"))
    names = [point.name for point in one.points()]
    assert len(set(names)) == 3 and all("/" not in name and len(name) < 120 for name in names)
