"""Registers and stack bytes of a live process by ptrace: what the cpu collector's BPF program copies, exactly."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SINGLESTEP, DETACH, GETREGSET, SEIZE, INTERRUPT = 9, 17, 0x4204, 0x4206, 0x4207
WALL = 0x40000000
# ip, sp, fp and lr in the words of NT_PRSTATUS
PLACES = {"x86_64": (16, 19, 4), "aarch64": (32, 31, 29, 30)}[platform.machine()]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _registers(tid: int) -> list[int]:
    words = (ctypes.c_uint64 * 40)()
    vector = _Vector(ctypes.addressof(words), ctypes.sizeof(words))
    _ptrace(GETREGSET, tid, 1, ctypes.addressof(vector))
    return [int(words[place]) for place in PLACES]


def _stack(memory: Any, sp: int, size: int) -> bytes:
    """Up to the page boundary, then page by page, as the collector copies."""
    data = b""
    while len(data) < size:
        at = sp + len(data)
        try:
            memory.seek(at)
            data += memory.read(min(4096 - at % 4096, size - len(data)))
        except (OSError, ValueError):
            break
    return data


class Samples(NamedTuple):
    """Arguments of `Unwinder.unwind`, and the thread of each sample."""

    pids: np.ndarray
    registers: np.ndarray
    stacks: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    tids: list[int]


def _samples(pid: int, taken: list[tuple[int, list[int], bytes]]) -> Samples:
    lengths = np.array([len(stack) for *_, stack in taken], np.int32)
    return Samples(
        np.full(len(taken), pid, np.int32),
        np.array([registers for _, registers, _ in taken], np.uint64),
        np.frombuffer(b"".join(stack for *_, stack in taken), np.uint8),
        np.cumsum(lengths, dtype=np.int64) - lengths,
        lengths,
        [tid for tid, *_ in taken],
    )


@contextmanager
def _stopped(pid: int, tids: list[int]) -> Iterator[None]:
    held = []
    try:
        for tid in tids:
            _ptrace(SEIZE, tid)
            held.append(tid)
            _ptrace(INTERRUPT, tid)
            os.waitpid(tid, WALL)
        yield
    finally:
        for tid in held:
            _ptrace(DETACH, tid)


def snapshots(pid: int, times: int, size: int = 16384) -> Samples:
    """Stop all threads of a process `times` times and copy the registers and stack of each."""
    taken = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for _ in range(times):
            tids = sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
            with _stopped(pid, tids):
                for tid in tids:
                    registers = _registers(tid)
                    taken.append((tid, registers, _stack(memory, registers[1], size)))
    return _samples(pid, taken)


def every_instruction(pid: int, count: int, size: int = 8192) -> Samples:
    """Registers and stack of the main thread after each of `count` single steps."""
    taken = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory, _stopped(pid, [pid]):
        for _ in range(count):
            _ptrace(SINGLESTEP, pid)
            _, status = os.waitpid(pid, WALL)
            if not os.WIFSTOPPED(status):
                raise ProcessLookupError(f"process {pid} ended while it was stepped")
            registers = _registers(pid)
            taken.append((pid, registers, _stack(memory, registers[1], size)))
    return _samples(pid, taken)
