"""Helpers give what the kernel's give: one program, the same bytes, run in the kernel and compiled in user space."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_program import SameProgram

pytestmark = pytest.mark.needs("raw tracepoint", "clang")

SOURCE = r"""
__u64 op, flags, size, address;
__s64 result;
__u64 value;
unsigned char in[128], out[256];
__u64 args[16];

SEC("syscall") int one_call(void *ctx)
{
	__u32 n = size & 127;

	value = 0;
	switch (op) {
	case 1: {
		long v = 99;
		result = bpf_strtol((char *)in, n ? n : 1, flags, &v);
		value = v;
		break;
	}
	case 2: {
		unsigned long v = 99;
		result = bpf_strtoul((char *)in, n ? n : 1, flags, &v);
		value = v;
		break;
	}
	case 3:
		result = bpf_strncmp((char *)in, n ? n : 1, "hello \xfft");
		break;
	case 4:
		result = bpf_get_current_comm(out, n ? n : 1);
		break;
	case 5:
		result = bpf_probe_read_user(out, n, (void *)address);
		break;
	case 6:
		result = bpf_probe_read_user_str(out, n, (void *)address);
		break;
	case 8:
		result = bpf_get_current_pid_tgid();
		value = bpf_get_current_uid_gid();
		break;
	case 9: {
		struct bpf_pidns_info info = {99, 99};
		result = bpf_get_ns_current_pid_tgid(flags, address, &info, sizeof(info));
		value = (__u64)info.tgid << 32 | info.pid;
		break;
	}
	case 10:
		result = bpf_get_smp_processor_id();
		value = bpf_get_numa_node_id();
		break;
	case 11:
		args[0] = bpf_ktime_get_ns();
		args[1] = bpf_ktime_get_boot_ns();
		args[2] = bpf_ktime_get_tai_ns();
		args[3] = bpf_jiffies64();
		break;
	case 12:
		result = bpf_trace_vprintk((char *)in, n ? n : 1, args, flags & 0x7f);
		break;
	}
	return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SameProgram]:
    with SameProgram(SOURCE, tmp_path_factory.mktemp("helpers")) as made:
        made.in_kernel()  # loaded once, outside hypothesis' timing
        yield made


def same(program: SameProgram, op: int, **values: object) -> tuple[int, int, bytes]:
    """What both gave: result, value, out."""
    theirs, ours = program.both(op=op, **values)
    answers = [(int(x["result"]), int(x["value"]), x["out"].tobytes()) for x in (theirs, ours)]
    assert answers[0] == answers[1], f"kernel {answers[0]}, user space {answers[1]}"
    return answers[1]


NUMBERS = st.one_of(
    st.binary(max_size=127),
    st.from_regex(rb"\A[ \t\n\v\f\r\xa0]{0,3}-?(0[xX]?)?[0-9a-fA-FgG]{0,70}[ xX,-]?\Z"),
    st.sampled_from(
        [b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809",
         b"18446744073709551615", b"18446744073709551616", b"0x", b"0xg", b"-", b"--1", b" ", b"08", b"-0",
         b"0xffffffffffffffff", b"0x10000000000000000", b"1" * 64, b" " * 70 + b"1", b"0" * 62 + b"12"]
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    text=NUMBERS,
    extra=st.integers(0, 2),
    flags=st.sampled_from([0, 8, 10, 16, 2, 31, 32, 1 << 40]),
    op=st.sampled_from([1, 2]),
)
def test_strtol_and_strtoul(
    program: SameProgram, text: bytes, extra: int, flags: int, op: int
) -> None:
    same(program, op, **{"in": text}, size=min(len(text) + extra, 127), flags=flags)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.one_of(
        st.binary(max_size=20),
        st.builds(
            lambda n, rest: b"hello \xfft"[:n] + rest, st.integers(0, 9), st.binary(max_size=4)
        ),
    ),
    size=st.integers(1, 40),
)
def test_strncmp(program: SameProgram, text: bytes, size: int) -> None:
    same(program, 3, **{"in": text}, size=size)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 10, 15, 16, 17, 64, 127])
def test_comm_is_the_threads_and_padded(program: SameProgram, size: int) -> None:
    found = []

    def work() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("one-thread")
        found.append(same(program, 4, size=size, out=b"\xee" * 256))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    expected = b"one-thread"[: size - 1].ljust(size, b"\0")
    assert found == [(0, 0, expected + b"\xee" * (256 - size))]


@pytest.fixture(scope="module")
def memory() -> Iterator[int]:
    """Two readable pages, then one that is not: address of the first."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    place = libc.mmap(None, 3 * mmap.PAGESIZE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    data = random.Random(7).randbytes(2 * mmap.PAGESIZE).replace(b"\0", b"\1")
    ctypes.memmove(place, data, len(data))
    ctypes.memmove(place + 100, b"a text\0", 7)
    ctypes.memmove(place + 2 * mmap.PAGESIZE - 5, b"last\0", 5)
    libc.mprotect(place + 2 * mmap.PAGESIZE, mmap.PAGESIZE, 0)
    yield place
    libc.munmap(place, 3 * mmap.PAGESIZE)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    op=st.sampled_from([5, 6]),
    offset=st.one_of(
        st.integers(-20, 200),
        st.integers(mmap.PAGESIZE - 130, mmap.PAGESIZE + 10),
        st.integers(2 * mmap.PAGESIZE - 130, 2 * mmap.PAGESIZE + 10),
    ),
    size=st.integers(0, 127),
)
def test_probe_read_family(
    program: SameProgram, memory: int, op: int, offset: int, size: int
) -> None:
    if offset < 0 or (op == 6 and size):
        # Before the block lies whatever the allocator put there, and strncpy_from_user may or may not write behind
        # the NUL inside its last word: only the text itself and the result are the contract.
        theirs, ours = program.both(
            op=op, address=memory + max(offset, 0), size=size, out=b"\xee" * 256
        )
        length = int(theirs["result"])
        assert length == int(ours["result"])
        shown = size if length < 0 else length
        assert theirs["out"].tobytes()[:shown] == ours["out"].tobytes()[:shown]
    else:
        same(program, op, address=memory + offset, size=size, out=b"\xee" * 256)


@pytest.mark.parametrize("op", [5, 6])
@pytest.mark.parametrize(
    "address", [0, 1, 4095, 1 << 47, (1 << 63) + 4096, (1 << 64) - 4, 0xDEAD << 48]
)
@pytest.mark.parametrize("size", [0, 1, 8, 127])
def test_bad_addresses(program: SameProgram, op: int, address: int, size: int) -> None:
    result, _, out = same(program, op, address=address, size=size, out=b"\xee" * 256)
    assert result == -14 or not size
    assert out == bytes(size) + b"\xee" * (256 - size)


def test_ids(program: SameProgram) -> None:
    status = Path("/proc/self/status").read_text()
    levels = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    result, value, _ = program_ids(program)
    assert result == os.getpid() << 32 | threading.get_native_id()
    assert value == os.getgid() << 32 | os.getuid()
    if len(levels) == 1:  # in a container the kernel gives the number of the host
        same(program, 8)


def program_ids(program: SameProgram) -> tuple[int, int, bytes]:
    _, ours = program.in_user_space(op=8)
    return int(ours["result"]), int(ours["value"]), b""


def test_ids_of_another_thread(program: SameProgram) -> None:
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            (program_ids(program)[0] & 0xFFFFFFFF, threading.get_native_id())
        )
    )
    thread.start()
    thread.join()
    assert found[0][0] == found[0][1] != os.getpid()


def test_ids_in_a_namespace(program: SameProgram) -> None:
    about = Path("/proc/self/ns/pid").stat()
    device, inode = about.st_dev, about.st_ino
    result, value, _ = same(program, 9, flags=device, address=inode)
    assert (result, value) == (0, os.getpid() << 32 | threading.get_native_id())
    for wrong in ((device + 1, inode), (device, inode + 1), (device | 1 << 40, inode)):
        assert same(program, 9, flags=wrong[0], address=wrong[1])[:2] == (-22, 0)


def test_processor_and_node(program: SameProgram) -> None:
    before = os.sched_getaffinity(0)
    try:
        for cpu in sorted(before):
            os.sched_setaffinity(0, {cpu})
            assert same(program, 10)[0] == cpu
    finally:
        os.sched_setaffinity(0, before)


def test_clocks_are_the_kernels(program: SameProgram) -> None:
    behind = []
    for _ in range(20):
        first = program.in_user_space(op=11)[1]["args"][:4].tolist()
        middle = program.in_kernel(op=11)[1]["args"][:4].tolist()
        last = program.in_user_space(op=11)[1]["args"][:4].tolist()
        for a, b, c in zip(first[:3], middle[:3], last[:3], strict=True):
            assert a <= b <= c
        behind.append((first[3] - middle[3], last[3] - middle[3]))
    # jiffies began to count when the clock had run for a while; nobody but the kernel knows for how long. The kernel's
    # reading lies between ours if that distance is the same for all.
    assert max(low for low, _ in behind) <= min(high for _, high in behind) + 3


SPECIFICATIONS = st.builds(
    lambda flags, width, kind: f"%{flags}{width}{kind}",
    st.text("0+- ", max_size=3),
    st.sampled_from(["", "1", "5", "16", "20"]),
    st.sampled_from(
        ["d", "i", "u", "x", "X", "ld", "lld", "lu", "llx", "lX", "c", "s", "px", "pI4", "pi4", "pI6", "pi6",
         "pks", "pus", "ps", "pS", "%", "n", "f", "hd", "o", "pM", "pI5", "l", "", "#x", ".3d", "sx", "pksx"]
    ),
)  # fmt: skip
FORMATS = st.lists(
    st.one_of(SPECIFICATIONS, st.text("ab %\n\t!", max_size=4), st.sampled_from(["%p", "%pK "])),
    max_size=6,
).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    text=st.one_of(FORMATS.map(str.encode), st.binary(max_size=30).filter(bytes.isascii)),
    count=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_formats_are_accepted_refused_and_measured_alike(
    program: SameProgram, text: bytes, count: int, seed: int
) -> None:
    """bpf_trace_vprintk: the length of the text or the error, for any format."""
    text = text[:126] + b"\0"
    random_ = random.Random(seed)
    # One address space here, two there: what the kernel wants in its own memory, it does not take from ours.
    address = 0 if any(kind in text for kind in (b"pI", b"pi", b"pks")) else STRING
    values = [
        random_.choice([0, 1, 10, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1, address])
        for _ in range(16)
    ]
    theirs, ours = program.both(op=12, **{"in": text}, size=len(text), flags=count * 8, args=values)
    assert theirs["result"] == ours["result"], (text, values[:count])


_TEXT = ctypes.create_string_buffer(b"the text of a program", 64)
STRING = ctypes.addressof(_TEXT)


@pytest.mark.parametrize(("size", "length"), [(4, 7), (127, 8), (20, 4), (9, 96)])
def test_formats_without_end_and_with_bad_sizes(
    program: SameProgram, size: int, length: int
) -> None:
    theirs, ours = program.both(op=12, **{"in": b"%d" * 63}, size=size, flags=length)
    assert theirs["result"] == ours["result"] == -22


def _valid_formats(count: int) -> list[str]:
    random_ = random.Random(11)
    kinds = [
        "d",
        "i",
        "u",
        "x",
        "X",
        "ld",
        "lld",
        "lu",
        "llx",
        "lX",
        "c",
        "s",
        "px",
        "pus",
        "ps",
        "pS",
        "pB",
    ]
    found = []
    for _ in range(count):
        parts = []
        for _ in range(random_.randint(1, 3)):
            flags = "".join(random_.choices("0+- ", k=random_.randint(0, 2)))
            width = random_.choice(["", "", "1", "7", "20", "45"])
            parts.append(f"%{flags}{width}{random_.choice(kinds)}")
            parts.append(random_.choice(["", " ", ", ", "|", "%%", "\\n"]))
        found.append("".join(parts))
    return found


def test_snprintf_makes_the_same_text(tmp_path: Path) -> None:
    formats = _valid_formats(60)
    calls = "\n".join(
        f'\tr[{i}] = bpf_snprintf((char *)out[{i}], {(40, 128, 1, 0)[i % 4]}, "{text}", args, 24);'
        for i, text in enumerate(formats)
    )
    source = f"""
__u64 args[3];
__s64 r[{len(formats)}];
unsigned char out[{len(formats)}][128];
SEC("syscall") int texts(void *ctx) {{
{calls}
	return 0;
}}
"""
    random_ = random.Random(5)
    choices = [0, 1, 65, 10, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1, STRING, STRING + 4]
    with SameProgram(source, tmp_path) as program:
        for _ in range(40):
            values = [random_.choice(choices) for _ in range(3)]
            theirs, ours = program.both(args=values)
            for i, text in enumerate(formats):
                answers = [(int(x["r"][i]), x["out"][i].tobytes()) for x in (theirs, ours)]
                assert answers[0] == answers[1], (text, values)


PACKETS = r"""
__u64 from_size, to_size, seed;
__s64 result;
__u64 coarse;
unsigned char from[64], to[64];
SEC("xdp") int sums(struct xdp_md *ctx)
{
	result = bpf_csum_diff((void *)from, from_size & 63, (void *)to, to_size & 63, seed);
	coarse = bpf_ktime_get_coarse_ns();
	return 2;
}
"""


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SameProgram]:
    with SameProgram(PACKETS, tmp_path_factory.mktemp("sums")) as made:
        made.in_kernel(packet=bytes(64))
        yield made


def _folded(value: int) -> int:
    """A checksum as it goes into a packet: kernels before 6.13 leave it unfolded."""
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value % 0xFFFF


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    first=st.binary(min_size=64, max_size=64),
    second=st.one_of(
        st.binary(min_size=64, max_size=64), st.just(bytes(64)), st.just(b"\xff" * 64)
    ),
    sizes=st.tuples(st.integers(0, 63), st.integers(0, 63)),
    aligned=st.booleans(),
    seed=st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 0xFFFF, 0xFFFFFFFF, 0x10000])),
)
def test_csum_diff(
    sums: SameProgram, first: bytes, second: bytes, sizes: tuple[int, int], aligned: bool, seed: int
) -> None:
    if aligned:
        sizes = (sizes[0] & ~3, sizes[1] & ~3)
    values = {"from": first, "to": second, "from_size": sizes[0], "to_size": sizes[1], "seed": seed}
    _, theirs = sums.in_kernel(packet=bytes(64), **values)
    _, ours = sums.in_user_space(**values)
    a, b = int(theirs["result"]), int(ours["result"])
    if a == -22 and (sizes[0] | sizes[1]) & 3:  # before Linux 6.13
        return
    assert _folded(a) == _folded(b), (values, a, b)
    assert 0 <= b < 1 << 16


def test_the_coarse_clock(sums: SameProgram) -> None:
    for _ in range(10):
        first = int(sums.in_user_space()[1]["coarse"])
        middle = int(sums.in_kernel(packet=bytes(64))[1]["coarse"])
        assert first <= middle <= int(sums.in_user_space()[1]["coarse"])


FLOW = r"""
__u64 op, count, flags, offset, size, stop_at;
__s64 result;
__u64 sum;
unsigned char area[64], copy[64];
static long one(__u32 index, void *context)
{
	sum += index + *(__u32 *)context;
	return index == stop_at;
}
SEC("syscall") int flow(void *ctx)
{
	__u32 context = 3;
	struct bpf_dynptr pointer;

	if (op == 1) {
		result = bpf_loop(count, one, &context, flags);
		return 0;
	}
	result = bpf_dynptr_from_mem(area, sizeof(area), op == 4 ? flags : 0, &pointer);
	if (op == 2)
		result = bpf_dynptr_read(copy, size & 63, &pointer, offset, flags);
	else if (op == 3)
		result = bpf_dynptr_write(&pointer, offset, copy, size & 63, flags);
	else if (op == 5) {
		unsigned char *slice = bpf_dynptr_data(&pointer, offset, 8);
		result = slice ? slice[7] : -1;
	}
	return 0;
}
"""


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SameProgram]:
    with SameProgram(FLOW, tmp_path_factory.mktemp("flow")) as made:
        made.in_kernel()
        yield made


@pytest.mark.parametrize("flags", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 100, 1 << 23, (1 << 23) + 1, (1 << 32) + 5])
def test_loop(flow: SameProgram, count: int, flags: int) -> None:
    theirs, ours = flow.both(op=1, count=count, flags=flags, stop_at=50)
    assert (theirs["result"], theirs["sum"]) == (ours["result"], ours["sum"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    op=st.sampled_from([2, 3, 4, 5]),
    offset=st.one_of(st.integers(0, 70), st.sampled_from([2**24, 2**31, 2**32 - 1, 2**32, 2**63])),
    size=st.integers(0, 63),
    flags=st.sampled_from([0, 0, 0, 1]),
    content=st.binary(min_size=64, max_size=64),
)
def test_dynptrs(
    flow: SameProgram, op: int, offset: int, size: int, flags: int, content: bytes
) -> None:
    theirs, ours = flow.both(
        op=op, offset=offset, size=size, flags=flags, area=content, copy=content[::-1]
    )
    for name in ("result", "area", "copy"):
        assert theirs[name].tobytes() == ours[name].tobytes(), name


PRINTING = r"""
__s64 r[5];
__u64 number;
SEC("syscall") int prints(void *ctx)
{
	static const char none[] = "nothing", one[] = "%d", three[] = "%d %s %llx", four[] = "%d%d%d%d";

	r[0] = bpf_trace_printk(none, sizeof(none));
	r[1] = bpf_trace_printk(one, sizeof(one), number);
	r[2] = bpf_trace_printk(three, sizeof(three), number, "hello", number * 3);
	r[3] = bpf_trace_printk(four, sizeof(four), 1, 2, 3);
	r[4] = bpf_trace_printk(one, sizeof(one) - 1, number);
	return 0;
}
"""


def test_printk_takes_as_many_values_as_it_is_given(tmp_path: Path) -> None:
    with SameProgram(PRINTING, tmp_path) as program:
        for number in (0, 77, 2**40 + 5):
            theirs, ours = program.both(number=number)
            assert theirs["r"].tolist() == ours["r"].tolist()
            assert ours["r"][2] == len(f"{number % 2**32} hello {number * 3:x}")
