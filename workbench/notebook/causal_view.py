"""What a notebook shows of causal profiling while it runs: the curves so far, what is tried now, the time to go."""

from __future__ import annotations

import base64
import html
import io
import time
from typing import TYPE_CHECKING, Any

from workbench.notebook.progress import bar
from workbench.notebook.surface import LiveOutput, surface
from workbench.runs.progress import duration_text

if TYPE_CHECKING:
    from workbench.causal.controller import State
    from workbench.causal.results import Results
    from workbench.frames.recording import Recording

__all__ = ("CausalView",)

_EVERY = {"live": 2.0, "document": 10.0}  # seconds between two pictures


class CausalView:
    """One output of a cell, replaced while experiments run, and at the end the curves of the recording."""

    def __init__(self) -> None:
        self._output = LiveOutput() if surface() in _EVERY else None
        self._drawn = 0.0
        self._picture = ""

    def say(self, text: str) -> None:
        """A line of text, where there is no picture yet."""
        if self._output is not None:
            self._output.show(text, f"<div>{html.escape(text)}</div>{self._picture}")

    def watch(self, results: Results, state: State) -> None:
        """The results so far, before the next experiment."""
        if self._output is None:
            return
        now = time.monotonic()
        if now - self._drawn > _EVERY.get(surface(), 10.0):
            self._picture = self._draw(results)
            self._drawn = time.monotonic()
        left = state.remaining
        whole = state.elapsed + (left or 0.0)
        progress = "" if left is None or not whole else bar(state.elapsed / whole)
        to_go = "" if left is None else f"about {duration_text(left)} to go"
        line = f"<div>{html.escape(str(state))}{progress}{to_go}</div>"
        self._output.show(str(state), line + self._picture)

    @staticmethod
    def _draw(results: Results) -> str:
        from workbench.causal.analysis import causal_profile
        from workbench.notebook.plot.causal import draw_profile

        table = causal_profile(*results.frames())
        if not table["change"].notna().any():
            return ""
        figure = draw_profile(table, "What faster regions would gain, so far", explain=False)
        return _image(figure)

    def finish(self, recording: Recording) -> None:
        """The run is over."""
        if self._output is None:
            return
        from workbench.errors import MissingFrame
        from workbench.notebook.plot.causal import causal_profile

        gate: Any = recording.manifest.notes.get("gate", {})
        text = f"{recording.status}; {gate.get('reason', '')}"
        try:
            picture = _image(causal_profile(recording, explain=False))
        except MissingFrame as error:
            picture, text = "", f"{text}; {error.message}"
        self._output.show(text, f"<div>{html.escape(text)}</div>{picture}")


def _image(figure: Any) -> str:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100)
    data = base64.b64encode(sink.getvalue()).decode()
    return f'<img alt="{html.escape(figure.how_to_read)}" src="data:image/png;base64,{data}">'
