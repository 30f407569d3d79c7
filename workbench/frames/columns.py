"""Columns on their way to disk: checked against the schema, copied into a reused block, text as codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from workbench.frames.schema import Column

__all__ = ("BLOCK_ROWS", "Block", "arrow_schema", "arrow_type", "check_columns", "clean")

BLOCK_ROWS = 32768
NAMES_KEPT = 4096
"""Names carried from block to block; above it the dictionary starts anew, so that memory stays flat."""


def arrow_type(column: Column) -> pa.DataType:
    """Arrow type of a column: text is dictionary-encoded with int32 codes."""
    import pyarrow as pa

    if column.dtype == "str":
        return pa.dictionary(pa.int32(), pa.utf8())
    return pa.from_numpy_dtype(np.dtype(column.dtype))


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """Arrow schema of some columns, in order."""
    import pyarrow as pa

    return pa.schema([(column.name, arrow_type(column)) for column in columns])


def clean(name: object) -> str:
    """`name` as UTF-8 can hold it: bytes of file names that are none become U+FFFD."""
    if not isinstance(name, str):
        raise TypeError(f"{type(name).__name__} {name!r} is no str")
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return name


class _Names:
    """Text to code, in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self._arrow: Any = None

    def code(self, name: object) -> int:
        known = self.codes.get(name)  # type: ignore[call-overload]
        if known is not None:
            return int(known)
        return self.codes.setdefault(clean(name), len(self.codes))

    def several(self, names: Iterable[object]) -> NDArray[np.int32]:
        return np.fromiter(map(self.code, names), np.int32)

    def arrow(self) -> pa.Array:
        import pyarrow as pa

        if self._arrow is None or len(self._arrow) != len(self.codes):
            self._arrow = pa.array(list(self.codes), pa.utf8())
        return self._arrow

    def trim(self) -> None:
        if len(self.codes) > NAMES_KEPT:
            self.codes.clear()
            self._arrow = None


def _bytes_codes(values: NDArray[np.bytes_], names: _Names) -> NDArray[np.int32]:
    """Codes of NUL-padded byte strings; text ends at the first NUL, as in C."""
    import pyarrow as pa

    width = values.dtype.itemsize
    if not width or not len(values):
        return names.several([""] * len(values))
    plain = pa.py_buffer(np.ascontiguousarray(values).view(np.uint8))
    encoded = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(values), [None, plain]
    ).dictionary_encode()
    texts = [
        raw.split(b"\0", 1)[0].decode("utf-8", "replace") for raw in encoded.dictionary.to_pylist()
    ]
    codes: NDArray[np.int32] = names.several(texts)[encoded.indices.to_numpy()]
    return codes


def _given_codes(
    codes: NDArray[np.integer[Any]], given: Sequence[str], names: _Names
) -> NDArray[np.int32]:
    if not len(codes):
        return np.empty(0, np.int32)
    if int(codes.min()) < 0 or int(codes.max()) >= len(given):
        raise IndexError(f"codes {int(codes.min())}..{int(codes.max())} for {len(given)} names")
    if len(given) <= 2 * len(codes):
        whole: NDArray[np.int32] = names.several(given)[codes]
        return whole
    used, inverse = np.unique(codes, return_inverse=True)
    few: NDArray[np.int32] = names.several([given[code] for code in used.tolist()])[inverse]
    return few


class Text:
    """A checked text column: anything that `Sink.append` takes, sliceable into codes."""

    __slots__ = ("codes", "given", "values")

    def __init__(self, values: Any) -> None:
        self.codes: NDArray[np.integer[Any]] | None = None
        self.given: Sequence[str] = ()
        self.values: Any = values
        if isinstance(values, str | bytes):
            raise TypeError(f"is the single text {values!r}")
        if isinstance(values, tuple) and len(values) == 2 and isinstance(values[0], np.ndarray):
            self.codes, self.given = np.asarray(values[0]), values[1]
        elif hasattr(values, "indices") and hasattr(
            values, "dictionary"
        ):  # pyarrow.DictionaryArray
            self.codes = np.asarray(values.indices.fill_null(0).to_numpy(zero_copy_only=False))
            self.given = values.dictionary.to_pylist()
        elif hasattr(values, "cat") or hasattr(values, "categories"):  # pandas
            categorical = values.cat if hasattr(values, "cat") else values
            self.codes, self.given = np.asarray(categorical.codes), list(categorical.categories)
        elif hasattr(values, "to_pylist"):
            self.values = values.to_pylist()
        elif not isinstance(values, list | tuple):
            self.values = np.asarray(values)
            if self.values.dtype.kind not in "SUO":
                raise TypeError(f"has dtype {self.values.dtype}, not text")
            if self.values.ndim != 1:
                raise TypeError(f"has shape {self.values.shape}, not one dimension")
        if self.codes is not None and (self.codes.dtype.kind not in "iu" or self.codes.ndim != 1):
            raise TypeError(f"has codes of dtype {self.codes.dtype} and shape {self.codes.shape}")

    def __len__(self) -> int:
        return len(self.values if self.codes is None else self.codes)

    def encode(self, start: int, stop: int, names: _Names) -> NDArray[np.int32]:
        """Codes of rows `start` to `stop` in the dictionary `names`, which grows."""
        if self.codes is not None:
            return _given_codes(self.codes[start:stop], self.given, names)
        part = self.values[start:stop]
        if isinstance(part, np.ndarray):
            if part.dtype.kind == "S":
                return _bytes_codes(part, names)
            part = part.tolist()
        return names.several(
            [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in part]
        )


def _number(column: Column, values: Any) -> NDArray[np.generic]:
    array = np.asarray(values)
    target = np.dtype(column.dtype)
    # numpy makes floats of a list that holds small and very large integers
    if (
        array.dtype.kind == "f"
        and target == np.uint64
        and isinstance(values, list | tuple)
        and all(isinstance(value, int) and 0 <= value < 1 << 64 for value in values)
    ):
        array = np.array(values, np.uint64)
    if array.ndim != 1:
        raise TypeError(f"has shape {array.shape}, not one dimension")
    if array.dtype == target or np.can_cast(array.dtype, target, "safe"):
        return array
    if array.size == 0:
        return array.astype(target)
    if array.dtype.kind in "iub" and target.kind in "iu":
        limits = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise TypeError(f"holds {low}..{high}, which does not fit {target}")
        return array
    if target.kind == "f" and array.dtype.kind in "iuf":
        return array
    if (
        target.kind == "b"
        and array.dtype.kind in "iu"
        and int(array.max()) <= 1
        and int(array.min()) >= 0
    ):
        return array
    raise TypeError(f"has dtype {array.dtype}, not {target}")


def check_columns(
    frame: str, columns: Sequence[Column], required: int, given: Mapping[str, Any]
) -> dict[str, NDArray[np.generic] | Text]:
    """What a collector appends, checked: names, dtypes that lose nothing, equal lengths.

    Parameters
    ----------
    frame : str
        For messages.
    columns : sequence of Column
        Recorded columns, then those declared by this recording.
    required : int
        How many of `columns` must be there; declared ones may be left out.
    given : mapping of str to array or text
        As in `Sink.append`.

    Raises
    ------
    BadSpec
        Names the column and what is wrong with it.
    """
    known = {column.name: column for column in columns}
    if missing := [column.name for column in columns[:required] if column.name not in given]:
        raise BadSpec(
            f"frame {frame!r} lacks column {', '.join(missing)}", f"give all of {', '.join(known)}"
        )
    if unknown := [name for name in given if name not in known]:
        raise BadSpec(
            f"frame {frame!r} has no column {', '.join(unknown)}",
            f"its columns: {', '.join(known)}; `declare` adds one to an open frame",
        )
    checked: dict[str, NDArray[np.generic] | Text] = {}
    for name, values in given.items():
        try:
            checked[name] = (
                Text(values) if known[name].dtype == "str" else _number(known[name], values)
            )
        except (TypeError, ValueError) as error:
            raise BadSpec(
                f"column {name!r} of frame {frame!r} {error}",
                f"give a one-dimensional {known[name].dtype} column: {known[name].meaning}",
            ) from None
    lengths = {name: len(values) for name, values in checked.items()}
    if len(set(lengths.values())) > 1:
        raise BadSpec(
            f"columns of frame {frame!r} are not equally long: "
            + ", ".join(f"{name} {length}" for name, length in lengths.items()),
            "give one value per row and column",
        )
    return checked


class Block:
    """Up to `BLOCK_ROWS` rows of a frame in memory that is used again and again."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.schema = arrow_schema(columns)
        self.rows = 0
        self._arrays = {
            column.name: np.empty(BLOCK_ROWS, "int32" if column.dtype == "str" else column.dtype)
            for column in columns
        }
        self._names = {column.name: _Names() for column in columns if column.dtype == "str"}

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return BLOCK_ROWS - self.rows

    def put(self, checked: Mapping[str, NDArray[np.generic] | Text], start: int, stop: int) -> None:
        """Copy rows `start` to `stop` in; absent columns get 0, NaN or the empty text."""
        at = slice(self.rows, self.rows + stop - start)
        for column in self.columns:
            values = checked.get(column.name)
            into = self._arrays[column.name]
            if isinstance(values, Text):
                try:
                    into[at] = values.encode(start, stop, self._names[column.name])
                except (TypeError, IndexError) as error:
                    raise BadSpec(
                        f"text column {column.name!r}: {error}",
                        "give str values, NUL-padded bytes, or (codes, names) with 0 <= code < len(names)",
                    ) from None
            elif values is not None:
                into[at] = values[start:stop]
            elif column.dtype == "str":
                into[at] = self._names[column.name].code("")
            else:
                into[at] = np.nan if column.dtype == "float64" else 0
        self.rows += stop - start

    def batch(self) -> pa.RecordBatch:
        """The rows as an Arrow batch that shares this memory: use it before the next `put`."""
        import pyarrow as pa

        arrays = []
        for column in self.columns:
            values = pa.array(self._arrays[column.name][: self.rows])
            if column.dtype == "str":
                names = self._names[column.name].arrow()
                values = pa.DictionaryArray.from_arrays(values, names, safe=False)
            arrays.append(values)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def clear(self) -> None:
        """Forget the rows; the memory and the most used names stay."""
        self.rows = 0
        for names in self._names.values():
            names.trim()
