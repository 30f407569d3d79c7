"""Calls of functions and USDT marks.

`options` reads the specification, `plan` resolves it to sites (with `usdt`, `declarators`, `abi` and the DWARF reader
of the room), `attachment` puts the programs of bpf/uprobe.bpf.c there, `rows` turns records into columns, `summary`
writes counts, losses and overhead. Add a kind of argument in `abi.Source` and `read_argument` of the BPF program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.collectors.uprobe.collector import UprobeCollector

__all__ = ("UprobeCollector",)


def __getattr__(name: str) -> Any:
    # The types of this package are used by the DWARF reader, which must not load the collector with them.
    if name == "UprobeCollector":
        from workbench.collectors.uprobe.collector import UprobeCollector

        return UprobeCollector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
