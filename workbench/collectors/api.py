"""`wb.record`, `wb.watch`, `wb.rwatch`: recording from Python."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.collectors.backend import choose
from workbench.collectors.recorder import Recorder
from workbench.collectors.spec import Spec
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.collectors.base import Collector

__all__ = ("record", "rwatch", "watch")


def _output(output: str | Path | None) -> Path:
    if output is not None:
        return Path(output)
    return Path(tempfile.mkdtemp(prefix="workbench-")) / "recording"


def record(
    collect: str | Spec | Collector | Sequence[str | Spec | Collector] = "cpu:999",
    *,
    pid: int | None = None,
    command: Sequence[str] = (),
    machine: bool = False,
    seconds: float | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Recorder:
    """A recorder for a process, a command, the whole machine, or (by default) this very process.

    Parameters
    ----------
    collect : str or sequence
        What to collect, in the grammar of `--collect`: ``"cpu:999"``, ``["cpu:999", "uprobe:libc:malloc"]``.
    pid : int, optional
        A running process.
    command : sequence of str, optional
        A command to start.
    machine : bool
        The whole machine. None of the three: the process that calls this.
    seconds : float, optional
        End after this time.
    output : path, optional
        Folder of the recording; by default one in a new temporary folder.
    **options
        `follow`, `overwrite`, `stdout`, `stderr`, `stdin`, `cwd`, `env`: see `Recorder`.

    Returns
    -------
    Recorder
        Not started: use `with` (records while the block runs), `.run()` (blocks, returns the recording) or
        `.start()` (records in the background).

    Examples
    --------
    >>> with wb.record("cpu:999") as recorder:
    ...     work()
    >>> recorder.recording.samples

    >>> wb.record(["cpu:999"], command=["sqlite3", "my.db", ".read work.sql"]).run().samples
    """
    if pid is None and not command and not machine:
        pid = os.getpid()
    many: Any = collect if isinstance(collect, (list, tuple)) else [collect]
    place = _output(output)
    kind = Recorder
    if pid == os.getpid() and choose(options.get("backend", "auto"), machine=False)[0] == "userspace":
        from workbench.collectors.outside import OutsideRecorder

        # Watchpoints of this process need nobody to hold it still.
        if not all(str(one).startswith(("watch:", "rwatch:")) for one in many):
            kind = OutsideRecorder
    recorder = kind(
        many,
        output=place,
        pid=pid,
        command=command,
        machine=machine,
        seconds=seconds,
        **options,
    )
    recorder.temporary = place.parent if output is None else None
    return recorder


def _watch(name: str, what: Any, index: Any, options: dict[str, Any]) -> Recorder:
    known = (
        "pid",
        "command",
        "seconds",
        "output",
        "follow",
        "overwrite",
        "stdout",
        "stderr",
        "stdin",
        "cwd",
        "env",
    )
    target = {key: options.pop(key) for key in known if key in options}
    words = {
        key: ("yes" if value is True else "no" if value is False else str(value))
        for key, value in options.items()
    }
    if isinstance(what, (str, int)):
        if index is not None:
            raise BadSpec(
                "an index needs an array", "for a C array write the element: watch:array[3]"
            )
        return record(Spec(name, hex(what) if isinstance(what, int) else what, words), **target)
    if target.get("pid") or target.get("command"):
        raise BadSpec(
            "an array lives in this process", "for another process name a symbol or an address"
        )
    from workbench.collectors.spec import parse
    from workbench.collectors.watch import watch_spec_for_array

    spec = parse(f"{name}:{watch_spec_for_array(what, index)}")
    return record(Spec(name, spec.argument, {**spec.options, **words}), **target)


def watch(what: Any, index: Any = None, **options: Any) -> Recorder:
    """A recorder with one hardware watchpoint; rows are in frame `watches`.

    Parameters
    ----------
    what : str, int or array
        A symbol (``"counter"``, ``"libfoo:table[3]"``), an address, or a numpy array of this process.
    index : int or tuple, optional
        Element of the array.
    **options
        Options of the collector (`access`, `size`, `values`, `stacks`, `hits`, ...) and the target (`pid`,
        `command`, `seconds`, `output`), as for `record`.

    Examples
    --------
    >>> with wb.watch(array, 3, values=True) as recorder:
    ...     array[3] = 7
    >>> recorder.recording.watches
    """
    return _watch("watch", what, index, options)


def rwatch(what: Any, index: Any = None, **options: Any) -> Recorder:
    """As `watch`, but for loads: read accesses, told apart by decoding the accessing instruction."""
    return _watch("rwatch", what, index, options)
