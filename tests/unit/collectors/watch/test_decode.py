"""Which candidate is taken for the accessing instruction."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.collectors.watch import arm64, x86
from workbench.collectors.watch.code import Code
from workbench.collectors.watch.decode import Decoder
from workbench.collectors.watch.operands import ACCESSES

STORE = bytes.fromhex("488907")  # mov %rax,(%rdi)
LOAD = bytes.fromhex("488b06")  # mov (%rsi),%rax
CHASE = bytes.fromhex("488b00")  # mov (%rax),%rax
REP_STOSQ = bytes.fromhex("f348ab")
CALL_RAX = bytes.fromhex("ffd0")
IP = 0x5000


class OneFunction:
    """A code reader that knows one function, and counts how often it is asked."""

    def __init__(self, before: bytes, after: bytes = b"\x90" * 16, start: int | None = 0) -> None:
        self.code = Code(before + after, len(before), start, ("file", 1))
        self.asked = 0

    def find(self, pid: int, ip: int, own: bytes = b"", own_ip: int = 0) -> Code:
        self.asked += 1
        return self.code


def decode(
    reader: OneFunction,
    *,
    hits: int = 1,
    write_only: bool = False,
    address: int = 64,
    **values: int,
):
    registers = np.zeros((hits, len(x86.REGISTERS)), np.uint64)
    for name, value in values.items():
        registers[:, x86.REGISTERS.index(name)] = value
    return Decoder(reader, write_only=write_only, arch=x86).decode(
        np.full(hits, 7, np.int32), np.full(hits, IP, np.uint64), np.full(hits, address, np.uint64),
        np.full(hits, 8, np.uint64), registers, np.zeros((hits, 32), np.uint8),
    )  # fmt: skip


def summary(decoded) -> tuple[int, str, bool]:
    return IP - int(decoded.ip[0]), ACCESSES[decoded.access[0]], bool(decoded.exact[0])


def test_the_instruction_before_the_stop_that_touches_the_address() -> None:
    assert summary(decode(OneFunction(LOAD + STORE), rdi=64)) == (3, "write", True)
    assert summary(decode(OneFunction(STORE + LOAD), rsi=60)) == (3, "read", True)


def test_a_stop_reached_by_a_call_stays_unknown() -> None:
    """The instruction before the stop touches something else: another place led here."""
    assert summary(decode(OneFunction(LOAD + STORE), rdi=4096)) == (0, "unknown", False)
    assert summary(decode(OneFunction(STORE + CALL_RAX), rdi=4096)) == (0, "unknown", False)


def test_a_write_watch_is_never_explained_by_a_load() -> None:
    assert summary(decode(OneFunction(STORE + LOAD), rsi=64, write_only=True)) == (
        0,
        "unknown",
        False,
    )


def test_an_address_that_was_overwritten_is_taken_from_the_functions_own_decoding() -> None:
    assert summary(decode(OneFunction(STORE + CHASE), rdi=4096)) == (3, "read", True)


def test_a_repeated_store_in_progress_and_done() -> None:
    stopped = OneFunction(LOAD, REP_STOSQ + b"\x90" * 13)
    assert summary(decode(stopped, rsi=4096, rdi=72)) == (0, "write", True)
    assert summary(decode(OneFunction(LOAD + REP_STOSQ), rdi=72)) == (3, "write", True)
    before = OneFunction(STORE, REP_STOSQ + b"\x90" * 13)
    assert summary(decode(before, rdi=64)) == (3, "write", True)


def test_without_symbols_the_registers_decide() -> None:
    reader = OneFunction(b"\x90" * 40 + STORE, start=None)
    assert summary(decode(reader, rdi=64)) == (3, "write", True)


def test_equal_stops_are_looked_up_once() -> None:
    reader = OneFunction(STORE)
    decoded = decode(reader, hits=1000, rdi=64)
    assert (decoded.ip == IP - 3).all() and decoded.exact.all() and reader.asked == 1


@pytest.mark.parametrize(
    ("word", "access"),
    [
        ("200000f9", "write"),  # str x0, [x1]
        ("200040f9", "read"),  # ldr x0, [x1]
        ("220020f8", "read-write"),  # ldadd x0, x2, [x1]
        ("207ca0c8", "read-write"),  # cas x0, x0, [x1]
        ("2000a0a9", "write"),  # stp
        ("1f2003d5", "unknown"),  # nop
    ],
)
def test_aarch64_reports_the_instruction_itself(word: str, access: str) -> None:
    found = arm64.candidates(bytes(16) + bytes.fromhex(word) + bytes(12), 16, None)
    got = ACCESSES[found[0].operands[0].access] if found else "unknown"
    assert got == access
    assert all(one.back == 0 for one in found)
