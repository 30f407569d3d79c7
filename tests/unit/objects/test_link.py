"""Linking without libbpf: every object of bpf/, and each kind of relocation that clang emits."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.objects import compile, model
from workbench.objects.link import link

BPF = Path(__file__).parents[3] / "bpf"
PROGRAMS = sorted(BPF.glob("*.bpf.c"))

pytestmark = pytest.mark.needs("clang")


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.name.split(".")[0])
def test_every_object_of_the_project_links(source: Path, tmp_path: Path) -> None:
    obj = model.open(compile.compile_file(source, tmp_path / "made.bpf.o"))
    linked = link(obj, btf=obj.btf)
    assert list(linked.programs) == [p.name for p in obj.programs]
    assert set(obj.maps) <= {m.name for m in linked.maps}
    for program in linked.programs.values():
        assert not program.unresolved
        assert program.functions[0].name == program.name
        assert sum(f.count for f in program.functions) * 8 == len(program.code)
        assert all(line.text for line in program.lines)
