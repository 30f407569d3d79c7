"""Defects of semantics that a well-known user-space runtime has or had: each is a test here.

Those that need the kernel beside them (results of probe_read_str, get_current_comm, get_current_uid_gid) are compared
with it in tests/integration/runtime/helpers; those of maps and of attaching are tested in these rooms.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import StandaloneRun, call
from workbench.runtime.maps import Space, current_run


def test_uid_and_gid_are_two_numbers() -> None:
    """Given were twice the group."""
    code = """
import os
from workbench.runtime.helpers.native import StandaloneRun, core
core()
if os.getuid() == 0:
    os.setgid(1234)
    os.setuid(4321)
print(StandaloneRun().call("get_current_uid_gid") == os.getgid() << 32 | os.getuid())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "True\n", done.stderr


def test_comm_is_the_threads_now() -> None:
    """Given was the name of the executable, asked once."""
    names = []

    def work(name: str) -> None:
        run, to = StandaloneRun(), ctypes.create_string_buffer(16)
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        for one in (name, name[::-1]):
            comm.write_text(one)
            run.call("get_current_comm", ctypes.addressof(to), 16)
            names.append(to.value.decode())

    for name in ("first", "second"):
        thread = threading.Thread(target=work, args=(name,))
        thread.start()
        thread.join()
    assert names == ["first", "tsrif", "second", "dnoces"]


def test_random_numbers_have_32_bits_and_differ_between_threads() -> None:
    """Given were 31 bits of rand()."""
    values = [StandaloneRun().call("get_prandom_u32") for _ in range(64)]
    run = StandaloneRun()
    values += [run.call("get_prandom_u32") for _ in range(4096)]
    assert all(0 <= value < 1 << 32 for value in values)
    assert len(set(values)) > len(values) - 8  # 4160 of 2**32: a repetition or two is possible
    for bit in range(32):
        ones = sum(value >> bit & 1 for value in values)
        assert 1700 < ones < 2460, bit  # 2080 expected, 12 standard deviations of 32


def test_perf_output_leaves_the_threads_processors_alone() -> None:
    """Three system calls pinned and unpinned the thread for each event."""
    with Space() as space:
        events = space.create(LinkedMap("events", 4, 4, 4, os.cpu_count() or 1))
        before = os.sched_getaffinity(0)
        data = ctypes.create_string_buffer(40)
        for _ in range(100):
            call(
                "perf_event_output", current_run(space), 0, events.handle, 0xFFFFFFFF, ctypes.addressof(data), 40
            )  # fmt: skip
            assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("kind", [1, 9], ids=["hash", "lru_hash"])
def test_deleting_a_key_hides_no_other(kind: int) -> None:
    """A deleted key's bucket was marked empty, which cut the chain of colliding keys."""
    with Space() as space:
        numbers = space.create(LinkedMap("numbers", kind, 4, 8, 4096))
        run = current_run(space)
        key, value = ctypes.c_uint32(), ctypes.c_uint64()
        where = ctypes.addressof(key)
        for key.value in range(2000):
            value.value = key.value
            assert (
                call("map_update_elem", run, numbers.handle, where, ctypes.addressof(value), 0) == 0
            )
        for key.value in range(0, 2000, 3):
            assert call("map_delete_elem", run, numbers.handle, where) == 0
        for key.value in range(2000):
            found = call("map_lookup_elem", run, numbers.handle, where)
            assert bool(found) == bool(key.value % 3)
            if found:
                assert found % 8 == 0  # atomics on a value never straddle two cache lines
                assert ctypes.c_uint64.from_address(found).value == key.value


def test_a_tail_call_gives_the_loaded_code_and_counts() -> None:
    """The target was compiled anew for each call, which then returned."""
    from workbench.runtime.helpers.native import CProgram, CRun
    from workbench.runtime.maps.core import CMap

    target = CProgram(entry=0x1234560, maps=0x77, budget=1, id=5)
    # `local` lies behind what was offered: a table, and its lock.
    programs = (ctypes.c_uint64 * 5)(0, 0, 0, ctypes.addressof(target), 0)
    numbers = (ctypes.c_uint32 * 3)(0, 5, 0)
    array = CMap(
        type=3,
        max_entries=3,
        local=ctypes.addressof(programs) + 16,
        values=ctypes.addressof(numbers),
    )
    run = StandaloneRun()
    for done in range(33):
        assert run.call("tail_call", 0, ctypes.addressof(array), 1) == 0x1234560
        now = CRun.from_address(run.address)
        assert (now.tail_calls, now.maps) == (done + 1, 0x77)
    assert (
        run.call("tail_call", 0, ctypes.addressof(array), 1) == 0
    )  # after 33 of them, as in the kernel
    run.struct.tail_calls = 0
    for missing in (0, 2, 3, 2**32 - 1):
        assert run.call("tail_call", 0, ctypes.addressof(array), missing) == 0
