"""BTF and ELF of BPF objects: exact layouts, and no crash on damaged files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import says_what_is_wrong

from workbench.errors import CompileFailed, MissingFrame, WorkbenchError
from workbench.objects.btf import STRUCT, Btf
from workbench.objects.model import BpfObject, builtin, compile, open

pytestmark = pytest.mark.needs("clang")

SOURCE = """
#include "workbench.h"
enum colour { RED = -1, BLUE = 7 };
struct inner { __u8 a; __u32 b[3]; };
struct record {
	__u64 time;
	char comm[16];
	struct inner in;
	union { __u16 low; __u64 wide; };
	_Bool yes;
	enum colour colour;
	const volatile __s32 *pointer;
	__s16 grid[2][3];
	__u32 bit : 3;
};
RING(events);
PUBLISH(events, record);
const volatile __u32 knob = 5;
__u64 counter;
int weights[4] = {1, 2, 3, 4};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 12);
	__type(key, __u32);
	__type(value, struct inner);
} table SEC(".maps");
SEC("tracepoint/x/y") int first(void *c) { return counter + knob; }
SEC("perf_event") int second(void *c) { return weights[1]; }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    source = tmp_path_factory.mktemp("bpf") / "layout.bpf.c"
    source.write_text(SOURCE)
    return compile(source, output=source.with_suffix(".o"))


def test_record_layout_is_that_of_the_c_struct(obj: BpfObject) -> None:
    dtype = obj.record_dtype("events")
    assert dtype.itemsize == 80
    offsets = {name: field[1] for name, field in dtype.fields.items()}
    assert offsets == {
        "time": 0, "comm": 8, "in": 24, "low": 40, "wide": 40, "yes": 48, "colour": 52, "pointer": 56, "grid": 64,
    }  # fmt: skip
    assert dtype["comm"] == np.dtype("S16")
    assert dtype["colour"] == np.dtype("i4")
    assert dtype["in"]["b"].shape == (3,)
    assert dtype["grid"].shape == (2, 3)


def test_object_lists_programs_maps_and_lines(obj: BpfObject) -> None:
    assert [(p.name, p.section) for p in obj.programs] == [
        ("first", "tracepoint/x/y"),
        ("second", "perf_event"),
    ]
    assert obj.license == "Dual MIT/GPL"
    assert obj.maps["table"].attributes == {"type": 1, "max_entries": 12}
    assert obj.btf.dtype(obj.maps["table"].value_type).itemsize == 16
    lines = [line for line in obj.lines if line.section == "tracepoint/x/y"]
    assert any("return counter + knob" in line.text for line in lines)
    assert set(obj.globals(".rodata")) >= {"knob", "wake_bytes"}
    assert set(obj.globals(".data")) == {"weights"}


def test_unpublished_ring_says_what_is_published(obj: BpfObject) -> None:
    with pytest.raises(MissingFrame, match="no record layout for ring 'other'") as caught:
        obj.record_dtype("other")
    assert "events" in caught.value.hint


def test_kernel_btf_agrees_with_uapi() -> None:
    kernel = Path("/sys/kernel/btf/vmlinux")
    if not kernel.exists():
        pytest.fail("this machine has no kernel BTF, which every collector needs")
    btf = Btf(kernel.read_bytes())
    attr = btf.find(STRUCT, "perf_event_attr")
    assert attr is not None and attr.size >= 128
    offsets = {m.name: m.offset // 8 for m in attr.members}
    assert (offsets["config"], offsets["sample_type"], offsets["sig_data"]) == (8, 24, 120)


def test_compile_error_shows_the_diagnostic(tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text('#include "workbench.h"\nint broken(void) { return nothing; }\n')
    with pytest.raises(CompileFailed, match="undeclared identifier 'nothing'"):
        compile(source, output=tmp_path / "bad.o")
    assert not list(tmp_path.glob("*.o"))


def test_not_an_object(tmp_path: Path) -> None:
    path = tmp_path / "x.bpf.o"
    path.write_bytes(b"hello")
    with pytest.raises(WorkbenchError, match="not a 64-bit little-endian ELF"):
        open(path)
    with pytest.raises(WorkbenchError, match="cannot read"):
        open(tmp_path / "absent.o")


def _use(data: bytes) -> None:
    obj = BpfObject(data, "damaged")
    _ = (obj.programs, obj.maps, obj.lines, obj.license)
    for section in (".rodata", ".data", ".bss"):
        for _, number in obj.globals(section).values():
            obj.btf.dtype(number)
    obj.record_dtype("samples")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_objects_never_crash(data: st.DataObject) -> None:
    whole = bytearray(builtin("cpu").data)
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    for _ in range(data.draw(st.integers(1, 8))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WorkbenchError), says_what_is_wrong():
        _use(bytes(whole))
