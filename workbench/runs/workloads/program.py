"""What every workload program does: say that it is ready, work until the time is over or the parent is gone."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ("run",)

_PR_SET_PDEATHSIG = 1


def run(prepare: Callable[[Path], tuple[dict[str, Any], Callable[[], None]]]) -> None:
    """Call `prepare(folder)`, print its facts as one JSON line, then call its step until the time is over.

    The command line is: seconds, folder for files. The program dies with the process that started it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    seconds, folder = float(sys.argv[1]), Path(sys.argv[2])
    facts, step = prepare(folder)
    print(json.dumps(facts), flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        step()
