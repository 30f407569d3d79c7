"""Names of tracepoints to entries and exits of system calls; calls found in code and made in trampolines."""

from __future__ import annotations

import platform

import pytest

from workbench.errors import MissingCapability
from workbench.frames.syscall_names import syscall_name, syscall_number
from workbench.runtime.tracepoints import raw_tracepoint, tracepoint


def test_names() -> None:
    assert raw_tracepoint("sys_enter")[1:] == ("enter", None, "raw")
    assert raw_tracepoint("sys_exit")[1:] == ("exit", None, "raw")
    assert tracepoint("raw_syscalls", "sys_exit")[1:] == ("exit", None, "record")
    openat = syscall_number("openat")
    assert openat is not None and syscall_name(openat) == "openat"
    assert tracepoint("syscalls", "sys_enter_openat")[1:] == ("enter", openat, "record")
    assert tracepoint("syscalls", "sys_exit_openat")[1:] == ("exit", openat, "record")


def test_numbers_by_table_and_by_the_kernels_functions() -> None:
    assert syscall_number("getppid", "x86_64") == 110
    assert syscall_number("newfstat", "x86_64") == syscall_number("fstat", "x86_64") == 5
    assert syscall_number("sendfile64", "x86_64") == syscall_number("sendfile", "x86_64") == 40
    assert syscall_number("getppid", "aarch64") == 173
    assert syscall_number("nonsense", "x86_64") is None


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("sched", "sched_switch"),
        ("syscalls", "sys_enter"),
        ("syscalls", "sys_enter_nonsense"),
        ("raw_syscalls", "sys_enter_openat"),
    ],
)
def test_the_kernels_alone(category: str, name: str) -> None:
    with pytest.raises(MissingCapability, match=f"{category}:{name} fires in the kernel alone"):
        tracepoint(category, name)
    with pytest.raises(MissingCapability, match="sched_switch"):
        raw_tracepoint("sched_switch")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="trampolines are for x86-64")
def test_trampoline_keeps_what_it_displaces() -> None:
    """The instructions run in order around one system call; a thread inside the old bytes has a place in the new."""
    iced = pytest.importorskip("iced_x86")
    from workbench.runtime.attach.syscall_trampoline import call_trampoline

    old = bytes.fromhex("89f00f054885c07805")  # mov %esi,%eax; syscall; test %rax,%rax; js +5
    at, here = 0x400000, 0x10000
    displaced = list(iced.Decoder(64, old, ip=at))
    made = call_trampoline(here, 0x20000, 0x21000, displaced, keeps_flags=True)
    decoder = iced.Decoder(64, made.code, ip=here)
    instructions = {one.ip: one for one in decoder}
    assert set(made.moved) == {at, at + 2, at + 4, at + 7}
    assert made.moved[at] == here
    straight = made.moved[at + 2]
    assert instructions[straight].mnemonic == iced.Mnemonic.SYSCALL
    assert made.moved[at + 4] == straight + 2, "a restart goes back by two bytes"
    branch = instructions[made.moved[at + 7]]
    assert branch.mnemonic == iced.Mnemonic.JS and branch.near_branch_target == at + len(old) + 5
    last = max(instructions)
    assert instructions[last].near_branch_target == at + len(old)
    assert sum(one.mnemonic == iced.Mnemonic.SYSCALL for one in instructions.values()) == 4
    numbers = {
        one.immediate(1)
        for one in instructions.values()
        if one.mnemonic == iced.Mnemonic.MOV and one.op1_kind == iced.OpKind.IMMEDIATE32
    }
    assert numbers == {56, 58, 435}
