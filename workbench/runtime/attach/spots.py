"""Places in files: sites of a process whether it has mapped the file yet or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workbench.errors import WorkbenchError
from workbench.runtime.attach.files import addresses_of
from workbench.runtime.attach.link import Request, Spot

__all__ = ("placed",)


def placed(pid: int, requests: Sequence[Request]) -> list[Request | WorkbenchError]:
    """The requests with every `Spot` as an address of the process, or why it has none."""
    code: dict[str, set[int]] = {}
    data: dict[str, set[int]] = {}
    for request in requests:
        if isinstance(spot := request.site, Spot):
            code.setdefault(spot.path, set()).add(spot.offset)
            if spot.semaphore:
                data.setdefault(spot.path, set()).add(spot.semaphore)
    known: dict[tuple[str, str, int], int] = {}
    failed: dict[str, WorkbenchError] = {}
    for mode, files in (("x", code), ("w", data)):
        for path, offsets in files.items():
            try:
                places = addresses_of(pid, path, offsets, mode)
            except WorkbenchError as error:
                failed[path] = error
            else:
                known |= zip(((mode, path, one) for one in offsets), places, strict=True)
    found: list[Request | WorkbenchError] = []
    for request in requests:
        spot = request.site
        if not isinstance(spot, Spot):
            found.append(request)
        elif spot.path in failed:
            found.append(failed[spot.path])
        else:
            semaphore = known["w", spot.path, spot.semaphore] if spot.semaphore else 0
            site = known["x", spot.path, spot.offset]
            found.append(replace(request, site=site, semaphore=semaphore))
    return found
