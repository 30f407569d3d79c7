"""bpf(2) by hand, against this machine's kernel."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from workbench.kernel import bpf_syscall as bpf


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def keep(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


@pytest.mark.needs("mmapable array")
def test_a_refused_program_brings_the_verifiers_words() -> None:
    uninitialised_r0 = struct.pack("<BBhi", 0x95, 0, 0, 0)
    with pytest.raises(OSError, match=r"load program.*R0 !read_ok") as refused:
        bpf.prog_load(bpf.PROG_SOCKET_FILTER, uninitialised_r0)
    assert refused.value.errno == errno.EACCES


@pytest.mark.needs("LOOKUP_BATCH")
def test_a_batch_smaller_than_the_map_gives_that_many(stack: ExitStack) -> None:
    table = keep(stack, bpf.map_create(bpf.MAP_HASH, 4, 8, 64))
    for key in range(40):
        bpf.map_update(table, struct.pack("<I", key), struct.pack("<Q", key + 1))
    assert len(bpf.map_lookup_batch(table, 4, 8, 64)) == 40
    some = bpf.map_lookup_batch(table, 4, 8, 39)
    assert len(some) <= 39
    assert all(struct.unpack("<Q", value)[0] == struct.unpack("<I", key)[0] + 1 for key, value in some)


@pytest.mark.needs("mmapable array")
def test_counting_program_counts(stack: ExitStack) -> None:
    counter = keep(stack, bpf.map_create(bpf.MAP_ARRAY, 4, 8, 1))
    program = keep(stack, bpf.prog_load(bpf.PROG_SOCKET_FILTER, bpf.counting_program(counter)))
    for _ in range(5):
        assert bpf.prog_test_run(program, bytes(64)) == 0
    assert struct.unpack("<Q", bpf.map_lookup(counter, bytes(4), 8)) == (5,)


@pytest.mark.needs("mmapable array", "BTF")
def test_struct_ops_map_is_taken_note_of_and_not_switched_on(stack: ExitStack) -> None:
    """The way sched_ext is tried, with a struct_ops that nearly every kernel has."""
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    wanted = (4, "bpf_struct_ops_tcp_congestion_ops")
    found = bpf.btf_ids(data, {wanted})
    if not found:
        pytest.skip("this kernel has no struct_ops for TCP congestion control")
    algorithms = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    before = algorithms.read_text() if algorithms.exists() else ""
    keep(stack, bpf.struct_ops_map_create(*found[wanted]))
    assert (algorithms.read_text() if algorithms.exists() else "") == before
    with pytest.raises(OSError):
        bpf.struct_ops_map_create(*found[wanted][:1], found[wanted][1] + 8)  # the size must be the kernel's


def test_no_program_outlives_its_descriptors() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError):
        bpf.prog_load(bpf.PROG_SOCKET_FILTER, b"\0" * 8)
    assert set(Path("/proc/self/fd").iterdir()) == before
