"""Linked programs are, instruction by instruction, what libbpf makes of the same object and the same types."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from core_sources import DIRECT, LOCAL, TARGETS, target_source
from libbpf_oracle import Oracle, run
from link_sources import CALLS, MAPS, VARIABLES

from workbench.errors import WorkbenchError
from workbench.objects import compile, model
from workbench.objects.btf import Btf
from workbench.objects.btf_ext import BtfExt
from workbench.objects.link import link
from workbench.objects.linked import LinkedObject

BPF = Path(__file__).parents[3] / "bpf"
# Schedulers call functions of the kernel, which are not linked for user space.
PROGRAMS = sorted(path for path in BPF.glob("*.bpf.c") if ".struct_ops" not in path.read_text())

pytestmark = pytest.mark.needs("clang", "perf_event BPF")


def build(folder: Path, name: str, text: str) -> Path:
    source = folder / f"{name}.bpf.c"
    source.write_text(text)
    return compile.compile_file(source, folder / f"{name}.o")


def normal(code: bytes) -> list[tuple[bytes, int | None]]:
    """Instructions, and for an address in a map the number that stands for the map."""
    made: list[tuple[bytes, int | None]] = []
    at = 0
    while at < len(code):
        one = bytearray(code[at : at + 8])
        kind = one[1] >> 4
        if one[0] == 0x18 and kind in (1, 2, 5, 6):
            one[1] = one[1] & 15 | (5 if kind in (1, 5) else 6) << 4
            made.append((bytes(one[:4]), struct.unpack_from("<I", one, 4)[0]))
        else:
            made.append((bytes(one), None))
        if one[0] == 0x18:
            made.append((code[at + 8 : at + 16], None))
            at += 8
        at += 8
    return made


def assert_equal(linked: LinkedObject, oracle: Oracle) -> None:
    number_of: dict[int, int] = {}  # libbpf's descriptor -> our index
    assert oracle.code
    for name, program in linked.programs.items():
        theirs, ours = normal(oracle.code[name]), normal(program.code)
        assert [i for i, _ in ours] == [i for i, _ in theirs], name
        for (_, index), (_, fd) in zip(ours, theirs, strict=True):
            if index is not None and fd is not None:
                assert number_of.setdefault(fd, index) == index
    assert len(set(number_of.values())) == len(number_of)
    if oracle.status == 0:
        for fd, index in number_of.items():
            theirs_name = oracle.maps[oracle.descriptors.index(fd)].name
            assert theirs_name.removeprefix("oracle") == linked.maps[index].name
    mine = [
        (m.name, m.type, m.key_size, m.value_size, m.max_entries, m.flags, m.extra)
        for m in linked.maps
    ]
    theirs_maps = [
        (
            m.name.removeprefix("oracle"),
            m.type,
            m.key_size,
            m.value_size,
            m.max_entries,
            m.flags,
            m.extra,
        )
        for m in oracle.maps
    ]
    assert mine == theirs_maps


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.name.split(".")[0])
def test_programs_of_the_project(source: Path, tmp_path: Path) -> None:
    made = compile.compile_file(source, tmp_path / "made.bpf.o")
    linked = link(model.open(made))
    if linked.programs:
        assert_equal(linked, run(made))


@pytest.mark.parametrize("text", [CALLS, VARIABLES, MAPS], ids=["calls", "variables", "maps"])
def test_calls_variables_and_maps(text: str, tmp_path: Path) -> None:
    made = build(tmp_path, "made", text)
    linked = link(model.open(made))
    oracle = run(made)
    assert_equal(linked, oracle)
    assert oracle.status == 0, oracle.log


@pytest.mark.parametrize("target", ["same", "moved", "strange"])
def test_every_kind_of_relocation(target: str, tmp_path: Path) -> None:
    made = build(tmp_path, "local", LOCAL)
    types = build(tmp_path, "types", target_source(TARGETS[target]))
    obj = model.open(made)
    ext = obj.elf.section(".BTF.ext")
    assert ext is not None
    records = BtfExt.parse(ext.data, obj.btf).relocations.values()
    assert {one.kind for records in records for one in records} == set(range(13))
    linked = link(obj, btf=model.open(types).btf)
    oracle = run(made, types)
    assert_equal(linked, oracle)
    assert any(p.unresolved for p in linked.programs.values()) == (target != "same")


@pytest.mark.parametrize("target", ["same", "moved", "resized", "signed", "ambiguous"])
def test_loads_and_stores(target: str, tmp_path: Path) -> None:
    made = build(tmp_path, "direct", DIRECT)
    types = build(tmp_path, "types", target_source(TARGETS[target]))
    oracle = run(made, types)
    if target == "ambiguous":
        with pytest.raises(WorkbenchError, match=r"struct thing\.moved is"):
            link(model.open(made), btf=model.open(types).btf)
        assert "ambiguity" in oracle.log
        return
    linked = link(model.open(made), btf=model.open(types).btf)
    assert_equal(linked, oracle)
    messages = [u.message for u in linked.programs["loads"].unresolved]
    assert bool(messages) == (target == "signed")
    assert all("bytes in the target" in m for m in messages)


def test_types_of_the_running_kernel(tmp_path: Path) -> None:
    made = build(tmp_path, "local", LOCAL)
    kernel = Path("/sys/kernel/btf/vmlinux")
    assert_equal(link(model.open(made), btf=Btf(kernel.read_bytes())), run(made))
