"""Records of the probes to rows of frame `calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.uprobe.abi import STRING
from workbench.errors import BadSpec
from workbench.frames.columns import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from workbench.collectors.base import Sink
    from workbench.collectors.uprobe.options import Options
    from workbench.collectors.uprobe.plan import Plan

__all__ = ("Dictionary", "Rows", "record_dtype", "text_of")

EVENTS = ("entry", "return", "call", "mark")


def record_dtype(
    hit: np.dtype[Any], stack: np.dtype[Any] | None, arguments: int, strings: int, string_bytes: int
) -> np.dtype[Any]:
    """Layout of a record: see the head of bpf/uprobe.bpf.c."""
    table: Any = hit.fields
    names = list(hit.names or ())
    formats: list[Any] = [table[name][0] for name in names]
    offsets = [table[name][1] for name in names]
    end = hit.itemsize
    if arguments:
        names.append("arguments")
        formats.append(np.dtype(("<u8", (arguments,))))
        offsets.append(end)
        end += 8 * arguments
    if strings:
        names.append("strings")
        formats.append(np.dtype(("u1", (strings, string_bytes))))
        offsets.append(end)
        end += strings * string_bytes
    if stack is not None:
        names.append("stack")
        formats.append(stack)
        offsets.append(end)
        end += stack.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})


def text_of(raw: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Strings up to their NUL; what follows it in the buffer is left over from earlier records.

    Parameters
    ----------
    raw : uint8, shape (n, bytes)
    """
    ended = np.cumsum(raw == 0, axis=1) > 0
    clean = np.ascontiguousarray(np.where(ended, 0, raw).astype(np.uint8))
    result: NDArray[np.bytes_] = clean.view(f"S{raw.shape[1]}")[:, 0]
    return result


class Dictionary:
    """A text column whose values are known beforehand: rows hold only their number."""

    def __init__(self, values: Sequence[str]) -> None:
        values = [clean(value) for value in values]
        unique = list(dict.fromkeys(values))
        number = {value: i for i, value in enumerate(unique)}
        self._values = unique
        self._numbers = np.array([number[value] for value in values], np.int32)

    def take(self, rows: NDArray[Any]) -> Any:
        """The values of the given positions, as a pyarrow dictionary array."""
        import pyarrow as pa

        return pa.DictionaryArray.from_arrays(
            pa.array(self._numbers[rows]), pa.array(self._values, pa.string())
        )


class _Column:
    """One argument column: at which position each site has it, -1 where it has none."""

    def __init__(self, name: str, dtype: str, unit: str, meaning: str, sites: int) -> None:
        self.name, self.dtype, self.unit, self.meaning = name, dtype, unit, meaning
        self.position = np.full(sites, -1, np.int32)


class Rows:
    """Makes columns from batches of records, for the sites of one plan."""

    def __init__(self, options: Options, plan: Plan, sink: Sink) -> None:
        sites = plan.sites
        self._probe = Dictionary([options.text] * len(sites))
        self._function = Dictionary([site.function for site in sites])
        self._module = Dictionary([site.place.module for site in sites])
        self._event = Dictionary(EVENTS)
        size = np.array([min((s.result.size if s.result else 8) or 8, 8) for s in sites], np.uint64)
        self._shift = np.uint64(64) - np.uint64(8) * size
        self._signed = np.array([s.result is None or s.result.signed for s in sites], bool)
        self._none = np.array(
            [s.result is not None and s.result.kind in ("void", "float") for s in sites], bool
        )
        self.columns = self._argument_columns(plan)
        self.unreadable = 0
        for column in self.columns:
            self._declare(sink, column)

    @staticmethod
    def _declare(sink: Sink, column: _Column) -> None:
        """Declare a column; another probe of the recording may have the name with another type."""
        try:
            sink.declare("calls", column.name, column.dtype, column.unit, column.meaning)
        except BadSpec:
            column.name += "_" + ("text" if column.dtype == "str" else column.dtype)
            sink.declare("calls", column.name, column.dtype, column.unit, column.meaning)

    @staticmethod
    def _argument_columns(plan: Plan) -> list[_Column]:
        found: dict[str, _Column] = {}
        for number, site in enumerate(plan.sites):
            texts = 0
            for position, (name, kind, source) in enumerate(site.arguments):
                is_text = bool(source.flags & STRING) and texts < plan.string_slots
                key = "arg_" + "".join(c if c.isalnum() or c == "_" else "_" for c in name)
                dtype = "str" if is_text else "uint64" if kind.kind == "string" else kind.dtype
                column = found.get(key)
                if column is not None and (column.dtype == "str") != is_text:
                    key += "_text" if is_text else "_value"
                    column = found.get(key)
                if column is None:
                    meaning = f"argument {name} of {site.function} ({kind.name})"
                    column = found[key] = _Column(
                        key, dtype, "" if is_text else kind.unit, meaning, len(plan.sites)
                    )
                elif column.dtype != dtype and not is_text:
                    column.dtype = "int64"
                column.position[number] = texts if is_text else position
                texts += bool(source.flags & STRING)
        return list(found.values())

    def columns_of(
        self, taken: dict[str, NDArray[Any]], stacks: NDArray[np.int32] | None
    ) -> dict[str, Any]:
        """Columns of frame `calls` for a batch of records."""
        site = taken["site"].astype(np.int64)
        result = taken["result"].astype(np.uint64) << self._shift[site]
        signed = (result.view(np.int64) >> self._shift[site].view(np.int64)).astype(np.int64)
        plain = (result >> self._shift[site]).view(np.int64)
        result = np.where(self._none[site], 0, np.where(self._signed[site], signed, plain))
        rows: dict[str, Any] = {
            "time": taken["time"].astype(np.int64),
            "pid": taken["pid"].astype(np.int32),
            "tid": taken["tid"].astype(np.int32),
            "cpu": taken["cpu"].astype(np.int32),
            "comm": taken["comm"],
            "probe": self._probe.take(site),
            "function": self._function.take(site),
            "module": self._module.take(site),
            "event": self._event.take(taken["event"].astype(np.int64)),
            "duration": taken["duration"].astype(np.int64),
            "result": result,
            "stack": np.full(len(site), -1, np.int32) if stacks is None else stacks,
        }
        self.unreadable += int((taken["unreadable"] != 0).sum())
        index = np.arange(len(site))
        for column in self.columns:
            position = column.position[site]
            here = np.maximum(position, 0)
            if column.dtype == "str":
                raw = taken["strings"][index, here]
                raw[position < 0] = 0
                rows[column.name] = text_of(raw)
            else:
                values = taken["arguments"][index, here].astype(np.uint64)
                values[position < 0] = 0
                rows[column.name] = values.view(np.int64) if column.dtype == "int64" else values
        return rows
