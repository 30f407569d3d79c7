"""Self-contained interactive charts: one HTML fragment with its style, script and data, and nothing from elsewhere."""

from __future__ import annotations

import html
import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ("LIMIT", "InteractiveChart", "asset", "document", "safe_json")

LIMIT = 1_000_000
"""Bytes of HTML that a chart may have. Notebooks hold many charts and are kept in version control."""


def safe_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, ``>`` or ``&``, and no line separators of JavaScript."""
    out = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        out = out.replace(mark, f"\\u{ord(mark):04x}")
    # Lone surrogates (undecodable bytes of a name) cannot be written as UTF-8.
    return out.encode("utf-8", "replace").decode()


@cache
def asset(name: str) -> str:
    """A file of the package's assets."""
    return (files("workbench.notebook") / "assets" / name).read_text(encoding="utf-8")


def document(title: str, *parts: str) -> str:
    """A whole HTML document of the given parts; it follows the reader's light or dark preference."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>:root {{ color-scheme: light dark; }}"
        "body { margin: 16px; background: Canvas; color: CanvasText; font-family: sans-serif; }</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


class InteractiveChart:
    """A chart for a notebook's output cell.

    Shows itself as HTML where scripts run, and as `text` in terminals, logs and untrusted notebooks.

    Parameters
    ----------
    kind : str
        flamegraph, timeline, heatmap or latency: the script that draws it.
    data : dict
        What the script draws, as JSON values.
    text : str
        The same as plain text.
    """

    def __init__(self, kind: str, data: dict[str, Any], text: str) -> None:
        self.kind = kind
        self.data = data
        self.text = text

    def to_html(self) -> str:
        """The chart as an HTML fragment, at most about 1 MB."""
        script = f"(() => {{\n{asset('common.js')}\n{asset(self.kind + '.js')}\n}})();"
        return (
            f'<div class="wb-chart" data-kind="{html.escape(self.kind)}">'
            f"<style>{asset('chart.css')}</style>"
            f'<pre class="wb-fallback">{html.escape(self.text)}</pre>'
            f'<script type="application/json" class="wb-data">{safe_json(self.data)}</script>'
            f"<script>{script}</script></div>"
        )

    def to_page(self) -> str:
        """A whole HTML document that holds only this chart; it follows the reader's light or dark preference."""
        return document(str(self.data.get("title", self.kind)), self.to_html())

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": self.text}
