"""Maps by their names in what people read; inside, a map is its index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ("with_names",)

_PLACE: Final = re.compile(r"\bmap (value )?(\d+)(?![\w.])")


def with_names(text: str, maps: Sequence[str]) -> str:
    """`map value 0 or null` as `value of counts or null`, `map 0` as `map counts`."""

    def named(found: re.Match[str]) -> str:
        index = int(found[2])
        if index >= len(maps):
            return found[0]
        return f"value of {maps[index]}" if found[1] else f"map {maps[index]}"

    return _PLACE.sub(named, text) if "map " in text else text
