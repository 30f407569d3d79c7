"""What a frame declares of itself: columns with dtype, unit and meaning.

`schema.py` holds the declarations; a `resolve` column is not written by a collector but filled from addresses when a
recording is finished or loaded (see `resolve.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workbench.errors import MissingFrame

__all__ = ("Column", "Kind", "Schema")

Kind = Literal[
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float64",
    "bool",
    "str",
]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a frame.

    Parameters
    ----------
    name : str
        Column name.
    dtype : str
        numpy dtype name, or ``str`` for text (dictionary-encoded on disk, ``category`` in pandas).
    unit : str
        Unit of the values: ``ns``, ``bytes``, ``address``, ``id``, or empty for plain counts and text.
    meaning : str
        One sentence for the reader of the frame.
    resolve : str
        Empty for a recorded column. ``function:COL``, ``module:COL`` or ``line:COL``: text resolved from the address
        in column COL of the same row (with the row's pid). ``leaf:COL``: function of the innermost frame of stack
        COL. ``user:COL``: of its innermost frame outside the kernel, or as ``leaf`` where it has none.
    """

    name: str
    dtype: Kind
    unit: str
    meaning: str
    resolve: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """The declaration of one frame.

    ``open_columns`` says that a recording may add columns of its own (typed arguments of a probe); these are
    declared in the recording's manifest.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    recorded_by: str
    open_columns: bool = False

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise MissingFrame(
            f"frame {self.name!r} has no column {name!r}", f"its columns: {', '.join(self.names)}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in declared order."""
        return tuple(column.name for column in self.columns)

    @property
    def recorded(self) -> tuple[Column, ...]:
        """The columns that a collector writes (those without a `resolve` rule)."""
        return tuple(column for column in self.columns if not column.resolve)

    def __str__(self) -> str:
        head = f"{self.name}: {self.meaning} (recorded by {self.recorded_by})"
        rows = [("column", "dtype", "unit", "meaning")] + [
            (c.name, c.dtype, c.unit or "-", c.meaning) for c in self.columns
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  "
            + "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]
            )
            for row in rows
        ]
        return "\n".join([head, *lines])
