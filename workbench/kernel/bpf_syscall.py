"""bpf(2) and perf_event_open(2) by hand: what the doctor tries, without clang or libbpf.

Programs are a few instructions assembled here. Everything that runs real objects goes through libbpf instead; this
module answers "does the kernel do it at all, for this user". Every function returns a file descriptor that the caller
closes, or raises OSError with the kernel's errno; `prog_load` adds the verifier's last words to the message.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final

__all__ = (
    "attach_perf",
    "btf_ids",
    "counting_program",
    "link_create_uprobe_multi",
    "map_create",
    "map_lookup",
    "map_lookup_batch",
    "map_update",
    "perf_event_attr",
    "perf_event_open",
    "prog_load",
    "prog_test_run",
    "raw_tracepoint_open",
    "ring_output_program",
    "struct_ops_map_create",
)

# bpf(2) commands and types (include/uapi/linux/bpf.h); fixed ABI.
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD = 0, 1, 2, 5
_PROG_TEST_RUN, _RAW_TRACEPOINT_OPEN, _BTF_LOAD, _MAP_LOOKUP_BATCH, _LINK_CREATE = 10, 17, 18, 24, 28
_COMMANDS = {
    _MAP_CREATE: "create map",
    _MAP_LOOKUP: "look up",
    _MAP_UPDATE: "update",
    _PROG_LOAD: "load program",
    _PROG_TEST_RUN: "test-run program",
    _RAW_TRACEPOINT_OPEN: "attach program",
    _BTF_LOAD: "load BTF",
    _MAP_LOOKUP_BATCH: "look up a batch",
    _LINK_CREATE: "attach program",
}

MAP_HASH: Final = 1
MAP_ARRAY: Final = 2
MAP_STRUCT_OPS: Final = 26
MAP_RINGBUF: Final = 27
MAP_F_MMAPABLE: Final = 1 << 10
MAP_F_LINK: Final = 1 << 13

PROG_SOCKET_FILTER: Final = 1
PROG_KPROBE: Final = 2
PROG_TRACEPOINT: Final = 5
PROG_PERF_EVENT: Final = 7
PROG_RAW_TRACEPOINT: Final = 17
PROG_TRACING: Final = 26
PROG_LSM: Final = 29

ATTACH_TRACE_RAW_TP: Final = 23
ATTACH_TRACE_FENTRY: Final = 24
ATTACH_LSM_MAC: Final = 27
ATTACH_TRACE_UPROBE_MULTI: Final = 48

PERF_TYPE_HARDWARE: Final = 0
PERF_TYPE_SOFTWARE: Final = 1
PERF_TYPE_TRACEPOINT: Final = 2
PERF_TYPE_BREAKPOINT: Final = 5
PERF_COUNT_CPU_CYCLES: Final = 0
PERF_COUNT_CPU_CLOCK: Final = 0
BREAKPOINT_WRITE: Final = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_IOC_SET_BPF = 0x40042408
_PERF_IOC_ENABLE = 0x2400

# Bits of the flag word of perf_event_attr.
PERF_DISABLED: Final = 1 << 0
PERF_EXCLUDE_KERNEL: Final = 1 << 5
PERF_EXCLUDE_HV: Final = 1 << 6
PERF_INHERIT_THREAD: Final = 1 << 35
PERF_REMOVE_ON_EXEC: Final = 1 << 36
PERF_SIGTRAP: Final = 1 << 37
PERF_INHERIT: Final = 1 << 1

_SYSCALLS = {
    # machine: (bpf, perf_event_open)
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "s390x": (351, 331),
    "ppc64le": (361, 319),
}
_ATTR_SIZE = 144  # bpf_attr; older kernels accept trailing zeros
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(what: str, which: int, *arguments: object) -> int:
    try:
        number = _SYSCALLS[platform.machine()][which]
    except KeyError:
        raise OSError(errno.ENOSYS, f"system call numbers of {platform.machine()} are not known") from None
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _bpf(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    if isinstance(attr, bytes):
        attr = ctypes.create_string_buffer(attr.ljust(_ATTR_SIZE, b"\0"), _ATTR_SIZE)
    return _syscall(_COMMANDS[command], 0, ctypes.c_int(command), attr, ctypes.c_uint(_ATTR_SIZE))


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


# --- programs -------------------------------------------------------------------------------------------------------


def _insn(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


def _load_pointer(register: int, fd: int, pseudo: int) -> bytes:
    return _insn(0x18, register, pseudo, 0, fd) + _insn(0)


_RETURN_0 = _insn(0xB7, 0) + _insn(0x95)
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2


def counting_program(counter: int) -> bytes:
    """Instructions that add one to the first u64 of the array map `counter` and return 0."""
    return (
        _load_pointer(1, counter, _PSEUDO_MAP_VALUE)
        + _insn(0xB7, 2, immediate=1)  # r2 = 1
        + _insn(0xDB, 1, 2)  # lock *(u64 *)(r1 + 0) += r2
        + _RETURN_0
    )


def ring_output_program(ring: int, value: int) -> bytes:
    """Instructions that send the u64 `value` through the ring buffer map `ring` (bpf_ringbuf_output) and return 0."""
    return (
        _insn(0x7A, 10, offset=-8, immediate=value)  # *(u64 *)(r10 - 8) = value
        + _load_pointer(1, ring, _PSEUDO_MAP_FD)
        + _insn(0xBF, 2, 10)
        + _insn(0x07, 2, immediate=-8)
        + _insn(0xB7, 3, immediate=8)
        + _insn(0xB7, 4)
        + _insn(0x85, immediate=130)
        + _RETURN_0
    )


def prog_load(
    kind: int, instructions: bytes, *, attach_type: int = 0, attach_btf_id: int = 0, name: str = "wb_doctor"
) -> int:
    """BPF_PROG_LOAD with a GPL licence; on refusal the message ends with the verifier's last line."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(1 << 16)

    def attr(level: int) -> bytes:
        return struct.pack(
            "<IIQQIIQII16sIIIIQIIQII",
            kind,
            len(instructions) // 8,
            _address(code),
            _address(licence),
            level,
            len(log) if level else 0,
            _address(log) if level else 0,
            0,  # kern_version
            0,  # prog_flags
            name.encode(),
            0,  # prog_ifindex
            attach_type,
            0,  # prog_btf_fd
            0,  # func_info_rec_size
            0,  # func_info
            0,  # func_info_cnt
            0,  # line_info_rec_size
            0,  # line_info
            0,  # line_info_cnt
            attach_btf_id,
        )

    try:
        return _bpf(_PROG_LOAD, attr(0))
    except OSError as refused:
        try:
            return _bpf(_PROG_LOAD, attr(1))
        except OSError:
            lines = log.value.decode(errors="replace").strip().splitlines()
            words = [line for line in lines if not line.startswith("processed ")]
            raise OSError(refused.errno, (refused.strerror or "") + (f": {words[-1]}" if words else "")) from None


def prog_test_run(prog: int, data: bytes = b"") -> int:
    """BPF_PROG_TEST_RUN once; returns the program's return value."""
    buffer = ctypes.create_string_buffer(data, len(data)) if data else None
    attr = ctypes.create_string_buffer(
        struct.pack("<IIIIQQ", prog, 0, len(data), 0, _address(buffer), 0).ljust(_ATTR_SIZE, b"\0"), _ATTR_SIZE
    )
    _bpf(_PROG_TEST_RUN, attr)
    result: int = struct.unpack_from("<I", attr, 4)[0]
    return result


# --- maps -----------------------------------------------------------------------------------------------------------


def map_create(kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> int:
    """BPF_MAP_CREATE; sizes in bytes."""
    return _bpf(_MAP_CREATE, struct.pack("<IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, b"wb_doctor"))


def struct_ops_map_create(value_type_id: int, value_size: int) -> int:
    """A struct_ops map of the kernel type `value_type_id` (of ``bpf_struct_ops_NAME``) that is not registered.

    With BPF_F_LINK the kernel only takes note of the map; nothing is switched on until a link is made of it.
    """
    btf = _smallest_btf()  # the kernel asks for some BTF of the program's, though it uses its own here
    try:
        head = struct.pack("<IIIIIII16s", MAP_STRUCT_OPS, 4, value_size, 1, MAP_F_LINK, 0, 0, b"wb_doctor")
        return _bpf(_MAP_CREATE, head + struct.pack("<IIIII", 0, btf, 0, 0, value_type_id))
    finally:
        os.close(btf)


def _smallest_btf() -> int:
    """BTF that declares one integer type."""
    strings = b"\0int\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    data = ctypes.create_string_buffer(header + types + strings, len(header + types + strings))
    return _bpf(_BTF_LOAD, struct.pack("<QQIII", _address(data), 0, len(data), 0, 0))


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """BPF_MAP_UPDATE_ELEM of one element."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), 0))


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """BPF_MAP_LOOKUP_ELEM of one element."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    _bpf(_MAP_LOOKUP, struct.pack("<IIQQQ", fd, 0, _address(k), _address(v), 0))
    return v.raw


def map_lookup_batch(fd: int, key_size: int, value_size: int, count: int) -> list[tuple[bytes, bytes]]:
    """BPF_MAP_LOOKUP_BATCH of up to `count` elements in one call, from the beginning."""
    keys, values = ctypes.create_string_buffer(key_size * count), ctypes.create_string_buffer(value_size * count)
    token = ctypes.create_string_buffer(max(key_size, 8))
    attr = ctypes.create_string_buffer(
        struct.pack("<QQQQIIQQ", 0, _address(token), _address(keys), _address(values), count, fd, 0, 0).ljust(
            _ATTR_SIZE, b"\0"
        ),
        _ATTR_SIZE,
    )
    try:
        _bpf(_MAP_LOOKUP_BATCH, attr)
    except OSError as error:
        if error.errno != errno.ENOENT:  # ENOENT: that was the last batch
            raise
    (found,) = struct.unpack_from("<I", attr, 32)
    return [
        (keys.raw[i * key_size : (i + 1) * key_size], values.raw[i * value_size : (i + 1) * value_size])
        for i in range(found)
    ]


# --- attaching ------------------------------------------------------------------------------------------------------


def raw_tracepoint_open(prog: int, name: str = "") -> int:
    """Attach to raw tracepoint `name`, or without a name to what a tracing or LSM program was loaded for."""
    text = ctypes.create_string_buffer(name.encode()) if name else None
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", _address(text), prog, 0))


def link_create_uprobe_multi(prog: int, path: str, offsets: Sequence[int], pid: int = 0) -> int:
    """One link for many uprobes of the file `path` at file `offsets`; `pid` 0 is every process."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    where = ctypes.create_string_buffer(struct.pack(f"<{len(offsets)}Q", *offsets), 8 * len(offsets))
    attr = struct.pack(
        "<IIIIQQQQIII",
        prog,
        0,
        ATTACH_TRACE_UPROBE_MULTI,
        0,
        _address(text),
        _address(where),
        0,  # ref_ctr_offsets
        0,  # cookies
        len(offsets),
        0,  # flags
        pid,
    )
    return _bpf(_LINK_CREATE, attr)


def perf_event_attr(
    kind: int,
    config: int = 0,
    *,
    period: int = 0,
    flags: int = 0,
    breakpoint_type: int = 0,
    config1: int = 0,
    config2: int = 0,
    sig_data: int = 0,
) -> bytes:
    """A `struct perf_event_attr` (size of version 8); config1 and config2 hold bp_addr and bp_len for breakpoints."""
    return struct.pack(
        "<IIQQQQQIIQQQQIiQIHHIIQ8x",
        kind,
        136,
        config,
        period,
        0,  # sample_type
        0,  # read_format
        flags,
        1,  # wakeup_events
        breakpoint_type,
        config1,
        config2,
        0,  # branch_sample_type
        0,  # sample_regs_user
        0,  # sample_stack_user
        0,  # clockid
        0,  # sample_regs_intr
        0,  # aux_watermark
        0,  # sample_max_stack
        0,
        0,  # aux_sample_size
        0,
        sig_data,
    )[:136]


def perf_event_open(attr: bytes, pid: int, cpu: int) -> int:
    """perf_event_open(2) without a group."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return _syscall(
        "open perf event",
        1,
        buffer,
        ctypes.c_int(pid),
        ctypes.c_int(cpu),
        ctypes.c_int(-1),
        ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC),
    )


def attach_perf(event: int, prog: int) -> None:
    """Run `prog` at every overflow or hit of the perf event, and enable it; closing the event detaches."""
    for request, argument in ((_PERF_IOC_SET_BPF, prog), (_PERF_IOC_ENABLE, 0)):
        if _libc.ioctl(ctypes.c_int(event), ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"attach program: {os.strerror(code)}")


# --- BTF ------------------------------------------------------------------------------------------------------------

# What follows the 12 common bytes of a type, by kind: (fixed bytes, bytes per member).
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNCTION_TYPE, _VARIABLE, _SECTION = 1, 3, 4, 5, 6, 13, 14, 15
_TAG, _ENUM64 = 17, 19
_EXTRA = {
    _INT: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _FUNCTION_TYPE: (0, 8),
    _VARIABLE: (4, 0),
    _SECTION: (0, 12),
    _TAG: (4, 0),
    _ENUM64: (0, 12),
}


def btf_ids(data: bytes, wanted: set[tuple[int, str]]) -> dict[tuple[int, str], tuple[int, int]]:
    """Ids of types in raw BTF.

    Parameters
    ----------
    data : bytes
        Contents of /sys/kernel/btf/vmlinux.
    wanted : set of (kind, name)
        Kinds as in BTF: 4 struct, 8 typedef, 12 function.

    Returns
    -------
    dict
        (kind, name) -> (type id, its `size` or `type` word), for those that exist.

    Raises
    ------
    ValueError
        The data is not BTF or ends early.
    """
    try:
        magic, version, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
        if magic != 0xEB9F or version != 1:
            raise ValueError("no BTF header")
        strings = data[header + str_off : header + str_off + str_len]
        names: dict[int, set[tuple[int, str]]] = {}
        for kind, name in wanted:
            at = strings.find(b"\0" + name.encode() + b"\0")
            if at >= 0:
                names.setdefault(at + 1, set()).add((kind, name))
        types = memoryview(data)[header + type_off : header + type_off + type_len]
        if len(types) != type_len or type_len % 4:
            raise ValueError(f"BTF ends early: {len(types)} bytes of types instead of {type_len}")
        return _find_ids(types.cast("I"), names)
    except struct.error as error:
        raise ValueError(f"BTF ends early: {error}") from error
    except IndexError:
        raise ValueError("BTF ends early: in the middle of a type") from None


class _Lengths(dict[int, int]):
    """Words of a type by its word `info`, each computed once."""

    def __missing__(self, info: int) -> int:
        fixed, each = _EXTRA.get(info >> 24 & 0x1F, (0, 0))
        length = self[info] = (12 + fixed + each * (info & 0xFFFF)) // 4
        return length


def _find_ids(words: memoryview, names: dict[int, set[tuple[int, str]]]) -> dict[tuple[int, str], tuple[int, int]]:
    found: dict[tuple[int, str], tuple[int, int]] = {}
    lengths = _Lengths()
    at, end, number = 0, len(words), 1
    while at < end:  # a kernel has more than 100,000 types
        info = words[at + 1]
        if words[at] in names:
            for key in names[words[at]]:
                if key[0] == info >> 24 & 0x1F:
                    found.setdefault(key, (number, words[at + 2]))
        at += lengths[info]
        number += 1
    return found
