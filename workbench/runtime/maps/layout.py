"""numpy layouts as JSON: how a process that opens a map by name learns what its bytes mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.objects.btf import STRUCT

if TYPE_CHECKING:
    from workbench.objects.btf import Btf

__all__ = ("from_json", "lock_offset", "to_json")

_DEPTH = 32


def to_json(dtype: np.dtype[Any]) -> Any:
    """A JSON value that `from_json` turns into an equal dtype."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"of": to_json(base), "shape": list(shape)}
    if dtype.names is None:
        return dtype.str
    fields: Any = dtype.fields or {}
    return {
        "names": list(dtype.names),
        "formats": [to_json(fields[name][0]) for name in dtype.names],
        "offsets": [int(fields[name][1]) for name in dtype.names],
        "size": dtype.itemsize,
    }


def from_json(value: Any, depth: int = 0) -> np.dtype[Any]:
    """The dtype of `to_json`'s value.

    Raises
    ------
    ValueError
        Not such a value (somebody edited the file), or one that holds Python objects.
    """
    try:
        if depth > _DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, str):
            dtype = np.dtype(value)
        elif "of" in value:
            dtype = np.dtype((from_json(value["of"], depth + 1), tuple(map(int, value["shape"]))))
        else:
            dtype = np.dtype(
                {
                    "names": [str(name) for name in value["names"]],
                    "formats": [from_json(one, depth + 1) for one in value["formats"]],
                    "offsets": [int(one) for one in value["offsets"]],
                    "itemsize": int(value["size"]),
                }
            )
    except (TypeError, KeyError, SyntaxError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a layout: {error}") from error
    if dtype.hasobject:
        raise ValueError("not a layout: holds objects")
    return dtype


def lock_offset(btf: Btf, number: int) -> int:
    """Where the structure `number` has its `struct bpf_spin_lock`, -1 without one (kernel/bpf/btf.c btf_find_field)."""
    one = btf.resolve(number)
    if one.kind == STRUCT:
        for member in one.members:
            inner = btf.resolve(member.type)
            if inner.kind == STRUCT and inner.name == "bpf_spin_lock":
                return member.offset // 8
    return -1
