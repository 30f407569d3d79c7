"""Events per second over the life of a recording, in bounded memory, and how they look."""

from __future__ import annotations

import html

__all__ = ("Rates", "sparkline")

COLOR = "#0072B2"  # blue of the colour-blind cycle of Okabe and Ito, readable on light and dark
WARM_UP = 0.5  # seconds


class Rates:
    """Events over time of one collector; at most `points` steps, each as long as need be for the whole recording.

    Parameters
    ----------
    points : int
        Even number of steps at which neighbours are joined, so that an hour takes as much memory as a second.
    """

    def __init__(self, points: int = 120) -> None:
        self._points = points
        self._marks: list[tuple[float, int]] = []
        self._step = 0.0

    def add(self, seconds: float, events: int) -> None:
        """The count of events so far, `seconds` after the begin."""
        # What piled up while everything was being attached is no rate: counting starts after the first drain.
        if not self._marks or (seconds < WARM_UP and self._marks[-1][1] == 0):
            self._marks = [(seconds, events)]
            return
        last = self._marks[-1][0]
        if seconds <= last:
            self._marks[-1] = (last, events)
            return
        if len(self._marks) > 1 and last - self._marks[-2][0] < self._step:
            self._marks[-1] = (seconds, events)  # the running step is not over yet
        else:
            self._marks.append((seconds, events))
        if len(self._marks) > self._points:
            self._marks = self._marks[::2] + ([] if len(self._marks) % 2 else self._marks[-1:])
            self._step = 2 * (self._marks[-1][0] / self._points)

    def per_second(self) -> list[float]:
        """Events per second of each step, oldest first."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]

    def latest(self, seconds: float = 1.0) -> float | None:
        """Events per second over the last `seconds`, or the last step where steps are longer; None before that."""
        end, events = self._marks[-1] if self._marks else (0.0, 0)
        for index, (time, count) in reversed(list(enumerate(self._marks[:-1]))):
            if end - time >= seconds or index == 0:
                return (events - count) / (end - time)
        return None

    def average(self) -> float | None:
        """Events per second over everything."""
        return self.latest(float("inf"))


def sparkline(values: list[float], label: str, width: int = 160, height: int = 24) -> str:
    """A small area chart as inline SVG, zero at its lower edge and the greatest value at its upper.

    Parameters
    ----------
    values : list of float
        At equal distances.
    label : str
        What it shows, for screen readers and as a tooltip.
    """
    top = max(values, default=0.0)
    title = f"<title>{html.escape(label)}</title>"
    head = (
        f'<svg class="wb-sparkline" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="vertical-align:middle">{title}'
    )
    base = f'<path d="M0 {height - 0.5}H{width}" stroke="{COLOR}" stroke-opacity=".35"/>'
    if len(values) < 2 or top <= 0:
        return f"{head}{base}</svg>"
    step = width / (len(values) - 1)
    points = [
        f"{index * step:.1f} {height - 1 - (height - 3) * value / top:.1f}"
        for index, value in enumerate(values)
    ]
    line = "L".join(points)
    return (
        f'{head}{base}<path d="M0 {height - 1}L{line}L{width} {height - 1}Z" fill="{COLOR}" '
        f'fill-opacity=".25"/><path d="M{line}" fill="none" stroke="{COLOR}" stroke-width="1.5"/></svg>'
    )
