"""Every BPF program compiles for both processors, whichever this one is."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from workbench.errors import CompileFailed
from workbench.objects import build, compile, model

BPF = Path(__file__).parents[3] / "bpf"
PROGRAMS = sorted(BPF.glob("*.bpf.c"))
MACHINES = [
    pytest.param(
        machine,
        marks=[] if machine == platform.machine() else pytest.mark.needs("aarch64 programs"),
    )
    for machine in ("x86_64", "aarch64")
]

pytestmark = pytest.mark.needs("clang")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.name.split(".")[0])
def test_programs_compile(source: Path, machine: str, tmp_path: Path) -> None:
    made = compile.compile_file(source, tmp_path / "made.bpf.o", machine=machine)
    obj = model.open(made)
    assert obj.programs or source.name == "userspace.bpf.c"  # that one publishes types only
    assert len(obj.btf.types) > 1


def test_one_refused_program_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = '#include "workbench.h"\nSEC("xdp") int run(void *c) { return 0; }\n'
    for name, text in (("a", "this is no C"), ("b", good), ("c", "neither is this")):
        (tmp_path / f"{name}.bpf.c").write_text(text)
    (tmp_path / "workbench.h").write_bytes((BPF / "workbench.h").read_bytes())
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setattr(build, "INCLUDE", tmp_path / "include")
    with pytest.raises(CompileFailed) as caught:
        build.build()
    assert "a.bpf.c" in caught.value.message and "c.bpf.c" in caught.value.message
    assert build.built_object("b").exists() and not build.built_object("a").exists()
