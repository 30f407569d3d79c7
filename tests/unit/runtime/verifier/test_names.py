"""Maps have names in what people read."""

from __future__ import annotations

import pytest

from workbench.runtime.verifier.names import with_names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("map value 0 or null", "value of counts or null"),
        ("r0 may be null: map value 1 or null", "r0 may be null: value of .bss or null"),
        ("map value 1 +8 + (0..72 bits 0x0/0x78)", "value of .bss +8 + (0..72 bits 0x0/0x78)"),
        ("map 0", "map counts"),
        ("0 | map value 0 | map value 1", "0 | value of counts | value of .bss"),
        ("map value 2", "map value 2"),
        ("a value of map .bss has 64 bytes", "a value of map .bss has 64 bytes"),
        ("map 0x10", "map 0x10"),
        ("any", "any"),
    ],
)
def test_names(text: str, shown: str) -> None:
    assert with_names(text, ("counts", ".bss")) == shown
