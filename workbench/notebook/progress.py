"""Progress of anything over two seconds: a bar in a notebook, one line in a terminal, nothing in a pipe.

An executed notebook keeps the last state as text and HTML, not a bar frozen at 0 %.
"""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING

from workbench.notebook.surface import LiveOutput, Surface, surface
from workbench.runs.progress import duration_text

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Progress", "bar")

PATIENCE = 0.5  # seconds; what is over sooner shows nothing
INTERVAL = {"live": 0.2, "document": 1.0, "terminal": 0.1, "none": 1.0}


def bar(fraction: float) -> str:
    """A bar as HTML that needs no script and no style sheet."""
    percent = 100 * min(max(fraction, 0.0), 1.0)
    return (
        f'<div role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" aria-valuemax="100" '
        'style="background:rgba(128,128,128,.25);border-radius:3px;height:6px;width:320px;margin:4px 0">'
        f'<div style="background:#0072B2;border-radius:3px;height:6px;width:{percent:.1f}%"></div></div>'
    )


class Progress:
    """Shows how far a piece of work is and how long it will take.

    Parameters
    ----------
    title : str
        What is going on, as a present participle: ``"resolving symbols"``.
    quiet : bool
        Show nothing.

    Examples
    --------
    >>> with Progress("trying capabilities") as progress:
    ...     for done, name in enumerate(names, 1):
    ...         work(name)
    ...         progress.update(done / len(names), name)
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title = title
        self.fraction = 0.0
        self.detail = ""
        self._surface: Surface = "none" if quiet else surface()
        self._output: LiveOutput | None = None
        self._begin = time.monotonic()
        self._drawn = self._begin + PATIENCE - INTERVAL[self._surface]
        self._visible = False

    def update(self, fraction: float, detail: str = "") -> None:
        """Set how much is done, 0 to 1; cheap enough for an inner loop."""
        self.fraction, self.detail = min(max(fraction, 0.0), 1.0), detail
        now = time.monotonic()
        if now - self._drawn >= INTERVAL[self._surface]:
            self._drawn = now
            self._draw(str(self))

    def close(self, error: bool = False) -> None:
        """End: a terminal's line goes away, a notebook keeps what was done and how long it took."""
        if not self._visible:
            return
        if self._surface == "terminal":
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            end = f"stopped at {self._percent()}" if error else "done"
            self._draw(f"{self.title}: {end} after {duration_text(time.monotonic() - self._begin)}", done=True)
        self._visible = False

    def _percent(self) -> str:
        return f"{100 * self.fraction:.0f} %"

    @property
    def remaining(self) -> float | None:
        """Seconds to go, if it continues as until now; None before anything was done."""
        if self.fraction <= 0:
            return None
        elapsed = time.monotonic() - self._begin
        return elapsed * (1 - self.fraction) / self.fraction

    def __str__(self) -> str:
        left = self.remaining
        eta = "" if left is None else f", about {duration_text(left)} to go"
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.title} {self._percent()}{eta}{detail}"

    def _draw(self, text: str, done: bool = False) -> None:
        if self._surface == "none":
            return
        self._visible = True
        if self._surface == "terminal":
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            return
        if self._output is None:
            self._output = LiveOutput()
        picture = "" if done else bar(self.fraction)
        self._output.show(text, f"<div>{html.escape(text)}{picture}</div>")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error=kind is not None)
