"""How figures look: colours that colour-blind readers can tell apart, sizes that fit a paper column and a notebook.

Figures are built directly, never through pyplot, so that callbacks in other threads cannot mix them up.
"""

from __future__ import annotations

import io
import textwrap
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ("KERNEL", "NEUTRAL", "PALETTE", "Chart", "color_of", "duration_text", "short_module")

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's colours (Color Universal Design, 2008), in the order in which figures use them."""

KERNEL = "#8C8C8C"
NEUTRAL = "#D9D9D9"
INK = "#222222"
SOFT = "#666666"

WIDTH, DPI = 9.0, 200
"""Inches, and dots per inch of saved files: 1800 pixels, shown at 900 in a notebook."""


class Chart(Figure):
    """A matplotlib figure that shows itself in a notebook and carries its own reading instructions.

    ``chart.how_to_read`` is a paragraph for readers who never saw this kind of figure. It is the text alternative in
    the notebook and the ``Description`` of files written by `save`.
    """

    how_to_read: str = ""
    heading: str = ""

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the figure (format by suffix: png, pdf, svg) with title and reading instructions as metadata."""
        path = Path(path)
        metadata = {
            ".png": {"Title": self.heading, "Description": self.how_to_read},
            ".pdf": {"Title": self.heading, "Subject": self.how_to_read},
            ".svg": {"Title": self.heading, "Description": self.how_to_read},
        }.get(path.suffix.lower())
        self.savefig(path, **{"dpi": DPI, "metadata": metadata, **options})
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[Any, Any]:
        sink = io.BytesIO()
        metadata = {"Title": self.heading, "Description": self.how_to_read}
        self.savefig(sink, format="png", dpi=DPI, metadata=metadata)
        size = {
            "width": round(self.get_figwidth() * 100),
            "height": round(self.get_figheight() * 100),
        }
        text = f"{self.heading}\n{textwrap.fill(self.how_to_read, 100)}"
        return {"image/png": sink.getvalue(), "text/plain": text}, {"image/png": size}


def chart(
    title: str, how_to_read: str, *, height: float, width: float = WIDTH, explain: bool = True
) -> Chart:
    """An empty figure with title and, below the plot, the reading instructions in small print."""
    figure = Chart(figsize=(width, height), dpi=100, layout="constrained")
    figure.heading, figure.how_to_read = title, how_to_read
    look: dict[str, Any] = {"x": 0.01, "ha": "left", "parse_math": False}
    figure.suptitle(title, fontsize=12, fontweight="bold", color=INK, **look)
    if explain:
        wrapped = textwrap.fill(f"How to read: {how_to_read}", int(width * 16.5))
        figure.supxlabel(wrapped, fontsize=7.5, color=SOFT, linespacing=1.3, **look)
    return figure


def tidy(axes: Axes, *, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Remove the frame lines that carry no data; readable tick labels; a faint grid along `grid`."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.xaxis.label.set_fontsize(9.5)
    axes.yaxis.label.set_fontsize(9.5)
    if grid:
        axes.grid(axis=grid, color=NEUTRAL, linewidth=0.6)
        axes.set_axisbelow(True)


def legend(axes: Axes, handles: list[Any], columns: int = 6) -> None:
    """A legend above the plot, in one line where it fits: a wider one would squeeze the plot."""
    if not handles:
        return
    figure: Any = axes.figure
    room = figure.get_figwidth() * 72 * 0.97
    labels = [str(one.get_label()) for one in handles]
    columns = min(len(handles), columns)
    while columns > 1 and _legend_width(labels, columns) > room:
        columns -= 1
    made = axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.2,
    )
    for text in made.get_texts():
        text.set_parse_math(False)


def _legend_width(labels: list[str], columns: int) -> float:
    """About how wide a legend in 8-point type is, in points; matplotlib fills it column by column."""
    rest, extra = divmod(len(labels), columns)
    width, at = 0.0, 0
    for column in range(columns):
        size = rest + (column < extra)
        width += 4.7 * max(map(len, labels[at : at + size])) + 24
        at += size
    return width


def short_module(module: str) -> str:
    """File name of a module without directories; kernel and unknown ones as they are."""
    return module if module.startswith("[") else module.rsplit("/", 1)[-1] or "[unknown]"


def color_of(module: str, order: tuple[str, ...]) -> str:
    """Colour of a module: by rank in `order`, and by its name (so stable between figures) past the palette."""
    if module == "[kernel]":
        return KERNEL
    if module in order[: len(PALETTE)]:
        return PALETTE[order.index(module)]
    grey = 0xB0 + zlib.crc32(module.encode()) % 0x28
    return f"#{grey:02x}{grey:02x}{grey:02x}"


def duration_text(nanoseconds: float) -> str:
    """A duration with a unit that keeps it short: ``3.2 ms``."""
    size = abs(nanoseconds)
    if size >= 0.9995e9:
        value, unit = nanoseconds / 1e9, "s"
    elif size >= 0.9995e6:
        value, unit = nanoseconds / 1e6, "ms"
    elif size >= 0.9995e3:
        value, unit = nanoseconds / 1e3, "µs"
    else:
        value, unit = nanoseconds, "ns"
    return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:,.0f} {unit}"
