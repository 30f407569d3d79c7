"""A trial: one capability, the function that tries it, and what to advise when it fails.

A function returns how the capability was proven. It fails by raising: `Absent` with a reason (and a remedy of its own
where it knows better than the table), or any OSError of the kernel. Whatever it opens it gives to `stack`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.host.table import Row

__all__ = ("TRIALS", "Absent", "Trial", "attempt", "grant", "holding", "trial")

Attempt = Callable[[ExitStack], str]


class Absent(Exception):
    """The capability is not there."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Trial:
    """How to try one capability.

    Parameters
    ----------
    name : str
        Row of the table.
    run : callable
        Takes an ExitStack that closes what was opened; returns how it was proven.
    remedy : str
        Advice when the machine lacks it.
    permission : str
        Advice when it is refused to this user.
    limit : float
        Seconds after which it counts as hung.
    """

    name: str
    run: Attempt
    remedy: str
    permission: str
    limit: float


TRIALS: dict[str, Trial] = {}


def trial(name: str, remedy: str, permission: str = "", limit: float = 10.0) -> Callable[[Attempt], Attempt]:
    """Register a function as the trial of `name`."""

    def register(function: Attempt) -> Attempt:
        TRIALS[name] = Trial(name, function, remedy, permission, limit)
        return function

    return register


def holding(stack: ExitStack, fd: int) -> int:
    """`fd`, closed when the trial ends."""
    stack.callback(os.close, fd)
    return fd


def grant(*capabilities: str) -> str:
    """Advice that gives this interpreter Linux capabilities instead of running notebooks as root."""
    listed = ",".join(f"cap_{one}" for one in capabilities)
    return f"run as root, or: sudo setcap {listed}+ep {Path(sys.executable).resolve()}"


def attempt(one: Trial) -> Row:
    """Try it; never raises."""
    try:
        with ExitStack() as stack:
            return Row(one.name, True, one.run(stack))
    except Absent as absent:
        return Row(one.name, False, str(absent), absent.remedy or one.remedy)
    except WorkbenchError as error:
        return Row(one.name, False, error.message, error.hint or one.remedy)
    except OSError as error:
        return _refused(one, error)
    except Exception as error:  # a trial that breaks must not take the table with it
        return Row(one.name, False, f"{type(error).__name__}: {error}", one.remedy)


def _refused(one: Trial, error: OSError) -> Row:
    name = errno.errorcode.get(error.errno or 0, "error")
    where = f" ({error.filename})" if error.filename else ""
    reason = f"{name}: {error.strerror or error}{where}"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return Row(one.name, False, reason, one.remedy)
    if os.geteuid() == 0:
        why = "refused even to root (container without the capability, kernel lockdown, or the vendor's policy)"
        return Row(one.name, False, f"{reason}; {why}", one.remedy)
    return Row(one.name, False, reason, one.permission or one.remedy)
