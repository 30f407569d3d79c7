"""Arrays in memory, stack traces, task storage, maps of maps, program arrays."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from workbench.native.library import CORE
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Map, Space, current_run
from workbench.runtime.maps.core import MapError
from workbench.runtime.maps.kinds import BloomFilter, StackTraces, TaskStorage
from workbench.runtime.maps.nested import MapOfMaps, ProgramArray

core = ctypes.CDLL(str(CORE))  # function objects of our own
core.wb_stack_id.restype = ctypes.c_int64
core.wb_storage_get.restype = ctypes.c_void_p
core.wb_storage_delete.restype = ctypes.c_int64
core.wb_program_at.restype = ctypes.c_void_p


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def test_an_array_lies_on_pages(space: Space) -> None:
    made = space.create(LinkedMap("a", 2, 4, 12, 5, 1 << 10))
    assert int(made.struct.values) % mmap.PAGESIZE == 0
    assert int(made.struct.stride) == 16
    view = made.view(writable=True)
    view.view("V12")[3] = b"x" * 12
    assert bytes(made.lookup(u32(3))) == b"x" * 12
    made.update(u32(4), b"y" * 12)
    assert bytes(view[4]) == b"y" * 12
    with made.path.open("rb") as file:
        offset = int(made.struct.values) - int(made.struct.segment)
        file.seek(offset + 4 * 16)
        assert file.read(12) == b"y" * 12


def test_per_cpu_slots_share_no_cache_line(space: Space) -> None:
    made = space.create(LinkedMap("p", 6, 4, 8, 3))
    assert int(made.struct.cpu_stride) % 64 == 0
    assert int(made.struct.cpu_stride) >= 3 * int(made.struct.stride)
    slots: list[int] = []
    together = threading.Barrier(3)

    def count() -> None:
        slot = ctypes.c_uint32.from_address(current_run(space) + 52)
        slots.append(slot.value)
        together.wait(60)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(slots)) == 3, "a thread keeps its slot, and has it alone"


stacks = st.lists(st.integers(1, 3), min_size=1, max_size=6)


@seed(5)
@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("id", "id", "id", "erase")), stacks, st.sampled_from((0, 0, 512, 1024))),
        max_size=60,
    )
)
def test_stack_ids_follow_a_model(turns: list[tuple[str, list[int], int]]) -> None:
    with Space() as space:
        made = space.create(LinkedMap("s", 7, 4, 40, 5))
        assert isinstance(made, StackTraces)
        run = ctypes.c_void_p(current_run(space))
        held: dict[int, list[int]] = {}
        for what, stack, flags in turns:
            if what == "erase":
                number = stack[0]
                if number in held:
                    del made[u32(number)]
                    del held[number]
                else:
                    with pytest.raises(KeyError):
                        del made[u32(number)]
                continue
            addresses = (ctypes.c_uint64 * len(stack))(*stack)
            got = core.wb_stack_id(
                run, ctypes.c_void_p(made.handle), addresses, len(stack), ctypes.c_uint64(flags)
            )
            if got == -17:
                assert not flags & 1024
                assert stack[:5] not in held.values()
                continue
            assert 0 <= got < 8
            if got in held and held[got] != stack[:5]:
                assert flags & 1024 or flags & 512
            if not (flags & 512 and got in held and held[got] != stack[:5]):
                held[got] = stack[:5]
            assert made.stack(got).tolist() == held[got]
        assert {int.from_bytes(k, "little") for k in made} == set(held)


def storage_get(made: Map, initial: bytes | None, flags: int) -> int | None:
    found: int | None = core.wb_storage_get(
        ctypes.c_void_p(current_run(made.space)), ctypes.c_void_p(made.handle), initial, ctypes.c_uint64(flags)
    )
    return found


def test_task_storage_belongs_to_a_thread(space: Space) -> None:
    made = space.create(LinkedMap("t", 29, 4, 8, 0, 1))
    assert isinstance(made, TaskStorage)
    assert storage_get(made, None, 0) is None
    mine = storage_get(made, struct.pack("<Q", 5), 1)
    assert mine and ctypes.c_uint64.from_address(mine).value == 5
    assert storage_get(made, None, 1) == storage_get(made, None, 0) == mine
    assert storage_get(made, None, 2) is None
    own = u32(threading.get_native_id())
    assert bytes(made.lookup(own)) == struct.pack("<Q", 5)
    seen: dict[str, object] = {}

    def other() -> None:
        seen["before"] = storage_get(made, None, 0)
        theirs = storage_get(made, None, 1)
        assert theirs
        ctypes.c_uint64.from_address(theirs).value = 7
        seen["tid"] = threading.get_native_id()
        seen["table"] = sorted(int.from_bytes(v, "little") for v in made.table()[1])

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen["before"] is None
    assert seen["table"] == [5, 7]
    made.update(own, struct.pack("<Q", 6))
    with pytest.raises(MapError, match="EEXIST"):
        made.update(own, bytes(8), 1)
    assert [int.from_bytes(v, "little") for v in made.table()[1]] == [6], "gone with its thread"
    run = ctypes.c_void_p(current_run(space))
    assert core.wb_storage_delete(run, ctypes.c_void_p(made.handle)) == 0
    assert core.wb_storage_delete(run, ctypes.c_void_p(made.handle)) == -2
    with pytest.raises(KeyError):
        made.lookup(own)
    with pytest.raises(MapError, match="ESRCH"):
        made.lookup(u32(0x7FFFFFFF))


def test_task_storage_of_a_killed_process_is_gone(space: Space) -> None:
    made = space.create(LinkedMap("t", 29, 4, 8, 0, 1))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            storage_get(made, struct.pack("<Q", 9), 1)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"x"
    assert [bytes(k) for k in made.table()[0]] == [u32(child)]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(made) == 0
    os.close(reading)
    os.close(writing)


def test_maps_in_maps_across_processes(space: Space) -> None:
    inner_shape = LinkedMap("inner", 2, 4, 8, 2)
    for kind in (12, 13):
        outer = space.create(LinkedMap(f"outer{kind}", kind, 4, 4, 4, inner=inner_shape))
        assert isinstance(outer, MapOfMaps)
        inner = space.create(inner_shape, name=f"inner{kind}")
        wrong = space.create(LinkedMap("wrong", 2, 4, 16, 2), name=f"wrong{kind}")
        with pytest.raises(MapError, match="EINVAL"):
            outer[u32(1)] = wrong
        outer[u32(1)] = inner
        assert outer[u32(1)] is inner
        with pytest.raises(KeyError):
            outer[u32(2)]
        child = os.fork()
        if child == 0:  # as another process would: nothing is open yet
            ok = False
            try:
                with Space(space.name) as same:
                    opened = same.open(f"outer{kind}")
                    assert isinstance(opened, MapOfMaps)
                    assert opened.resolve() == 0
                    opened[u32(1)].update(u32(0), struct.pack("<Q", 77))
                    ok = True
            finally:
                os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert bytes(inner.lookup(u32(0))) == struct.pack("<Q", 77)
        del outer[u32(1)]
        assert len(outer) == 0


class Program(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p), ("maps", ctypes.c_void_p), ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32), ("budget", ctypes.c_uint64),
    )  # fmt: skip


def test_program_array(space: Space) -> None:
    made = space.create(LinkedMap("programs", 3, 4, 4, 3))
    assert isinstance(made, ProgramArray)
    programs = [Program(id=number) for number in range(1, 600)]

    def at(index: int) -> int | None:
        found: int | None = core.wb_program_at(
            ctypes.c_void_p(current_run(space)), ctypes.c_void_p(made.handle), ctypes.c_uint32(index)
        )
        return found

    with pytest.raises(MapError, match="EBADF"):
        made[u32(0)] = 5
    for one in programs:
        made.offer(one.id, ctypes.addressof(one), one)
    made[u32(2)] = 5
    table = (ctypes.c_void_p * 3).from_address(int(made.struct.local))
    assert at(2) == table[2] == ctypes.addressof(programs[4])
    assert at(0) is None and at(3) is None and table[0] is None
    # Another process stores an id in the shared part.
    ctypes.c_uint32.from_address(int(made.struct.values) + 4).value = 599
    assert table[1] is None
    assert made.refresh() == 0
    assert table[1] == at(1) == ctypes.addressof(programs[598])
    ctypes.c_uint32.from_address(int(made.struct.values) + 4).value = 1000
    assert at(1) is None
    assert made.refresh() == 1
    assert made.ids() == {u32(1): 1000, u32(2): 5} or made[u32(2)] == 5
    del made[u32(2)]
    assert at(2) is None and table[2] is None


def test_bloom_filter_in_python(space: Space) -> None:
    made = space.create(LinkedMap("b", 30, 0, 8, 100))
    assert isinstance(made, BloomFilter)
    made.push(17)
    assert struct.pack("<Q", 17) in made
    with pytest.raises(TypeError):
        len(made)


def test_damaged_segments_are_refused_or_bounded(tmp_path: object) -> None:
    """Every word of the headers replaced: opening refuses it, or every operation stays inside (run under sanitizers
    as well, in tests/unit/native)."""
    from hostile_maps import exercise

    assert np.sum(exercise(seeds=2)) >= 0
