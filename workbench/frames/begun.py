"""The manifest of a recording that begins now."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from workbench.frames.manifest import CollectorInfo, Manifest
from workbench.frames.provenance import provenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("begun", "plain")


def begun(
    command: Sequence[str],
    pid: int | None,
    collectors: Sequence[str | CollectorInfo],
    options: Mapping[str, Any],
    seed: int | None,
    versions: Mapping[str, str],
) -> Manifest:
    """What is known at the beginning; the parameters are those of `RecordingWriter`."""
    known = provenance(**versions)
    return Manifest(
        command=tuple(command),
        pid=pid,
        recorder=known.command,
        directory=known.directory,
        recorder_pid=os.getpid(),
        collectors=tuple(
            CollectorInfo(one)
            if isinstance(one, str)
            else CollectorInfo(one.name, plain(one.options))
            for one in collectors
        ),
        options=plain(options),
        seed=seed,
        start=known.clock,
        host=known.host,
        versions=known.versions,
        git=known.git,
    )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of anything: paths and other objects as text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return found
