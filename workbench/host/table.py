"""The table that `workbench doctor` prints."""

from __future__ import annotations

import html
import json
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

__all__ = ("Doctor", "Row")


@dataclass(frozen=True, slots=True)
class Row:
    """One capability.

    Parameters
    ----------
    name : str
        What the machine may be able to do; tests name it in ``needs(...)``.
    ok : bool
        It was tried and it worked.
    reason : str
        How it was proven, or what went wrong.
    remedy : str
        What to do about it; empty when `ok`.
    """

    name: str
    ok: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Doctor:
    """The rows of one examination, in the order in which they were tried."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row named `name`; KeyError if it was not examined."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a DataFrame: name (str), ok (bool), reason (str), remedy (str)."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows], columns=["name", "ok", "reason", "remedy"])

    def to_json(self) -> str:
        """A JSON list of {name, ok, reason, remedy}."""
        return json.dumps([asdict(row) for row in self.rows], indent=1)

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        indent = " " * (width + 6)
        lines = []
        for row in self.rows:
            head = f"{'ok' if row.ok else 'no':<3} {row.name.ljust(width)}  "
            lines += textwrap.wrap(row.reason, 118, initial_indent=head, subsequent_indent=indent) or [head.rstrip()]
            if row.remedy:
                lines += textwrap.wrap(row.remedy, 118, initial_indent=indent + "-> ", subsequent_indent=indent + "   ")
        able = sum(row.ok for row in self.rows)
        lines.append(f"{able} of {len(self.rows)} capabilities work here")
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text that IPython shows and saves beside the HTML."""
        printer.text(str(self))

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{'✓' if row.ok else '✗'}</td><td>{html.escape(row.name)}</td>"
            f"<td style='text-align:left'>{html.escape(row.reason)}</td>"
            f"<td style='text-align:left'>{html.escape(row.remedy)}</td></tr>"
            for row in self.rows
        )
        return (
            "<table><thead><tr><th></th><th>capability</th><th>reason</th><th>remedy</th></tr></thead>"
            f"<tbody>{cells}</tbody></table>"
        )
