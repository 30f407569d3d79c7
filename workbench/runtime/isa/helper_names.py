"""Helper numbers by name and back; the table of prototypes is only read when a name is asked for."""

from __future__ import annotations

from functools import cache

__all__ = ("helper_name", "helper_number")


@cache
def _names() -> dict[int, str]:
    from workbench.runtime.helpers.prototypes import HELPERS

    return {number: helper.name.removeprefix("bpf_") for number, helper in HELPERS.items()}


@cache
def _numbers() -> dict[str, int]:
    return {name: number for number, name in _names().items()}


def helper_name(number: int) -> str:
    """`bpf_map_lookup_elem` for 1; empty for a number without a name."""
    name = _names().get(number, "")
    return f"bpf_{name}" if name else ""


def helper_number(name: str) -> int | None:
    """1 for `bpf_map_lookup_elem`; None for a name that is no helper's."""
    return _numbers().get(name.removeprefix("bpf_")) if name.startswith("bpf_") else None
