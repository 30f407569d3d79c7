"""The process between us and QEMU: a guest never outlives the program that started it, however that one ends.

``python -I -S guard.py LIFELINE PRIORITY COMMAND...``: LIFELINE is the reading end of a pipe whose writing end only our
process holds. When it closes, QEMU is killed. When this process is killed, the kernel kills QEMU (PR_SET_PDEATHSIG);
that watches the thread which started a process, and this process has only one, where ours may have many.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys

__all__ = ("main",)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(words: list[str]) -> int:
    """Run the command; its exit status, 128 + signal when it was killed."""
    lifeline, before_others, command = int(words[0]), words[1] == "high", words[2:]
    library = ctypes.CDLL(None)
    parent = os.getpid()
    for number in (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
    ):  # Ctrl-C is for our process, which then closes
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if not child:
        os.close(lifeline)
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if before_others:
            _rise()
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    watched = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(lifeline, select.POLLIN)
    waiting.register(watched, select.POLLIN)
    if watched not in {descriptor for descriptor, _ in waiting.poll()}:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _rise() -> None:
    """Run before the host's other programs, as far as this user may."""
    for way in (_raise_group, lambda: os.nice(-10)):
        with contextlib.suppress(OSError):
            way()


def _raise_group() -> None:
    # With CONFIG_SCHED_AUTOGROUP niceness counts only inside a session; the session has one of its own.
    with open("/proc/self/autogroup", "w") as file:  # noqa: PTH123  pathlib takes long to import
        file.write("-15")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
