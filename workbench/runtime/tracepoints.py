"""Tracepoints that user space has: entry and exit of system calls.

raw_tp/sys_enter, raw_tp/sys_exit               struct bpf_raw_tracepoint_args: registers; number or result
tracepoint/raw_syscalls/sys_enter, sys_exit     the kernel's record, for every call
tracepoint/syscalls/sys_enter_NAME, sys_exit_NAME   the same, for one call
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from workbench.errors import MissingCapability
from workbench.frames.syscall_names import syscall_number

if TYPE_CHECKING:
    from workbench.runtime.attach import Link
    from workbench.runtime.attach.syscalls import CallRequest
    from workbench.runtime.maps import Map
    from workbench.runtime.program import Program

__all__ = ("CallPoint", "call_request", "raw_tracepoint", "tracepoint")

_WHEN: dict[str, Literal["enter", "exit"]] = {"sys_enter": "enter", "sys_exit": "exit"}


class CallPoint(NamedTuple):
    """Entry or exit of one system call, or (number None) of all."""

    name: str
    when: Literal["enter", "exit"]
    number: int | None
    form: Literal["raw", "record"]


def _missing(name: str) -> MissingCapability:
    return MissingCapability(
        f"tracepoint {name} fires in the kernel alone: user space has those of system calls",
        "use backend='kernel', or sys_enter, sys_exit, syscalls:sys_enter_NAME, syscalls:sys_exit_NAME",
    )


def raw_tracepoint(name: str) -> CallPoint:
    """What a raw tracepoint's name stands for.

    Raises
    ------
    MissingCapability
        The kernel's alone.
    """
    if name not in _WHEN:
        raise _missing(name)
    return CallPoint(name, _WHEN[name], None, "raw")


def tracepoint(category: str, name: str) -> CallPoint:
    """What a tracepoint's category and name stand for; the same errors."""
    whole = f"{category}:{name}"
    if category == "raw_syscalls" and name in _WHEN:
        return CallPoint(whole, _WHEN[name], None, "record")
    for prefix, when in _WHEN.items():
        if category == "syscalls" and name.startswith(prefix + "_"):
            number = syscall_number(name.removeprefix(prefix + "_"))
            if number is not None:
                return CallPoint(whole, when, number, "record")
    raise _missing(whole)


def call_request(
    point: CallPoint, program: Program, maps: tuple[Map, ...], cookie: int, holder: list[Link]
) -> CallRequest:
    """The request for a process's system calls; `holder` follows what becomes of it."""
    from workbench.runtime.attach.syscalls import ANY, CallRequest

    return CallRequest(
        program.probe,
        0,
        "uprobe",
        cookie,
        maps,
        holder=holder,
        when=point.when,
        number=ANY if point.number is None else point.number,
        form=point.form,
    )
