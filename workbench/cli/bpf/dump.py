"""`workbench bpf dump NAMESPACE MAP`: every entry of a map that some process shares."""

from __future__ import annotations

import argparse
import difflib
import json
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("configure", "entries", "execute", "has_entries", "lines")

_PER_CPU = (5, 6, 10)  # enum bpf_map_type: percpu_hash, percpu_array, lru_percpu_hash
_STACKS = 7
_WITHOUT_KEYS = {
    4: ("a perf event array holds records until they are read", "read it with a RecordReader"),
    22: ("a queue has no keys", "take its values with Map.pop(), look at the next with Map.peek()"),
    23: ("a stack has no keys", "take its values with Map.pop(), look at the next with Map.peek()"),
    27: ("a ring holds records until they are read", "read it with loaded.ring(NAME) and a ColumnReader"),
    29: ("its values belong to threads", "programs find them with bpf_task_storage_get"),
    30: ("a bloom filter does not know what is in it", "ask it: value in map"),
    31: ("a user ring holds records until a program reads them", "write to it with UserRing.put()"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("namespace", metavar="NAMESPACE", help="see `workbench bpf maps`")
    parser.add_argument("map", metavar="MAP", help="its name or its id")
    parser.add_argument("--json", action="store_true", help="print as JSON, as `bpftool map dump`")


def execute(arguments: argparse.Namespace) -> int:
    """Print the entries of one map."""
    from workbench.runtime.maps import Space, spaces

    known = {one.name: one for one in spaces()}
    if arguments.namespace not in known:
        raise _unknown("there is no namespace", arguments.namespace, known, "namespaces")
    ids = {str(head.id): head.name.decode() for head, _ in known[arguments.namespace].segments()}
    with Space(arguments.namespace) as space:
        name = ids.get(arguments.map, arguments.map)
        if name not in space.names():
            raise _unknown(
                f"namespace {arguments.namespace!r} has no map", name, space.names(), "maps"
            )
        rows = entries(space.open(name))
    if arguments.json:
        print(json.dumps(rows))
        return 0
    for line in lines(rows):
        print(line)
    print(f"Found {len(rows)} element{'s' if len(rows) != 1 else ''}")
    return 0


def _unknown(what: str, name: str, known: Iterable[str], plural: str) -> BadSpec:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return BadSpec(f"{what} {name!r}", f"{guess}{plural}: {', '.join(known) or 'none'}")


def has_entries(one: Any) -> bool:
    """Whether the map has keys to walk: no ring, queue, stack or filter."""
    return one.kind not in _WITHOUT_KEYS


def entries(one: Any) -> list[dict[str, Any]]:
    """Entries in the shape of `bpftool map dump --json`: bytes in hexadecimal, and formatted by their types.

    Parameters
    ----------
    one : Map
        Of either backend.

    Raises
    ------
    BadSpec
        The map has no keys to walk; the hint says how to look into it.
    """
    if not has_entries(one):
        why, hint = _WITHOUT_KEYS[one.kind]
        raise BadSpec(f"map {one.name!r} cannot be dumped: {why}", hint)
    if hasattr(one, "ids"):
        return [_by_id(one, key, number) for key, number in one.ids().items()]
    found = []
    for key, value in zip(*one.table(), strict=True):
        row: dict[str, Any] = {"key": _hex(key)}
        plain: dict[str, Any] = {"key": _plain(key)}
        if one.kind in _PER_CPU:
            row["values"] = [{"cpu": cpu, "value": _hex(v)} for cpu, v in enumerate(value)]
            plain["values"] = [{"cpu": cpu, "value": _plain(v)} for cpu, v in enumerate(value)]
        else:
            row["value"] = _hex(value)
            plain["value"] = _addresses(value) if one.kind == _STACKS else _plain(value)
        found.append({**row, "formatted": plain})
    return found


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The entries for a reader: key and value lined up, a column for each CPU."""
    from workbench.cli.bpf.text import columns, shown

    if not rows:
        return []
    if "values" in rows[0]:
        values = [[one["value"] for one in row["formatted"]["values"]] for row in rows]
        # A namespace has room for more CPUs than the machine: those that nothing was written on are left out.
        used = [cpu for cpu in range(len(values[0])) if any(_written(row["values"][cpu]) for row in rows)]
        used = used or [0]
        numbers_only = all(isinstance(one, int | float) for row in values for one in row)
        table = [["key", *(f"cpu {cpu}" for cpu in used), *(["sum"] if numbers_only else [])]]
        for row, of_cpu in zip(rows, values, strict=True):
            total = [shown(sum(of_cpu))] if numbers_only else []
            table.append([shown(row["formatted"]["key"]), *(shown(of_cpu[cpu]) for cpu in used), *total])
    else:
        table = [["key", "value"]]
        table += [[shown(row["formatted"]["key"]), shown(row["formatted"]["value"])] for row in rows]
    numbers = [
        all(cell.lstrip("-").isdigit() for cell in column[1:])
        for column in zip(*table, strict=True)
    ]
    return columns(table, right="".join("r" if number else "l" for number in numbers))


def _written(value: dict[str, Any]) -> bool:
    return any(byte != "0x00" for byte in value["value"])


def _by_id(one: Any, key: Any, number: int) -> dict[str, Any]:
    """An entry of a program array or of a map of maps: what it holds has a number."""
    import numpy as np

    raw = np.asarray(key, one.key_dtype)
    what = "prog_id" if one.kind == 3 else "inner_map_id"
    return {
        "key": _hex(raw),
        "value": _hex(np.asarray(number, np.uint32)),
        "formatted": {"key": _plain(raw), "value": {what: number}},
    }


def _addresses(value: Any) -> list[str]:
    """The frames of a stack, innermost first."""
    import numpy as np

    words = np.frombuffer(value.tobytes(), np.uint64)
    used = np.flatnonzero(words)
    return [f"{word:#x}" for word in words[: used[-1] + 1 if len(used) else 0].tolist()]


def _hex(value: Any) -> list[str]:
    return [f"0x{byte:02x}" for byte in value.tobytes()]


def _plain(value: Any) -> Any:
    """Numbers, lists and dictionaries that JSON has; text where bytes are text."""
    if getattr(value, "dtype", None) is not None and value.dtype.names:
        return {name: _plain(value[name]) for name in value.dtype.names}
    if getattr(value, "ndim", 0):
        return [_plain(one) for one in value]
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bytes):
        text = plain.rstrip(b"\0")
        return text.decode() if text.isascii() and text.decode().isprintable() else plain.hex()
    return plain
