"""Displaced instructions: what they become elsewhere, and which places take no jump."""

from __future__ import annotations

import pytest

from workbench.runtime.attach.relocate import Unjumpable, branch_targets, displaced, plan
from workbench.runtime.attach.trampoline import jump

AT, FAR = 0x401000, 0x501000


def text(code: bytes, at: int) -> list[str]:
    import capstone

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [f"{one.mnemonic} {one.op_str}".strip() for one in decoder.disasm(code, at)]


def moved(code: str, size: int | None = None) -> list[str]:
    data = bytes.fromhex(code)
    one = plan(data, AT, len(data) if size is None else size)
    return text(displaced(one, FAR), FAR)


def test_a_plain_prologue_is_copied_and_goes_on_behind_it() -> None:
    assert moved("55 4889e5 4883ec10 c3") == [
        "push rbp",
        "mov rbp, rsp",
        "sub rsp, 0x10",
        "jmp 0x401008",
    ]


def test_operands_relative_to_the_counter_still_name_their_place() -> None:
    (load, _) = moved("488b0500010000")
    target = AT + 7 + 0x100
    assert load == f"mov rax, qword ptr [rip - {FAR + 7 - target:#x}]"


def test_short_branches_become_long_ones() -> None:
    assert moved("4885ff 7410 c3 90 90") == [
        "test rdi, rdi",
        f"je {AT + 5 + 0x10:#x}",
        f"jmp {AT + 5:#x}",
    ]


def test_a_call_pushes_the_original_return_address() -> None:
    code = moved("4883ec08 e800010000 c3")
    assert code == [
        "sub rsp, 8",
        f"push {AT + 9:#x}",
        "mov dword ptr [rsp + 4], 0",
        f"jmp {AT + 9 + 0x100:#x}",
    ]


@pytest.mark.parametrize(
    ("code", "size", "why"),
    [
        ("ffd0 4889c3 c3", None, "a call returns into"),
        ("31c0 0f05 c3", None, "system call"),
        ("cc 90 90 90 90 c3", None, "trap"),
        ("31c0 c3 55 4889e5", 3, "no padding"),
        ("4889f8", 3, "runs on"),
        ("c5", 1, "no instructions"),
    ],
)
def test_places_that_take_no_jump(code: str, size: int | None, why: str) -> None:
    with pytest.raises(Unjumpable, match=why):
        moved(code, size)


@pytest.mark.parametrize("padding", ["9090", "cccc", "0000", "66662e0f1f840000000000", "0f1f00"])
def test_short_functions_with_padding_take_one(padding: str) -> None:
    assert moved("31c0 c3" + padding, 3) == ["xor eax, eax", "ret"]


def test_a_branch_into_the_bytes_is_seen() -> None:
    code = bytes.fromhex("48ffc0 48ffc1 4839d8 75f8 c3")
    targets = branch_targets(code, AT)
    assert targets == {AT + 3}
    with pytest.raises(Unjumpable, match="branch leads to its byte 3"):
        plan(code, AT, len(code), targets=targets)


def test_the_jump() -> None:
    assert text(jump(AT, FAR), AT) == [f"jmp {FAR:#x}"]
    assert text(jump(FAR, AT), FAR) == [f"jmp {AT:#x}"]
