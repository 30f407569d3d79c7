"""The process between us and QEMU: a guest never outlives the program that started it, however that one ends.

``python -I -S guard.py LIFELINE COMMAND...``: LIFELINE is the reading end of a pipe whose writing end only our process
holds. When it closes, QEMU is killed; when this process is killed, the kernel kills QEMU (PR_SET_PDEATHSIG, which holds
for the thread that starts a process: ours might end before our process does, this one has only one).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

__all__ = ("main",)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(words: list[str]) -> int:
    """Run the command; its exit status, 128 + signal when it was killed."""
    lifeline, command = int(words[0]), words[1:]
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
