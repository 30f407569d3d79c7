"""environment.yml (conda) and pyproject.toml (pip) ask for the same things."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OTHER_NAME = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python", "pip", "pocl", "c-compiler", "make", "clang", "llvm-tools"}


def parse(requirement: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(>=[0-9.]+)?", requirement)
    assert match, requirement
    return match[1].lower(), match[2] or ""


def wanted_by_pyproject() -> dict[str, str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    listed = [*project["dependencies"], *document["build-system"]["requires"]]
    for group in project["optional-dependencies"].values():
        listed += [one for one in group if not one.startswith("bpf-workbench[")]
    wanted = {}
    for requirement in listed:
        name, bound = parse(requirement)
        wanted[OTHER_NAME.get(name, name)] = bound
    wanted["python"] = project["requires-python"]
    return wanted


@pytest.fixture(scope="module")
def listed_for_conda() -> dict[str, str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = [one for one in dependencies if isinstance(one, str)]
    (nested,) = [one["pip"] for one in dependencies if isinstance(one, dict)]
    listed = [parse(one) for one in (*plain, *nested)]
    assert len({name for name, _ in listed}) == len(listed), "a package is listed twice"
    return dict(listed)


def test_conda_lists_every_dependency_with_the_same_bound(listed_for_conda: dict[str, str]) -> None:
    wanted = wanted_by_pyproject()
    assert {name: listed_for_conda.get(name) for name in wanted} == wanted


def test_conda_lists_nothing_that_pyproject_does_not_know(listed_for_conda: dict[str, str]) -> None:
    assert set(listed_for_conda) - set(wanted_by_pyproject()) - CONDA_ONLY == set()


def test_the_comment_says_where_bcc_and_libbpf_come_from() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert "python3-bpfcc" in text and "libbpf1" in text
