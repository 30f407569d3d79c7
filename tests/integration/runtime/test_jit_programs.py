"""The benchmark's programs: our code in both tiers, the interpreter and clang's native code give the same."""

from __future__ import annotations

import ctypes

import pytest

from workbench.bench import jit as bench
from workbench.objects import model
from workbench.objects.compile import compile_file
from workbench.objects.link import link
from workbench.runtime.interpreter import Interpreter
from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.maps import Space

SOURCES = sorted(bench.PROGRAMS.glob("*.bpf.c"))
pytestmark = pytest.mark.needs("clang")


@pytest.fixture(autouse=True)
def own_namespaces(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(tmp_path / "namespaces"))
    monkeypatch.setattr(bench, "verify", lambda *_, **__: None)  # its own tests' concern


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name.split(".")[0])
def test_every_side_gives_the_same(source, tmp_path):
    """`contests` compares native code and ours; here the interpreter joins where memory is all it needs."""
    kept: list[object] = []
    with Space(None) as space:
        found = bench.contests(source, tmp_path, space, kept)
        assert found
        obj = link(model.open(compile_file(source)))
        assert {one.name for one in found} == set(obj.programs)
        for one in found:
            assert set(one.sides) == {label for label, _, _ in bench.SIDES} | {
                bench.NATIVE,
                bench.TUNED,
            }
        cheap = min(obj.programs, key=lambda name: len(obj.programs[name].code))
        contest = next(one for one in found if one.name == cheap)
        _, native = contest.sample(contest.sides[bench.NATIVE])
        if source.name != "maps.bpf.c":
            assert _interpreted(obj, cheap) == native
        for one in kept:
            if isinstance(one, bench.Program):
                one.close()


def _interpreted(obj, name):
    maps = [ReferenceMap(shape) for shape in obj.maps]
    variable = obj.variables["input"]
    start, length = maps[variable.map].values()
    data = bench.content()
    assert variable.offset + len(data) <= length
    ctypes.memmove(start + variable.offset, data, len(data))
    machine = Interpreter(obj.programs[name], maps=maps, helpers=REFERENCE_HELPERS)
    return machine.run([0]).r0
