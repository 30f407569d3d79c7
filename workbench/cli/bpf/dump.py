"""`workbench bpf dump NAMESPACE MAP`: every entry of a map that some process shares."""

from __future__ import annotations

import argparse
import json
from typing import Any

from workbench.errors import BadSpec

__all__ = ("configure", "entries", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("namespace", metavar="NAMESPACE", help="see `workbench bpf maps`")
    parser.add_argument("map", metavar="MAP", help="its name")
    parser.add_argument("--json", action="store_true", help="print as JSON, as `bpftool map dump`")


def execute(arguments: argparse.Namespace) -> int:
    """Print the entries of one map."""
    from workbench.runtime.maps import Space, spaces

    known = {one.name: one for one in spaces()}
    if arguments.namespace not in known:
        raise BadSpec(
            f"there is no namespace {arguments.namespace!r}",
            f"namespaces: {', '.join(known) or 'none'}",
        )
    with Space(arguments.namespace) as space:
        if arguments.map not in space.names():
            raise BadSpec(
                f"namespace {arguments.namespace!r} has no map {arguments.map!r}",
                f"maps: {', '.join(space.names()) or 'none'}",
            )
        rows = entries(space.open(arguments.map))
    if arguments.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['formatted']['key']}: {row['formatted']['value']}")
    print(f"Found {len(rows)} element{'s' if len(rows) != 1 else ''}")
    return 0


def entries(one: Any) -> list[dict[str, Any]]:
    """Entries in the shape of `bpftool map dump --json`: bytes in hexadecimal, and formatted by their types.

    Raises
    ------
    BadSpec
        The map has no entries to walk (a ring, a queue, a filter).
    """
    if not one.key_dtype.itemsize or not getattr(one, "_key_bytes", 1):
        raise BadSpec(f"map {one.name!r} has no keys to dump", "read a ring with its reader, a queue with pop")
    found = []
    keys, values = one.table()
    for key, value in zip(keys, values, strict=True):
        row: dict[str, Any] = {"key": _hex(key)}
        per_cpu = getattr(value, "ndim", 0) == 1 and value.dtype == one.value_dtype and _is_per_cpu(one)
        if per_cpu:
            row["values"] = [{"cpu": i, "value": _hex(v)} for i, v in enumerate(value)]
        else:
            row["value"] = _hex(value)
        row["formatted"] = {"key": _plain(key), "value": _plain(value)}
        found.append(row)
    return found


def _is_per_cpu(one: Any) -> bool:
    return one.kind in (5, 6, 10)


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
