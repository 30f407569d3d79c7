"""Where output goes: a notebook that somebody watches, one that is only executed, a terminal, or nowhere.

An executed notebook must hold the last state of a moving thing and nothing before it, so everything that moves is one
output that is replaced in place (`LiveOutput`), never a stream with carriage returns.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any, Literal

__all__ = ("LiveOutput", "Surface", "ipython_shell", "surface")

Surface = Literal["live", "document", "terminal", "none"]


def ipython_shell() -> Any:
    """The running IPython shell; None outside IPython. Imports nothing."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def surface() -> Surface:
    """Who sees the output of this process right now.

    Returns
    -------
    str
        ``live``: a notebook in a browser or editor. ``document``: a notebook that is executed without anybody to
        press a button (papermill, nbconvert, `workbench run`). ``terminal``: standard error is a terminal.
        ``none``: a file or a pipe.
    """
    shell = ipython_shell()
    if getattr(shell, "kernel", None) is not None:
        return "live" if _has_frontend(shell) else "document"
    return "terminal" if sys.stderr.isatty() else "none"


def _has_frontend(shell: Any) -> bool:
    """No frontend introduces itself to a kernel, but those with a user leave a trace; batch runs leave none."""
    if os.environ.get("WORKBENCH_OUTPUT"):  # `workbench run`, perhaps started from a notebook
        return False
    # Set by Jupyter Server for the kernels of its sessions; by VS Code in the namespace of the notebook.
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns


class LiveOutput:
    """One output of a cell, replaced in place; from any thread, also after the cell has ended."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._shown = False

    def show(self, text: str, html: str = "", extra: dict[str, Any] | None = None) -> None:
        """Show this state instead of the last one.

        Parameters
        ----------
        text : str
            For terminals, logs and untrusted notebooks.
        html : str
            For everyone else; without it the text.
        extra : dict
            More representations by MIME type.
        """
        from IPython import display

        publish: Any = display.display
        data: dict[str, Any] = {"text/plain": text}
        if html:
            data["text/html"] = html
        publish(data | (extra or {}), raw=True, display_id=self._id, update=self._shown)
        self._shown = True
