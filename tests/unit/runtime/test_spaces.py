"""Namespaces: participants and their deaths, per-CPU slots, names, folders, leaks, limits."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import BadSpec, MissingCapability, NotPermitted
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Map, Space, collect, current_run, spaces
from workbench.runtime.maps.core import MapError, core
from workbench.runtime.maps.layout import from_json, to_json

HASH, ARRAY, PERCPU_ARRAY = 1, 2, 6
DIED = 0x40000000


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Namespaces of these tests only, on the same file system as those of users."""
    folder = tmp_path_factory.mktemp("namespaces")
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(folder))
    return folder


@pytest.fixture
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def lines(space: Space) -> np.ndarray:  # type: ignore[type-arg]
    """Participants: columns 2, 3, 4 are lock word, pid, tid."""
    raw = bytes(space._memory)[12288 : 12288 + 64 * 64]
    return np.frombuffer(raw, "u4").reshape(64, 16)


def of_pid(space: Space, pid: int) -> list[int]:
    """Lock words of the lines that the process has or had."""
    table = lines(space)
    return [int(lock) for lock in table[table[:, 3] == pid][:, 2]]


class Child:
    """A process that joins, tells so and waits until it is killed or told to end."""

    def __init__(self, space: Space) -> None:
        ready, told = os.pipe()
        self.held, self._end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                current_run(space)
                os.write(told, b"1")
                os.close(self._end)
                os.read(self.held, 1)
            finally:
                os._exit(0)
        os.close(told)
        assert os.read(ready, 1) == b"1"
        os.close(ready)

    def close(self) -> None:
        os.close(self._end)
        os.close(self.held)


@pytest.mark.parametrize("how", ["killed", "exit"])
def test_a_dead_process_is_marked_by_the_kernel_while_it_is_a_zombie(
    space: Space, how: str
) -> None:
    child = Child(space)
    assert of_pid(space, child.pid) == [child.pid]
    if how == "killed":
        os.kill(child.pid, signal.SIGKILL)
    child.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and stays a zombie
    assert of_pid(space, child.pid)[0] & DIED
    os.waitpid(child.pid, 0)


def test_a_number_is_used_again_with_another_generation(space: Space) -> None:
    seen = set()
    for _ in range(3):
        child = Child(space)
        table = lines(space)
        (number,) = np.flatnonzero(table[:, 2] == child.pid)
        seen.add((int(number), int(table[number, 6])))
        os.kill(child.pid, signal.SIGKILL)
        child.close()
        os.waitpid(child.pid, 0)
    assert len({number for number, _ in seen}) == 1
    assert len(seen) == 3


def test_threads_join_and_leave(space: Space) -> None:
    made = space.create(LinkedMap("a", ARRAY, 4, 8, 4))
    alive: list[int] = []

    def work() -> None:
        made.update(u32(1), b"12345678")
        alive.append(int((lines(space)[:, 2] != 0).sum()))

    work()
    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert max(alive) <= 3  # numbers of threads that ended are free


def test_other_robust_mutexes_of_the_thread_keep_working(space: Space) -> None:
    """Our element stands in the C library's list: its own ones before and behind it are locked and unlocked."""
    script = r"""
import ctypes, os, sys
from workbench.runtime.maps import Space, current_run
from workbench.runtime.maps.participants import leave
libc = ctypes.CDLL(None)
attribute = ctypes.create_string_buffer(64)
libc.pthread_mutexattr_init(attribute)
assert libc.pthread_mutexattr_setrobust(attribute, 1) == 0
mutexes = [ctypes.create_string_buffer(128) for _ in range(4)]
for mutex in mutexes:
    assert libc.pthread_mutex_init(mutex, attribute) == 0
with Space() as space, Space() as other:
    for turn in range(50):
        libc.pthread_mutex_lock(mutexes[0])
        current_run(space)
        libc.pthread_mutex_lock(mutexes[1])
        current_run(other)
        libc.pthread_mutex_lock(mutexes[2])
        assert libc.pthread_mutex_unlock(mutexes[turn % 3]) == 0
        if turn % 2:
            leave(space), leave(other)
        for i in range(3):
            if i != turn % 3:
                assert libc.pthread_mutex_unlock(mutexes[i]) == 0
        leave(other), leave(space)
    libc.pthread_mutex_lock(mutexes[3])
    current_run(space)
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call")
def test_a_thread_without_a_list_of_its_c_library(space: Space) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            assert ctypes.CDLL(None).syscall(273, None, ctypes.c_size_t(24)) == 0  # set_robust_list
            current_run(space)
            os.write(told, b"1")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"1"
    assert of_pid(space, pid) == [pid]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert of_pid(space, pid)[0] & DIED
    os.close(ready)
    os.close(told)


DENY_MEMBARRIER = """
import ctypes, errno, os, platform, struct
from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space, current_run
from workbench.runtime.maps.core import MapError

numbers = {"x86_64": 324, "aarch64": 283}
program = struct.pack("<HBBI", 0x20, 0, 0, 0)  # the number of the system call
program += struct.pack("<HBBI", 0x15, 0, 1, numbers[platform.machine()])
program += struct.pack("<HBBI", 0x06, 0, 0, 0x50000 | errno.EPERM) + struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def deny():
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.prctl(38, 1, 0, 0, 0)
    assert not libc.prctl(22, 2, ctypes.byref(Filter(4, program)), 0, 0), os.strerror(ctypes.get_errno())


with Space() as space:
    early = os.environ.get("EARLY")
    if early:
        deny()
    try:
        current_run(space)
        print("joined")
    except MapError as error:
        print(error.errno == errno.ENOSYS, "seccomp" in error.hint)
    if not early:
        made = space.create(LinkedMap("h", 1, 8, 8, 4))
        if not (other := os.fork()):
            made.update(bytes(8), bytes(8))
            os.kill(os.getpid(), 19)  # stays, a participant
        os.waitpid(other, os.WUNTRACED)
        deny()
        for turn in range(3000):  # more than there are slots that never were used
            made.update(bytes(8), struct.pack("<Q", turn))
        print(struct.unpack("<Q", made[bytes(8)])[0])
        os.kill(other, 9)
"""


def test_a_process_that_may_not_call_membarrier() -> None:
    """Is refused when it joins; one that is denied it later goes on, and uses no slot again."""
    command = [sys.executable, "-c", DENY_MEMBARRIER]
    for early, expected in (("1", "True True"), ("", "joined\n2999")):
        said = subprocess.run(
            command, env={**os.environ, "EARLY": early}, capture_output=True, text=True, timeout=100
        )
        assert said.stdout.strip() == expected, said.stderr


def test_a_forked_child_is_another_participant(space: Space) -> None:
    mine = current_run(space)
    assert ctypes.c_void_p.from_address(mine + 24).value
    pid = os.fork()
    if pid == 0:
        try:
            wiped = ctypes.c_void_p.from_address(mine + 24).value is None
            os._exit(0 if wiped and current_run(space) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert of_pid(space, os.getpid()) == [os.getpid()]


def test_more_threads_than_slots_lose_no_count(space: Space) -> None:
    """Every thread leases a slot while there are some; the others claim one for each program."""
    made = space.create(LinkedMap("p", PERCPU_ARRAY, 4, 8, 1))
    drive = core().wb_map_drive
    drive.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *(ctypes.c_uint64,) * 4)
    each, count = 20_000, made.cpus + 8
    barrier = threading.Barrier(count)

    def work() -> None:
        run = current_run(space)
        barrier.wait(60)
        drive(run, made.handle, 5, 0, 1, each, 1)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(made[u32(0)].view("u8").sum()) == count * each


# --- names and folders ----------------------------------------------------------------------------------------------


def test_another_process_opens_a_map_by_name_with_its_types() -> None:
    kind = np.dtype([("count", "u4"), ("name", "S4")])
    with Space("shared") as space:
        made = space.create(LinkedMap("by.name/odd", HASH, 4, 8, 10))
        path = made.path.with_suffix(".json")
        about = path.read_text().replace('"|V8"', json.dumps(to_json(kind)))
        path.write_text(about.replace('"|V4"', '"<u4"'))
        script = (
            "from workbench.runtime.maps import Space\n"
            "with Space('shared') as space:\n"
            "    made = space.open('by.name/odd')\n"
            "    made[7] = (3, b'abc')\n"
            "    print(space.names(), made[7]['count'])\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout == "['by.name/odd'] 3\n"
        space.maps.clear()
        again = space.open("by.name/odd")
        assert again[7]["name"] == b"abc"
        assert again.table()[0].tolist() == [7]
        with pytest.raises(KeyError, match=r"has \['by.name/odd'\]"):
            space.open("other")
        space.remove()
    assert spaces() == []


def test_pinned_maps_are_shared_and_others_are_not(space: Space) -> None:
    pinned = LinkedMap("p", HASH, 4, 8, 10, pinning=1)
    one = space.create(pinned)
    one[u32(1)] = b"12345678"
    assert space.create(pinned)[u32(1)] == b"12345678"
    with pytest.raises(MapError, match="is another"):
        space.create(LinkedMap("p", HASH, 4, 16, 10, pinning=1))
    plain = LinkedMap("q", HASH, 4, 8, 10)
    space.create(plain)[u32(1)] = b"12345678"
    assert len(space.create(plain)) == 0


def test_layouts_survive_json() -> None:
    dtype = np.dtype(
        {
            "names": ["a", "b", "c"],
            "formats": ["u1", ("<u4", (2, 3)), np.dtype([("x", "S5")])],
            "offsets": [0, 8, 40],
            "itemsize": 64,
        }
    )
    assert from_json(to_json(dtype)) == dtype
    for bad in ("O", {"names": []}, {"of": "u4"}, 5, [], {"of": "u4", "shape": [-1]}, "u3", None):
        with pytest.raises(ValueError, match=r"layout|shape|dimension|negative"):
            from_json(bad)


def test_only_the_user_can_look_in(own_folder: Path) -> None:
    with Space("private") as space:
        made = space.create(LinkedMap("a", ARRAY, 4, 8, 4))
        assert stat.S_IMODE(space.path.stat().st_mode) == 0o700
        for file in (made.path, space.path / "participants"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for bad in ("", "a/b", "..", "x" * 65, "a b"):
        with pytest.raises(BadSpec):
            Space(bad)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a folder of another user")
def test_a_folder_of_somebody_else_is_refused(own_folder: Path) -> None:
    os.chown(own_folder, 12345, 12345)
    with pytest.raises(NotPermitted, match="belongs to user 12345"):
        Space()
    os.chown(own_folder, 0, 0)


def test_unnamed_namespaces_vanish_and_leaked_ones_are_found(own_folder: Path) -> None:
    with Space() as space:
        space.create(LinkedMap("a", ARRAY, 4, 8, 4))
        (info,) = spaces()
        assert info.maps == ("a",)
        assert not info.leaked
        assert collect() == []
    assert spaces() == []
    script = (
        "import os, signal\nfrom workbench.runtime.maps import Space, current_run\n"
        "space = Space()\ncurrent_run(space)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    (leaked,) = spaces()
    assert leaked.leaked
    assert [one.name for one in collect()] == [leaked.name]
    assert spaces() == []
    forgets = script.replace(
        "os.kill", "import ctypes; ctypes.CDLL(None).syscall(273, 0, 24); os.kill"
    )
    subprocess.run([sys.executable, "-c", forgets], check=False, timeout=60)
    assert [one.leaked for one in spaces()] == [True]
    assert len(collect()) == 1 and spaces() == []
    Space("kept").close()
    assert collect() == []
    assert [one.name for one in collect(named=True)] == ["kept"]


def test_what_does_not_fit_is_an_error_not_a_signal(space: Space) -> None:
    with pytest.raises(MissingCapability, match="MiB of shared memory") as caught:
        space.create(LinkedMap("huge", HASH, 8, 4_000_000, 1 << 24))
    assert "max_entries" in caught.value.hint
    assert space.names() == []


def test_a_damaged_namespace_or_segment_is_an_error(own_folder: Path) -> None:
    with Space("one") as space:
        made = space.create(LinkedMap("a", HASH, 4, 8, 4))
        segment = made.path
    content = segment.read_bytes()
    segment.write_bytes(content[:60])
    with Space("one") as space:
        with pytest.raises(MapError, match="cut short"):
            space.open("a")
        segment.write_bytes(content[: len(content) // 2])
        with pytest.raises(MapError, match="damaged"):
            space.open("a")
        segment.write_bytes(content[:8] + b"\xff" + content[9:])
        with pytest.raises(MapError, match="another version"):
            space.open("a")
        segment.with_suffix(".json").write_text("{")
        segment.write_bytes(content)
        assert space.open("a").key_dtype == np.dtype("V4")
    people = own_folder / "one" / "participants"
    people.write_bytes(b"x" * people.stat().st_size)
    with pytest.raises(MapError, match="damaged") as caught:
        Space("one")
    assert "rm -r" in caught.value.hint


def test_batches(space: Space) -> None:
    made: Map = space.create(LinkedMap("h", HASH, 8, 8, 5000))
    keys = np.arange(5000, dtype="u8").view("V8")
    made.update_many(keys, keys)
    found, values = made.table()
    assert sorted(found.view("u8")) == list(range(5000))
    assert (found.view("u8") == values.view("u8")).all()
    with pytest.raises(MapError, match="EEXIST"):
        made.update_many(keys[:2], keys[:2], 1)
    made.delete_many(keys[:4999])
    assert len(made) == 1
    with pytest.raises(KeyError):
        made.delete_many(keys[:1])
    with pytest.raises(MissingCapability, match="table"):
        made.view()
    with pytest.raises(ValueError, match="2 keys but 1"):
        made.update_many(keys[:2], keys[:1])
