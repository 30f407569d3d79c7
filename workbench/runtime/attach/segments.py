"""Shared memory of a namespace in the target: its segment of participants and the segments of maps.

The target opens the files itself, by their path, so it must be the same user's and see the same file system. Its
threads become participants, whose robust lists the kernel walks when they end: they leave before the file is unmapped
(`leaving`).
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, RunFailed
from workbench.runtime.attach.agent import MMAP, READ, WRITE, LoadedAgent
from workbench.runtime.attach.ledger import AT as LEDGER_AT
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import STUBS, Calls

if TYPE_CHECKING:
    from workbench.runtime.maps import Map, Space

__all__ = ("MAP_SIZE", "PATH_AT", "join_space", "open_map")

_SHARED = 1
_OPENAT, _CLOSE = 257, 3
_HERE = -100
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
PATH_AT = (len(STUBS) + 63) & -64
MAP_SIZE = 128


def _map_file(calls: Calls, memory: Memory, agent: LoadedAgent, path: Path) -> tuple[int, int]:
    """Address and length of the whole file in the target."""
    name = os.fsencode(path) + b"\0"
    if len(name) > LEDGER_AT - PATH_AT:
        raise MissingCapability(
            f"{path} is too long a path", "set WORKBENCH_NAMESPACES to a shorter one"
        )
    length = path.stat().st_size
    memory.write(agent.stub + PATH_AT, name)
    try:
        fd = calls.call(_OPENAT, _HERE, agent.stub + PATH_AT, _FLAGS, 0)
        try:
            return calls.call(MMAP, 0, length, READ | WRITE, _SHARED, fd, 0), length
        finally:
            calls.call(_CLOSE, fd)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotPermitted(
                f"process {memory.pid} may not open {path}: the namespace is another user's",
                "run the workbench as the owner of the process",
            ) from error
        raise MissingCapability(
            f"process {memory.pid} cannot map {path}: {error.strerror}",
            "it must see the folder of namespaces (WORKBENCH_NAMESPACES): is it in a container or chroot?",
        ) from error


def join_space(calls: Calls, memory: Memory, agent: LoadedAgent, space: Space) -> None:
    """Open the namespace in the target; each thread joins it when it first hits a probe."""
    address, length = _map_file(calls, memory, agent, space.path / "participants")
    if error := calls.function(agent.symbols["wb_agent_space"], address, length):
        raise RunFailed(f"namespace {space.name!r} is damaged: {os.strerror(-error)}")


def open_map(calls: Calls, memory: Memory, agent: LoadedAgent, one: Map, at: int) -> None:
    """Open a map in the target: its struct wb_map (`MAP_SIZE` zero bytes) is at `at`."""
    address, length = _map_file(calls, memory, agent, one.path)
    if error := calls.function(agent.symbols["wb_agent_map"], at, address, length):
        raise RunFailed(f"map {one.name!r} is damaged: {os.strerror(-error)}")


def _check() -> None:
    from workbench.runtime.maps.core import CMap

    assert ctypes.sizeof(CMap) == MAP_SIZE, "struct wb_map changed"
