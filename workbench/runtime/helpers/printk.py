"""Lines that programs print (bpf_printk, bpf_trace_printk, bpf_trace_vprintk): read here, never shown by the target.

They go through a ring buffer of the namespace, named `.printk`, that every process of the namespace has mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.objects.linked import LinkedMap

if TYPE_CHECKING:
    from workbench.runtime.maps import Space

__all__ = ("RING", "Line", "Lines")

#: The ring, to be created with the other maps of an object whose programs print; shared by name.
RING = LinkedMap(".printk", 27, 0, 0, 1 << 20, pinning=1)
_HEAD = struct.Struct("<QIIII16s")


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line.

    Attributes
    ----------
    time : int
        ns of CLOCK_MONOTONIC.
    pid, tid, cpu : int
        Where it was printed.
    comm : str
        Name of the thread.
    text : str
        Without the line feed at its end.
    """

    time: int
    pid: int
    tid: int
    cpu: int
    comm: str
    text: str

    def __str__(self) -> str:
        seconds, rest = divmod(self.time, 1_000_000_000)
        return f"{self.comm:>16}-{self.tid:<7} [{self.cpu:03}] {seconds}.{rest // 1000:06}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


class Lines:
    """The printed lines of a namespace; iterate over what waits, or call `follow`.

    Attributes
    ----------
    lost : int
        Lines that found no room in the ring.
    """

    def __init__(self, space: Space) -> None:
        from workbench.native.ring_reader import RecordReader

        ring: Any = space.create(RING)
        self._ring, self._reader = ring, RecordReader(ring, 1 << 20, 4096)

    @property
    def lost(self) -> int:
        return int(self._ring.dropped)

    def __iter__(self) -> Iterator[Line]:
        """What waits now, oldest first; every line is given once."""
        self._ring.sweep()
        while len(records := self._reader.drain()):
            data = records.buffer.tobytes()
            for start, length in zip(
                records.starts.tolist(), records.lengths.tolist(), strict=True
            ):
                if line := _decode(data[start : start + length]):
                    yield line

    def follow(self, timeout: float | None = None) -> Iterator[Line]:
        """Lines as they come, until `timeout` seconds have passed without one (None: for ever)."""
        yield from self
        while self._ring.wait(timeout):
            yield from self


def _decode(record: bytes) -> Line | None:
    """None for a record that another writer of the segment damaged."""
    if len(record) < _HEAD.size:
        return None
    time, pid, tid, cpu, length, comm = _HEAD.unpack_from(record)
    text = record[_HEAD.size : _HEAD.size + length].decode(errors="replace")
    name = comm.split(b"\0")[0].decode(errors="replace")
    return Line(time, pid, tid, cpu, name, text.removesuffix("\n"))
