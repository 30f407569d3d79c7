"""What the guard watches ends with whoever holds the lifeline, and with the guard."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import workbench.lab

GUARD = Path(workbench.lab.__file__).with_name("guard.py")
LONG = 60.0
PROGRAM = ["sh", "-c", "echo $$; exec sleep 1000"]


def start(*command: str) -> tuple[subprocess.Popen[bytes], int]:
    """The guard, and the writing end of its lifeline."""
    held, lifeline = os.pipe()
    words = [sys.executable, "-I", "-S", str(GUARD), str(held), "high", *command]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, pass_fds=(held,)
    )
    os.close(held)
    return process, lifeline


def child(process: subprocess.Popen[bytes]) -> int:
    """A descriptor of the program that the guard started, once that runs."""
    assert process.stdout
    return os.pidfd_open(int(process.stdout.readline()))


def ended(descriptor: int) -> bool:
    try:
        return bool(select.select([descriptor], [], [], LONG)[0])
    finally:
        os.close(descriptor)


def finish(process: subprocess.Popen[bytes], lifeline: int) -> int:
    os.close(lifeline)
    status = process.wait(LONG)
    assert process.stdout
    process.stdout.close()
    return status


def test_the_status_is_handed_on() -> None:
    process, lifeline = start("sh", "-c", "exit 5")
    assert process.wait(LONG) == 5
    finish(process, lifeline)
    process, lifeline = start("/no/such/program")
    assert process.wait(LONG) == 127
    finish(process, lifeline)


def test_the_end_of_the_holder_ends_the_program() -> None:
    process, lifeline = start(*PROGRAM)
    program = child(process)
    assert finish(process, lifeline) == 128 + signal.SIGKILL
    assert ended(program)


def test_the_end_of_the_guard_ends_the_program() -> None:
    process, lifeline = start(*PROGRAM)
    program = child(process)
    process.kill()
    assert ended(program)
    finish(process, lifeline)


def test_ctrl_c_is_left_to_the_holder() -> None:
    process, lifeline = start("sh", "-c", "echo $$; read line; exit 3")
    os.close(child(process))
    process.send_signal(signal.SIGINT)
    assert finish(process, lifeline) in (3, 1, 128 + signal.SIGKILL)
