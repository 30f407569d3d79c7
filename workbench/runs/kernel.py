"""Start an IPython kernel that cannot outlive the process that runs its notebook.

`python -m workbench.runs.kernel -f CONNECTION_FILE` is what the engine launches instead of `ipykernel_launcher`.
ipykernel itself polls for its parent once a second from a Python thread, which a cell that holds the interpreter
lock (a C loop, a blocked call) starves for ever; on Linux the kernel of the machine does the job instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from workbench.runs.lifeline import die_with_parent

__all__ = ("main",)


def main() -> None:
    """Tie this process to its parent and become an IPython kernel."""
    die_with_parent(int(os.environ.get("JPY_PARENT_PID") or 0))
    # As ipykernel_launcher: modules of the notebook's folder must not shadow what the kernel itself imports.
    # IPython puts the folder back before the first cell runs.
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():
        del sys.path[0]
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
