"""Helpers written for reading, over `ReferenceMap`: what the interpreter has without the native core.

Numbers and semantics are the kernel's (include/uapi/linux/bpf.h). Each takes the interpreter and r1 to r5; memory is
read and written through the interpreter's checked regions.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Final

from workbench.runtime.interpreter.fault import Misuse
from workbench.runtime.interpreter.machine import HelperFunction, Interpreter, TailCall
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.interpreter.memory import Allocation

__all__ = ("REFERENCE_HELPERS",)

MAX_LOOPS = 8 << 20
MAX_TAIL_CALLS = 33


def _map(machine: Interpreter, handle: int) -> ReferenceMap:
    found = machine.map_at.get(handle)
    if not isinstance(found, ReferenceMap):
        raise Misuse(f"gives {handle:#x} for a map")
    return found


def _lookup(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    used = _map(machine, r1)
    address = used.lookup(machine.memory.read(r2, used.key_size))
    if address:
        machine.memory.add(address, used.value_size, f"value of {used.name}", owner=used)
    return address


def _update(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    used = _map(machine, r1)
    key = machine.memory.read(r2, used.key_size)
    return used.update(key, machine.memory.read(r3, used.value_size), r4)


def _delete(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    used = _map(machine, r1)
    return used.delete(machine.memory.read(r2, used.key_size))


def _push(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    used = _map(machine, r1)
    return used.push(machine.memory.read(r2, used.value_size), r3)


def _take(machine: Interpreter, handle: int, place: int, *, remove: bool) -> int:
    used = _map(machine, handle)
    value = used.take(remove=remove)
    machine.memory.write(place, value if value is not None else bytes(used.value_size))
    return 0 if value is not None else -errno.ENOENT


def _pop(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return _take(machine, r1, r2, remove=True)


def _peek(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return _take(machine, r1, r2, remove=False)


def _for_each(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    if r4:
        return -errno.EINVAL
    used, count = _map(machine, r1), 0
    for key, address in used.elements():
        place = Allocation(len(key), key)
        machine.memory.add(place.address, len(key), "key", writable=False, owner=place)
        machine.memory.add(address, used.value_size, f"value of {used.name}", owner=used)
        count += 1
        stop = machine.callback(r2, r1, place.address, address, r3)
        machine.memory.remove(place.address)
        if stop:
            break
    return count


def _loop(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    rounds = r1 & 0xFFFFFFFF
    if r4:
        return -errno.EINVAL
    if rounds > MAX_LOOPS:
        return -errno.E2BIG
    for done in range(rounds):
        if machine.callback(r2, done, r3):
            return done + 1
    return rounds


def _tail_call(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    target = _map(machine, r2).programs.get(r3 & 0xFFFFFFFF)
    if target is None or machine.tail_calls >= MAX_TAIL_CALLS:
        return -errno.EINVAL
    raise TailCall(target)


def _safe_read(machine: Interpreter, address: int, size: int) -> bytes | None:
    """Any memory of this process, without a fault."""
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - a file descriptor's life
            data = os.pread(memory.fileno(), size, address)
    except (OSError, OverflowError):
        return None
    return data if len(data) == size else None


def _probe_read(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    size = r2 & 0xFFFFFFFF
    data = _safe_read(machine, r3, size) if size else b""
    if data is None or abs(r3 - r1) >= size:
        machine.memory.write(r1, data if data is not None else bytes(size))
        return 0 if data is not None else -errno.EFAULT
    done = 0
    for step in (8, 4, 2, 1):  # they overlap: in the order of copy_from_kernel_nofault
        while size - done >= step:
            machine.memory.write(r1 + done, bytes(_safe_read(machine, r3 + done, step) or b""))
            done += step
    return 0


def _probe_read_string(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    size = r2 & 0xFFFFFFFF
    text = b""
    while len(text) < size - 1:
        byte = _safe_read(machine, r3 + len(text), 1)
        if byte is None:
            machine.memory.write(r1, bytes(size))
            return -errno.EFAULT
        if byte == b"\0":
            break
        text += byte
    if size:
        machine.memory.write(r1, text + b"\0")
    return min(len(text) + 1, size)


def _string_compare(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    size = r2 & 0xFFFFFFFF
    first = machine.memory.read(r1, size)
    for at in range(size):
        byte = machine.memory.load(r3 + at, 1)
        if first[at] != byte:
            return -1 if first[at] < byte else 1
        if byte == 0:
            break
    return 0


def _print(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    text = machine.memory.read(r1, r2 & 0xFFFFFFFF).partition(b"\0")[0].decode(errors="replace")
    machine.printed.append(text)
    return len(text)


def _output(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    _map(machine, r1).records.append(machine.memory.read(r2, r3))
    return 0


def _reserve(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    used = _map(machine, r1)
    if r3 or r2 + 8 > used.max_entries:
        return 0
    place = Allocation(r2)
    used.reserved[place.address] = place
    machine.memory.add(place.address, r2, f"record of {used.name}", owner=place)
    return place.address


def _give_back(machine: Interpreter, address: int, *, keep: bool) -> int:
    for used in machine.maps:
        if isinstance(used, ReferenceMap) and address in used.reserved:
            machine.memory.remove(address)
            record = used.reserved.pop(address)
            if keep:
                used.records.append(record.content)
            return 0
    raise Misuse(f"gives back {address:#x}, which is no reserved record")


def _submit(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return _give_back(machine, r1, keep=True)


def _discard(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return _give_back(machine, r1, keep=False)


def _name(machine: Interpreter, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "rb") as file:  # noqa: PTH123
        name = file.read().rstrip(b"\n")
    size = r2 & 0xFFFFFFFF
    machine.memory.write(r1, name[: size - 1].ljust(size, b"\0"))
    return 0


REFERENCE_HELPERS: Final[Mapping[int, HelperFunction]] = {
    1: _lookup,
    2: _update,
    3: _delete,
    4: _probe_read,
    5: lambda *_: time.monotonic_ns(),
    6: _print,
    7: lambda *_: random.getrandbits(32),
    8: lambda *_: ctypes.CDLL(None).sched_getcpu(),
    12: _tail_call,
    14: lambda *_: os.getpid() << 32 | threading.get_native_id(),
    15: lambda *_: os.getgid() << 32 | os.getuid(),
    16: _name,
    45: _probe_read_string,
    87: _push,
    88: _pop,
    89: _peek,
    112: _probe_read,
    113: _probe_read,
    114: _probe_read_string,
    115: _probe_read_string,
    130: _output,
    131: _reserve,
    132: _submit,
    133: _discard,
    164: _for_each,
    181: _loop,
    182: _string_compare,
}
