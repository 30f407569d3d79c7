"""Programs as raw instructions in the kernel: the oracle that verifier, interpreter and JIT are compared with.

BPF_PROG_LOAD and BPF_PROG_TEST_RUN (include/uapi/linux/bpf.h) without libbpf: maps are named by index through
`fd_array`, so the kernel loads the very bytes that the userspace runtime runs. For tests and benchmarks; needs the
privilege to load BPF.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

from workbench.errors import NotPermitted, VerifierRejected, WorkbenchError
from workbench.kernel.bpf_syscall import _syscall

if TYPE_CHECKING:
    from workbench.objects.linked import Function, LinkedMap

__all__ = ("PROGRAM_TYPES", "KernelMap", "KernelProgram", "last_words")

PROGRAM_TYPES: Final = {"socket_filter": 1, "sched_cls": 3, "xdp": 6, "syscall": 31}
_LOG_BYTES = 1 << 20
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_NEXT_KEY, _MAP_FREEZE = 0, 1, 2, 4, 22
_PROG_LOAD, _PROG_TEST_RUN, _BTF_LOAD = 5, 10, 18
_F_RDONLY_PROG = 1 << 7


class _Attr:
    """A bpf_attr and the buffers that it points to."""

    def __init__(self, size: int = 152) -> None:
        self.buffer = ctypes.create_string_buffer(size)
        self._kept: list[object] = []

    def put(self, layout: str, offset: int, *values: object) -> None:
        struct.pack_into("<" + layout, self.buffer, offset, *values)

    def point(self, offset: int, data: bytes | ctypes.Array[ctypes.c_char]) -> None:
        held = ctypes.create_string_buffer(data, len(data)) if isinstance(data, bytes) else data
        self._kept.append(held)
        self.put("Q", offset, ctypes.addressof(held))


def _call(command: int, attr: _Attr) -> int:
    return _syscall("bpf", 0, ctypes.c_int(command), attr.buffer, ctypes.c_uint(len(attr.buffer)))


class KernelMap:
    """A kernel map of the shape of a LinkedMap.

    Raises
    ------
    OSError
        The kernel refuses it.
    """

    def __init__(self, shape: LinkedMap) -> None:
        self.shape = shape
        attr = _Attr()
        flags = shape.flags | (_F_RDONLY_PROG if shape.read_only else 0)
        attr.put("IIIII", 0, shape.type, shape.key_size, shape.value_size, shape.max_entries, flags)
        self.fd = _call(_MAP_CREATE, attr)
        if shape.initial:
            self.update((0).to_bytes(shape.key_size, "little"), shape.initial)
        if shape.read_only:
            freeze = _Attr()
            freeze.put("I", 0, self.fd)
            _call(_MAP_FREEZE, freeze)

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char]) -> None:
        attr = _Attr()
        attr.put("I", 0, self.fd)
        attr.point(8, key)
        attr.point(16, value)
        _call(command, attr)

    def update(self, key: bytes, value: bytes) -> None:
        """BPF_MAP_UPDATE_ELEM."""
        padded = value.ljust(self.shape.value_size, b"\0")
        self._element(_MAP_UPDATE, key, ctypes.create_string_buffer(padded, len(padded)))

    @property
    def content(self) -> dict[bytes, bytes]:
        """Every element: key -> value."""
        found: dict[bytes, bytes] = {}
        key: bytes | None = None
        while True:
            after = ctypes.create_string_buffer(self.shape.key_size)
            attr = _Attr()
            attr.put("I", 0, self.fd)
            if key is not None:
                attr.point(8, key)
            attr.point(16, after)
            try:
                _call(_MAP_NEXT_KEY, attr)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return found
                raise
            key = after.raw
            value = ctypes.create_string_buffer(self.shape.value_size)
            self._element(_MAP_LOOKUP, key, value)
            found[key] = value.raw

    def close(self) -> None:
        """Let the map go."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class KernelProgram:
    """A program that the kernel's verifier accepted.

    Parameters
    ----------
    code : bytes
        RFC 9669 code; maps by BPF_PSEUDO_MAP_IDX.
    kind : str
        A key of `PROGRAM_TYPES`.
    maps : sequence of KernelMap
        By index.
    functions : sequence of Function
        Needed where the code has callbacks: the kernel asks for their types.

    Raises
    ------
    VerifierRejected
        Its `log` is the verifier's.
    NotPermitted
        This user may not load BPF.
    """

    def __init__(
        self,
        code: bytes,
        kind: str = "xdp",
        maps: Sequence[KernelMap] = (),
        functions: Sequence[Function] = (),
    ) -> None:
        self.fd = -1
        with _function_types(functions) as btf:
            try:
                self.fd = self._load(code, kind, maps, functions, btf, None)
            except OSError as refused:
                if refused.errno == errno.EPERM:
                    raise NotPermitted(
                        "the kernel does not let this user load BPF", "run it as root"
                    ) from None
                log = ctypes.create_string_buffer(_LOG_BYTES)
                with contextlib.suppress(OSError):
                    self.fd = self._load(code, kind, maps, functions, btf, log)
                if self.fd >= 0:
                    return
                text = log.value.decode(errors="replace")
                raise VerifierRejected(
                    last_words(text) or refused.strerror or "refused", log=text
                ) from None

    @staticmethod
    def _load(
        code: bytes,
        kind: str,
        maps: Sequence[KernelMap],
        functions: Sequence[Function],
        btf: int,
        log: ctypes.Array[ctypes.c_char] | None,
    ) -> int:
        attr = _Attr()
        attr.put("II", 0, PROGRAM_TYPES[kind], len(code) // 8)
        attr.point(8, code)
        attr.point(16, b"GPL\0")
        if log is not None:
            attr.put("II", 24, 1, len(log))
            attr.point(32, log)
        attr.put("I", 44, 16 if kind == "syscall" else 0)  # BPF_F_SLEEPABLE
        if btf >= 0:
            attr.put("II", 72, btf, 8)
            rows = [struct.pack("<II", one.start, 3 + n) for n, one in enumerate(functions)]
            attr.point(80, b"".join(rows))
            attr.put("I", 88, len(rows))
        if maps:
            attr.point(120, struct.pack(f"<{len(maps)}i", *(one.fd for one in maps)))
        return _call(_PROG_LOAD, attr)

    def run(self, data: bytes = b"", context: bytes = b"") -> tuple[int, bytes]:
        """BPF_PROG_TEST_RUN once: the low 32 bits of r0, and the packet after it.

        Raises
        ------
        WorkbenchError
            The kernel does not run it (XDP wants at least 14 bytes).
        """
        out = ctypes.create_string_buffer(max(len(data) + 256, 1))
        attr = _Attr()
        attr.put("I", 0, self.fd)
        if data:
            attr.put("II", 8, len(data), len(out))
            attr.point(16, data)
            attr.point(24, out)
        if context:
            attr.put("I", 40, len(context))
            attr.point(48, context)
        try:
            _call(_PROG_TEST_RUN, attr)
        except OSError as error:
            raise WorkbenchError(
                f"BPF_PROG_TEST_RUN: {error}", "XDP wants packets of 14 bytes and more"
            ) from None
        result, _, size = struct.unpack_from("<III", attr.buffer, 4)
        return result, out.raw[:size]

    def close(self) -> None:
        """Unload it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> KernelProgram:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def _function_types(functions: Sequence[Function]) -> Iterator[int]:
    """BTF with a static function `int NAME(void)` per function, types 3 and on; -1 for none."""
    if not functions:
        yield -1
        return
    strings, types = b"\0int\0", struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack("<III", 0, 13 << 24, 1)  # FUNC_PROTO: no arguments, returns type 1
    for one in functions:
        types += struct.pack("<III", len(strings), 12 << 24, 2)
        strings += one.name.encode() + b"\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    data = header + types + strings
    attr = _Attr()
    attr.point(0, data)
    attr.put("I", 16, len(data))
    fd = _call(_BTF_LOAD, attr)
    try:
        yield fd
    finally:
        os.close(fd)


def last_words(log: str) -> str:
    """The line of a verifier log that says why."""
    lines = [line.strip() for line in log.strip().splitlines()]
    noise = ("processed ", "verification time", "stack depth", "-- ", "arg#", "max_states")
    words = [line for line in lines if line and not line.startswith(noise)]
    return words[-1] if words else ""
