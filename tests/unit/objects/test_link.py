"""Linking without libbpf: every object of bpf/, and each kind of relocation and map that clang emits."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from core_sources import LOCAL, TARGETS, target_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_sources import CALLS, HEAD, MAPS, PINNED, STRONG, USES_STRONG, VARIABLES, WEAK
from refusals import says_what_is_wrong

from workbench.errors import MissingCapability, WorkbenchError
from workbench.objects import compile, model
from workbench.objects.btf import FUNC, STRUCT, BadBtf, Btf
from workbench.objects.btf_ext import CoreRecord
from workbench.objects.core_patch import POISON_HELPER
from workbench.objects.core_relocation import Resolver
from workbench.objects.elf import BadElf
from workbench.objects.link import link

if TYPE_CHECKING:
    from workbench.objects.model import BpfObject

BPF = Path(__file__).parents[3] / "bpf"
# Schedulers call functions of the kernel, which are not linked for user space.
PROGRAMS = sorted(path for path in BPF.glob("*.bpf.c") if ".struct_ops" not in path.read_text())

pytestmark = pytest.mark.needs("clang")


@pytest.fixture
def build(tmp_path: Path):  # type: ignore[no-untyped-def]
    def make(text: str, name: str = "made") -> BpfObject:
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(text)
        return model.open(compile.compile_file(source, tmp_path / f"{name}.bpf.o"))

    return make


def calls(code: bytes) -> list[tuple[int, int]]:
    """(slot, slot of the target) of every call of a subprogram and address of a callback."""
    found = []
    for slot in range(len(code) // 8):
        opcode, registers, _, imm = struct.unpack_from("<BBhi", code, 8 * slot)
        if (opcode, registers >> 4) in ((0x85, 1), (0x18, 4)):
            found.append((slot, slot + imm + 1))
    return found


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


def test_calls_reach_the_functions_that_follow(build) -> None:  # type: ignore[no-untyped-def]
    obj = build(CALLS)
    linked = link(obj)
    assert list(linked.programs) == ["first", "second"]
    first, second = linked.programs["first"], linked.programs["second"]
    names = [f.name for f in first.functions]
    assert names[0] == "first"
    assert set(names[1:]) == {"shared", "middle", "leaf", "each", "other", "hidden_one"}
    assert {f.name for f in second.functions} == {"second", "shared", "middle", "leaf"}
    for program in (first, second):
        starts = {f.start: f.name for f in program.functions}
        targets = [target for _, target in calls(program.code)]
        assert targets and set(targets) <= set(starts)
        at = 0
        for function in program.functions:
            assert function.start == at
            at += function.count
            assert linked.btf is not None
            one = linked.btf.types[function.type]
            assert (one.kind, one.name) == (FUNC, function.name)
    assert {f.name: f.is_global for f in first.functions} == {
        "first": True, "shared": True, "middle": False, "leaf": False, "each": False, "other": False,
        "hidden_one": False,
    }  # fmt: skip
    called = {(slot, starts_of(first)[target]) for slot, target in calls(first.code)}
    assert [name for _, name in sorted(called) if name in ("each", "other")] == ["each", "other"]


def starts_of(program) -> dict[int, str]:  # type: ignore[no-untyped-def]
    return {f.start: f.name for f in program.functions}


def test_lines_follow_their_functions(build) -> None:  # type: ignore[no-untyped-def]
    program = link(build(CALLS)).programs["first"]
    assert list(program.lines) == sorted(program.lines, key=lambda one: one.instruction)
    for function in program.functions:
        own = [
            one.text
            for one in program.lines
            if function.start <= one.instruction < function.start + function.count
        ]
        if function.name in ("leaf", "middle", "shared", "each"):
            assert own and all(f" {function.name}(" in text for text in own), own
    assert any(one.column > 1 and one.file.endswith("made.bpf.c") for one in program.lines)


def test_a_program_with_a_question_mark_is_linked_when_named(build) -> None:  # type: ignore[no-untyped-def]
    linked = link(build(CALLS), programs=["not_by_default"])
    assert list(linked.programs) == ["not_by_default"]
    assert linked.programs["not_by_default"].type == "raw_tracepoint"
    with pytest.raises(WorkbenchError, match="no program named 'absent'") as caught:
        link(build(CALLS), programs=["absent"])
    assert "second" in caught.value.hint


def test_data_sections_are_maps_with_their_content(build) -> None:  # type: ignore[no-untyped-def]
    linked = link(build(VARIABLES))
    by_name = {m.name: m for m in linked.maps}
    assert {n for n in by_name if ".own" in n} == {".data.own", ".rodata.own", ".bss.own"}
    for name, one in by_name.items():
        assert (one.type, one.key_size, one.max_entries) == (2, 4, 1)
        assert one.read_only == name.startswith(".rodata") == bool(one.flags & 1 << 7)
        assert len(one.initial) == one.value_size
    counter, weights = linked.variables["counter"], linked.variables["weights"]
    assert linked.maps[counter.map].name == ".bss" and linked.maps[weights.map].name == ".data"
    data = linked.maps[weights.map].initial
    assert struct.unpack_from("<4Q", data, weights.offset) == (1, 2, 3, 4)
    assert not any(by_name[".bss"].initial)


def test_constants_are_set_before_the_program_is_verified(build) -> None:  # type: ignore[no-untyped-def]
    obj = build(VARIABLES)
    linked = link(obj, constants={"knob": 77, "flag": True})
    knob, flag = linked.variables["knob"], linked.variables["flag"]
    content = linked.maps[knob.map].initial
    assert struct.unpack_from("<I", content, knob.offset) == (77,)
    assert content[flag.offset] == 1
    for wrong, message in (
        ({"counter": 1}, "no constant named 'counter'"),
        ({"knob": 1 << 40}, "'knob' cannot be 1099511627776"),
        ({"knob": "text"}, "'knob' cannot be 'text'"),
    ):
        with pytest.raises(WorkbenchError, match=message):
            link(obj, constants=wrong)


def test_map_definitions(build) -> None:  # type: ignore[no-untyped-def]
    linked = link(build(MAPS), map_sizes={"table": 99, "ring": 70_000})
    maps = {m.name: m for m in linked.maps}
    table = maps["table"]
    assert (table.type, table.key_size, table.value_size, table.max_entries) == (1, 16, 4, 99)
    assert table.flags == 1
    assert linked.btf is not None and linked.btf.resolve(table.key_type).kind == STRUCT
    assert (maps["sizes"].key_size, maps["sizes"].value_size) == (12, 20)
    assert maps["sizes"].key_type == maps["sizes"].value_type == 0
    assert (maps["ring"].max_entries, maps["user_ring"].max_entries) == (131072, 4096)
    assert (maps["bloom"].extra, maps["bloom"].key_size) == (3, 0)
    outer, by_name, jumps = maps["outer"], maps["by_name"], maps["jumps"]
    assert outer.values == ((0, "two"), (2, "one")) and jumps.values == ((1, "later"),)
    assert outer.inner is not None and outer.inner.max_entries == 4
    assert by_name.inner is not None and by_name.key_size == 8
    assert (by_name.inner.type, by_name.inner.key_size, by_name.inner.value_size) == (1, 4, 2)
    assert (outer.value_size, jumps.key_size, jumps.value_size) == (4, 4, 4)
    pinned = {m.name: m for m in link(build(PINNED)).maps}
    assert pinned["kept"].pinning == 1
    assert pinned["perf"].max_entries > 0
    with pytest.raises(WorkbenchError, match="no map named 'absent'"):
        link(build(MAPS), map_sizes={"absent": 1})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("__uint(max_entries, 1);", "it has no type"),
        ("__uint(type, 1); __uint(key_size, 8); __type(key, __u32);", "key_size is 8"),
        ("__uint(type, 1); __uint(colour, 8);", "unknown attribute 'colour'"),
        ("__uint(type, 1); int max_entries;", "max_entries is no pointer"),
        ("__uint(type, 1); __uint(pinning, 7);", "pinning is 7"),
        ("__uint(type, 12); __uint(value_size, 8);", "value_size is 8"),
        ("__uint(type, 1); __array(values, int (void *));", "only maps of maps"),
    ],
)
def test_wrong_map_definitions(build, attributes: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadElf, match=f"map 'wrong': .*{message}"):
        link(build(HEAD + f'struct {{ {attributes} }} wrong SEC(".maps");'))


def test_weak_kernel_symbols_are_absent(build) -> None:  # type: ignore[no-untyped-def]
    linked = link(build(WEAK))
    program = linked.programs["careful"]
    assert [u.message for u in program.unresolved] == [
        "call of the weak kernel function 'absent_function', which is not here"
    ]
    slot = program.unresolved[0].instruction
    assert struct.unpack_from("<BBhi", program.code, 8 * slot) == (0x85, 0, 0, POISON_HELPER)
    place = linked.variables["CONFIG_NO_SUCH_THING"]
    config = linked.maps[place.map]
    assert (config.name, config.read_only, config.initial) == (".kconfig", True, bytes(4))


@pytest.mark.parametrize("name", STRONG)
def test_strong_kernel_symbols_are_refused_by_name(build, name: str) -> None:  # type: ignore[no-untyped-def]
    obj = build(HEAD + STRONG[name] + USES_STRONG)
    with pytest.raises(MissingCapability, match=f"'needs' needs the kernel .*'{name}'") as caught:
        link(obj)
    assert 'backend="kernel"' in caught.value.hint
    assert list(link(obj, programs=["plain"]).programs) == ["plain"]


def test_what_no_file_defines(build) -> None:  # type: ignore[no-untyped-def]
    obj = build(HEAD + 'int nowhere(int a);\nSEC("xdp") int run(void *c) { return nowhere(3); }')
    with pytest.raises(BadElf, match="'nowhere', which no file defines") as caught:
        link(obj)
    assert "bpftool gen object" in caught.value.hint


def test_a_section_that_names_no_program_type(build) -> None:  # type: ignore[no-untyped-def]
    obj = build(HEAD + 'SEC("uprobes/x") int run(void *c) { return 3; }')
    with pytest.raises(BadElf, match="'uprobes/x' names no program type") as caught:
        link(obj)
    assert "uprobe" in caught.value.hint


def test_an_object_without_debug_information(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    obj = build(CALLS)
    assert obj.elf.section(".BTF") is not None
    # The names of the sections are changed, so that the object has neither types nor lines.
    plain = model.BpfObject(obj.data.replace(b".BTF", b".XXX"), "plain")
    linked = link(plain)
    assert linked.btf is None
    first = linked.programs["first"]
    assert (
        len(first.functions) == 7 and not first.lines and not any(f.type for f in first.functions)
    )
    assert first.code == link(obj).programs["first"].code


def test_objects_for_other_machines(build) -> None:  # type: ignore[no-untyped-def]
    data = build(CALLS).data
    for at, byte, what in ((5, 2, "the other byte order"), (4, 1, "it is for 32 bits")):
        changed = bytearray(data)
        changed[at] = byte
        with pytest.raises(
            BadElf, match=f"not a 64-bit little-endian ELF file: .*{what}"
        ) as caught:
            model.BpfObject(bytes(changed), "other")
        assert "-target bpfel" in caught.value.hint


def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The object cut short, or with bytes changed within one of its sections."""
    data = bytearray(whole)
    if draw(st.integers(0, 9)) == 0:
        return bytes(data[: draw(st.integers(0, len(data)))])
    (table,) = struct.unpack_from("<Q", data, 40)
    sections = [s for s in model.BpfObject(whole, "whole").elf.sections if s.size and s.type != 8]
    section = draw(st.sampled_from(sections))
    (begin,) = struct.unpack_from("<Q", data, table + 64 * section.index + 24)
    for _ in range(draw(st.integers(1, 8))):
        inside = draw(st.booleans()) or draw(st.booleans())
        places = (begin, begin + section.size - 1) if inside else (table, len(data) - 1)
        data[draw(st.integers(*places))] = draw(st.integers(0, 255))
    return bytes(data)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], Btf]:
    folder = tmp_path_factory.mktemp("objects")

    def made(name: str, text: str) -> bytes:
        source = folder / f"{name}.bpf.c"
        source.write_text(text)
        return compile.compile_file(source, folder / f"{name}.o").read_bytes()

    texts = {"calls": CALLS, "variables": VARIABLES, "maps": MAPS, "weak": WEAK, "core": LOCAL}
    whole = [made(name, text) for name, text in texts.items()]
    types = model.BpfObject(made("types", target_source(TARGETS["moved"])), "types").btf
    return [*whole, model.builtin("uprobe").data], types


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_damaged_objects_are_errors(objects: tuple[list[bytes], Btf], data: st.DataObject) -> None:
    wholes, types = objects
    whole = data.draw(st.sampled_from(wholes))
    raw = data.draw(st.composite(lambda draw: damaged(draw, whole))())
    with contextlib.suppress(WorkbenchError), says_what_is_wrong():
        obj = model.BpfObject(raw, "damaged")
        for program in link(
            obj, btf=data.draw(st.sampled_from([obj.btf, types]))
        ).programs.values():
            assert len(program.code) == 8 * sum(f.count for f in program.functions)


@pytest.mark.parametrize("kept", [0, 3, 6, 20, 63, 64, 70, 500])
def test_objects_that_are_cut_short_are_errors(objects: tuple[list[bytes], Btf], kept: int) -> None:
    whole = objects[0][0]
    with pytest.raises(BadElf, match=r"cut\.o") as refused, says_what_is_wrong():
        model.BpfObject(whole[:kept], "cut.o")
    if kept >= 6:
        assert "offset" in refused.value.message


def test_a_damaged_section_is_named(objects: tuple[list[bytes], Btf]) -> None:
    """Cut within the section's own data: what is damaged is its content, not the ELF file."""
    whole = objects[0][0]
    for name, text in ((".BTF", "section .BTF of x.o: type"), (".BTF.ext", "section .BTF.ext of x.o: ")):
        section = model.BpfObject(whole, "x.o").elf.section(name)
        assert section is not None
        raw = bytearray(whole)
        begin = whole.index(section.data)
        raw[begin + 24 : begin + len(section.data)] = b"\xff" * (len(section.data) - 24)
        with pytest.raises(BadBtf, match=text) as refused, says_what_is_wrong():
            link(model.BpfObject(bytes(raw), "x.o"))
        assert "at offset " in refused.value.message


def btf_of(types: list[bytes], names: list[str]) -> bytes:
    """A BTF blob of raw types; the first name is at offset 1 of the strings."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    body = b"".join(types)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    return header + body + strings


def nest(levels: int, width: int) -> bytes:
    """`struct bomb` of anonymous structs of anonymous structs ...: width ** levels members."""
    types = []
    for level in range(levels):
        members = b"".join(struct.pack("<3I", 0, level + 2, 0) for _ in range(width))
        name = 1 if level == 0 else 0
        types.append(struct.pack("<3I", name, 4 << 24 | width, 8) + members)
    types.append(struct.pack("<3II", 6, 1 << 24, 8, 64))
    return btf_of(types, ["bomb", "long", "field"])


def test_types_that_nest_without_end_are_an_error() -> None:
    local = btf_of(
        [
            struct.pack("<3I", 1, 4 << 24 | 1, 8) + struct.pack("<3I", 11, 2, 0),
            struct.pack("<3II", 6, 1 << 24, 8, 64),
        ],
        ["bomb", "long", "field"],
    )
    resolver = Resolver(Btf(local), Btf(nest(40, 8)))
    with pytest.raises(BadBtf, match="nest too deeply"):
        resolver.resolve(CoreRecord(0, 1, "0:0", 0))
