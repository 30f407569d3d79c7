"""Map types of user space against the kernel's own: the same operations, the same results and errors."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from map_pairs import KernelMap, SharedMap, create_errors

from workbench.objects.linked import LinkedMap
from workbench.runtime.maps import Space

pytestmark = pytest.mark.needs("ring buffer")

ARRAY, PROG_ARRAY, PERF, PERCPU_ARRAY, STACK_TRACE, LPM, ARRAY_OF_MAPS = 2, 3, 4, 6, 7, 11, 12
QUEUE, STACK, RING, BLOOM, USER_RING = 22, 23, 27, 30, 31
NO_PREALLOC, RDONLY, WRONLY = 1, 8, 16


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    with Space() as made:
        yield made


def u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


SHAPES = [
    (kind, key, value, entries, flags)
    for kind, keys, values, counts, flag_sets in (
        (ARRAY, (0, 4, 8), (0, 1, 8), (0, 3), (0, NO_PREALLOC, 1 << 10, 1 << 7, 1 << 8, 3 << 7, 3 << 3, 1 << 20)),
        (PERCPU_ARRAY, (4, 8), (0, 8, 32768, 32769), (0, 3), (0, 1 << 10, 1 << 2, 1 << 7, 3 << 7)),
        (QUEUE, (0, 4), (0, 8), (0, 3), (0, NO_PREALLOC, 1 << 3, 3 << 3, 1 << 7)),
        (STACK, (0, 4), (0, 8), (0, 3), (0, NO_PREALLOC)),
        (BLOOM, (0, 4), (0, 8), (0, 30), (0, NO_PREALLOC, 1 << 6)),
        (LPM, (4, 5, 8, 260, 261), (0, 8), (0, 3), (0, NO_PREALLOC, NO_PREALLOC | 1 << 3, NO_PREALLOC | 1 << 10)),
        (STACK_TRACE, (4, 8), (0, 8, 12, 127 * 8, 128 * 8), (0, 3), (0, NO_PREALLOC, 1 << 3, 1 << 7)),
        (RING, (0, 4), (0, 4), (0, 1, 4096, 4097, 3 * 4096, 8192), (0, NO_PREALLOC, 1 << 3)),
        (USER_RING, (0, 4), (0, 4), (0, 4096, 6144), (0, NO_PREALLOC)),
        (PERF, (4, 8), (4, 8), (0, 2), (0, NO_PREALLOC, 1 << 3, 1 << 7, 1 << 11)),
        (PROG_ARRAY, (4, 8), (4, 8), (0, 2), (0, NO_PREALLOC, 1 << 3, 1 << 7)),
    )
    for key in keys
    for value in values
    for entries in counts
    for flags in flag_sets
]  # fmt: skip


def test_what_may_be_created(space: Space) -> None:
    different = {}
    for shape in SHAPES:
        kernel, ours = create_errors(space, LinkedMap("m", *shape))
        if kernel != ours:
            different[shape] = (kernel, ours)
    assert not different


keys = st.one_of(st.integers(0, 6), st.sampled_from((7, 8, 0x7FFFFFFF, 0xFFFFFFFF)))
flags = st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 8, 1 << 40))
values = st.integers(0, 5)


@st.composite
def element_operations(draw: st.DrawFn) -> tuple[str, int, int, int]:
    return (
        draw(st.sampled_from(("lookup", "update", "update", "delete", "next", "first", "take"))),
        draw(keys),
        draw(values),
        draw(flags),
    )


@seed(1)
@settings(max_examples=60, deadline=None, database=None)
@given(operations=st.lists(element_operations(), min_size=1, max_size=40))
@pytest.mark.parametrize("size", [1, 8, 20])
def test_array(space: Space, size: int, operations: list[tuple[str, int, int, int]]) -> None:
    shape = LinkedMap("a", ARRAY, 4, size, 7)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        for name, key, value, flag in operations:
            for_both = [
                _element(m, name, u32(key), bytes([value]) * size, flag) for m in (kernel, ours)
            ]
            assert for_both[0] == for_both[1], (name, key, value, flag)
    finally:
        kernel.close()
        _forget(space, ours)


def _element(
    target: KernelMap | SharedMap, name: str, key: bytes, value: bytes, flag: int
) -> tuple[int, bytes]:
    match name:
        case "lookup":
            return target.lookup(key, flag & 0xFFFFFFFF)
        case "update":
            return target.update(key, value, flag)
        case "delete":
            return target.delete(key)
        case "next":
            return target.next_key(key)
        case "first":
            return target.next_key(None)
        case _:
            return target.take(key)


def _forget(space: Space, made: SharedMap) -> None:
    """A few hundred maps a test: take each out of the file system at once."""
    made.map.path.unlink()
    made.map.path.with_suffix(".json").unlink()
    space.maps.clear()


def test_per_cpu_array(space: Space) -> None:
    shape = LinkedMap("p", PERCPU_ARRAY, 4, 12, 3)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        for target, cpus in ((kernel, _possible()), (ours, ours.map.cpus)):
            target.value_size = 16 * cpus
            rows = b"".join(bytes([cpu + 1]) * 12 + b"????" for cpu in range(cpus))
            seen = [
                target.update(u32(1), rows),
                target.update(u32(1), rows, 1),
                target.update(u32(3), rows),
                target.update(u32(0), rows, 3),
                target.delete(u32(1)),
                target.lookup(u32(3)),
                target.lookup(u32(1), 1),
                target.next_key(None),
                target.next_key(u32(1)),
                target.next_key(u32(2)),
                target.next_key(u32(77)),
            ]
            errors = [error for error, _ in seen]
            assert errors == [0, 17, 7, 22, 22, 2, 22, 0, 0, 2, 0], errors
            assert [value for _, value in seen if value] == [u32(0), u32(2), u32(0)]
            error, value = target.lookup(u32(1))
            assert not error
            for cpu in range(cpus):
                assert value[16 * cpu : 16 * cpu + 12] == bytes([cpu + 1]) * 12
                assert value[16 * cpu + 12 : 16 * cpu + 16] == b"????", "padding is copied"
            assert target.lookup(u32(0)) == (0, bytes(16 * cpus))
    finally:
        kernel.close()


def _possible() -> int:
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.split("-")[-1].split(",")[-1]) + 1


queue_operations = st.tuples(
    st.sampled_from(
        ("push", "push", "pop", "peek", "delete", "next", "keyed lookup", "keyed update")
    ),
    st.integers(0, 255),
    st.sampled_from((0, 0, 0, 1, 2, 2, 3, 4)),
)


@seed(2)
@settings(max_examples=80, deadline=None, database=None)
@given(operations=st.lists(queue_operations, min_size=1, max_size=60), entries=st.integers(1, 4))
@pytest.mark.parametrize("kind", [QUEUE, STACK])
def test_queue_and_stack(
    space: Space, kind: int, operations: list[tuple[str, int, int]], entries: int
) -> None:
    shape = LinkedMap("q", kind, 0, 12, entries)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        for name, value, flag in operations:
            raw = bytes([value]) * 12
            results = []
            for target in (kernel, ours):
                match name:
                    case "push":
                        results.append(target.push(raw, flag))
                    case "pop":
                        results.append(target.pop())
                    case "peek":
                        results.append(target.peek())
                    case "delete":
                        results.append(target.delete(None))
                    case "next":
                        results.append(target.next_key(None))
                    case "keyed lookup":
                        results.append(target.lookup(u32(1)))
                    case _:
                        results.append(target.update(u32(1), raw))
            assert results[0] == results[1], (name, value, flag)
    finally:
        kernel.close()
        _forget(space, ours)


def _lpm_key(data: bytes, bits: int) -> bytes:
    return struct.pack("<I", bits) + data


lpm_keys = st.builds(
    _lpm_key,
    st.binary(min_size=2, max_size=2)
    | st.sampled_from((b"\0\0", b"\x80\0", b"\xc0\0", b"\xc0\x80", b"\xff\xff")),
    st.integers(0, 17),
)


@seed(3)
@settings(max_examples=150, deadline=None, database=None)
@given(
    operations=st.lists(
        st.tuples(
            st.sampled_from(("lookup", "update", "update", "update", "delete", "next", "first")),
            lpm_keys,
            st.integers(0, 255),
            st.sampled_from((0, 0, 0, 1, 2, 3, 4)),
        ),
        min_size=1,
        max_size=80,
    ),
    entries=st.sampled_from((2, 6, 100)),
)
def test_lpm_trie(
    space: Space, operations: list[tuple[str, bytes, int, int]], entries: int
) -> None:
    shape = LinkedMap("l", LPM, 6, 3, entries, NO_PREALLOC)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        for name, key, value, flag in operations:
            if name == "lookup":
                flag = 0
            both = [_element(m, name, key, bytes([value]) * 3, flag) for m in (kernel, ours)]
            assert both[0] == both[1], (name, key, value, flag)
        for number in range(1 << 16):
            if number % 641 == 0:
                key = _lpm_key(number.to_bytes(2, "big"), 16)
                assert kernel.lookup(key) == ours.lookup(key)
        key = None
        for _ in range(200):
            both_next = kernel.next_key(key), ours.next_key(key)
            assert both_next[0] == both_next[1]
            if both_next[0][0]:
                break
            key = both_next[0][1]
    finally:
        kernel.close()
        _forget(space, ours)


def test_bloom_filter(space: Space) -> None:
    shape = LinkedMap("b", BLOOM, 0, 8, 1000)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        pushed = [struct.pack("<Q", i * 7919) for i in range(1000)]
        others = [struct.pack("<Q", i * 7919 + 1) for i in range(10000)]
        for target in (kernel, ours):
            assert all(target.push(value) == (0, b"") for value in pushed)
            assert all(target.lookup(None, 0, value)[0] == 0 for value in pushed)
            false = sum(target.lookup(None, 0, value)[0] == 0 for value in others)
            assert false < 1000, f"{false} of 10,000 values that were never pushed"
            assert target.lookup(None, 0, struct.pack("<Q", 5))[0] in (0, 2)
        for name in ("push", "delete", "next", "keyed lookup", "keyed update", "pop"):
            results = []
            for target in (kernel, ours):
                match name:
                    case "push":
                        results.append([target.push(pushed[0], flag)[0] for flag in (1, 2, 3, 4)])
                    case "delete":
                        results.append([target.delete(None)[0], target.delete(u32(0))[0]])
                    case "next":
                        results.append([target.next_key(None)[0]])
                    case "keyed lookup":
                        results.append([target.lookup(u32(0))[0]])
                    case "keyed update":
                        results.append([target.update(u32(0), pushed[0])[0]])
                    case _:
                        results.append([target.take(None)[0]])
            assert results[0] == results[1], name
    finally:
        kernel.close()


@pytest.mark.parametrize(
    "shape",
    [
        LinkedMap("ring", RING, 0, 0, 4096),
        LinkedMap("user_ring", USER_RING, 0, 0, 4096),
        LinkedMap("perf", PERF, 4, 4, 2),
        LinkedMap("programs", PROG_ARRAY, 4, 4, 2),
        LinkedMap("stacks", STACK_TRACE, 4, 64, 3),
    ],
    ids=lambda shape: shape.name,
)
def test_what_cannot_be_done(space: Space, shape: LinkedMap) -> None:
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    try:
        for key in (u32(0), u32(1), u32(2), u32(3), u32(4), u32(99)) if shape.key_size else (None,):
            value = bytes(max(shape.value_size, 1))
            assert kernel.lookup(key)[0] == ours.lookup(key)[0], key
            assert kernel.delete(key)[0] == ours.delete(key)[0], key
            assert kernel.next_key(key) == ours.next_key(key), key
            if shape.type not in (PERF, PROG_ARRAY):  # their values are descriptors there
                assert kernel.update(key, value)[0] == ours.update(key, value)[0], key
        assert kernel.next_key(None) == ours.next_key(None)
    finally:
        kernel.close()


def test_array_of_maps(space: Space) -> None:
    inner_shape = LinkedMap("inner", ARRAY, 4, 8, 3)
    other_shapes = [
        LinkedMap("other", ARRAY, 4, 8, 4),
        LinkedMap("other", ARRAY, 4, 4, 3),
        LinkedMap("other", ARRAY, 4, 8, 3, 1 << 10),
        LinkedMap("other", PERCPU_ARRAY, 4, 8, 3),
    ]
    template = KernelMap(inner_shape)
    outer_shape = LinkedMap("outer", ARRAY_OF_MAPS, 4, 4, 2, inner=inner_shape)
    kernel, ours = KernelMap(outer_shape, template.fd), SharedMap(space, outer_shape)
    kernel_inner, our_inner = KernelMap(inner_shape), SharedMap(space, inner_shape)
    opened = [template, kernel, kernel_inner]
    try:
        our_id = u32(int(our_inner.map.struct.id))
        ours.map.offer(int(our_inner.map.struct.id), our_inner.map.handle, our_inner.map)  # type: ignore[attr-defined]
        for key, flag in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (0, 3)):
            assert (
                kernel.update(u32(key), u32(kernel_inner.fd), flag)[0]
                == ours.update(u32(key), our_id, flag)[0]
            ), (key, flag)
        assert kernel.update(u32(0), u32(0x7FFFFFF0))[0] == ours.update(u32(0), u32(0x7FFFFFF0))[0]
        for shape in other_shapes:
            other, our_other = KernelMap(shape), SharedMap(space, shape)
            opened.append(other)
            number = int(our_other.map.struct.id)
            ours.map.offer(number, our_other.map.handle, our_other.map)  # type: ignore[attr-defined]
            assert kernel.update(u32(1), u32(other.fd))[0] == ours.update(u32(1), u32(number))[0], (
                shape
            )
        assert ours.lookup(u32(0)) == (0, our_id)
        for key in (0, 0, 1, 2):
            assert kernel.lookup(u32(key))[0] == ours.lookup(u32(key))[0], key
            assert kernel.next_key(u32(key)) == ours.next_key(u32(key)), key
            assert kernel.delete(u32(key))[0] == ours.delete(u32(key))[0], key
    finally:
        for one in opened:
            os.close(one.fd)


@pytest.mark.parametrize("flags", [RDONLY, WRONLY])
@pytest.mark.parametrize("kind", [1, 2, 5, 6, 9, LPM, QUEUE, STACK, BLOOM])
def test_what_flags_deny_to_processes(space: Space, kind: int, flags: int) -> None:
    keyless = kind in (QUEUE, STACK, BLOOM)
    more = NO_PREALLOC if kind == LPM else 0
    key_size = 0 if keyless else 4 if kind in (ARRAY, PERCPU_ARRAY) else 8
    shape = LinkedMap("d", kind, key_size, 8, 4, flags | more)
    kernel, ours = KernelMap(shape), SharedMap(space, shape)
    key, value = bytes(key_size), bytes(8 << 13)  # per-CPU values of any machine
    try:
        seen = []
        for one in (kernel, ours):
            if keyless:
                results = [one.push(bytes(8)), one.peek()]
                results += [one.pop()] if kind != BLOOM else []
            else:
                one.value_size = len(value)
                results = [one.update(key, value), one.lookup(key), one.delete(key)]
                results += [one.next_key(None), one.take(key)] if kind == 1 else []
            seen.append([error for error, _ in results])
        assert seen[0] == seen[1] and errno.EPERM in seen[0]
    finally:
        kernel.close()
