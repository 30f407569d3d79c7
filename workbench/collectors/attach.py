"""`loaded.attach(program, target, pid=)`: one way to name where a program runs, for both backends.

The section of a program says what kind of place it wants, the target which one:

    uprobe, uretprobe (also .multi, .s)   LIBRARY:FUNCTION, FUNCTION, a pattern, an address; grammar of `resolve`
    usdt                                  PROVIDER:NAME
    tracepoint/..., tp/...                CATEGORY:NAME
    raw_tp/..., tp_btf/...                NAME
    perf_event                            HERTZ or profile:UNIT:N (of CPU time, in each thread), interval:UNIT:N (of
                                          wall-clock time, once for all); UNIT is hz, s, ms or us

Every other section is the kernel's alone: user space refuses it by name.

What the section itself already names (`SEC("raw_tp/sys_enter")`, `SEC("uprobe/libc:malloc")`) need not be repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.collectors.resolve import Modules, resolve_function
from workbench.errors import BadSpec, MissingCapability, UnknownSymbol

__all__ = ("attach", "refuse_kernel_only")

_RETURN = ("uretprobe", "uretprobe.multi", "uretprobe.s", "uretprobe.multi.s")
_ENTRY = (
    "uprobe",
    "uprobe.multi",
    "uprobe.s",
    "uprobe.multi.s",
    "uprobe.session",
    "uprobe.session.s",
)
_TRACING = (
    "tp_btf",
    "fentry",
    "fentry.s",
    "fexit",
    "fexit.s",
    "fmod_ret",
    "fmod_ret.s",
    "lsm",
    "lsm.s",
)
_HOOKED_BY_NOBODY = ("syscall",)
_UNITS = {"hz": 0, "s": 1_000_000_000, "ms": 1_000_000, "us": 1000}


def attach(
    loaded: Any,
    program: str,
    target: str = "",
    *,
    pid: int | None = None,
    cookie: int = 0,
    replace: bool = False,
    wait: bool = False,
) -> Any:
    """Attach one program of a loaded object.

    Parameters
    ----------
    loaded : Loaded
        Of either backend.
    program : str
    target : str
        Where; empty = what the section names.
    pid : int, optional
        Only this process with all its threads; `loaded.default_pid` (of `load`) where it is left away. The userspace
        backend needs one. The kernel refuses it for what it hooks for the whole machine.
    cookie : int
        What `bpf_get_attach_cookie` gives.
    replace : bool
        User space only: the function does not run, what the program returns is its result.
    wait : bool
        User space only: LIBRARY:FUNCTION of a library that the process has not loaded yet is attached when it is.

    Returns
    -------
    Link
        Detached by `close`, by `with` and by the end of `loaded`. A pattern gives one link for all its places.

    Raises
    ------
    BadSpec
        No such program, or no target.
    UnknownSymbol, MissingCapability, NotPermitted, TargetGone
    """
    if program not in loaded.programs:
        known = ", ".join(loaded.programs) or "none"
        raise BadSpec(f"{loaded.object.name} has no program {program!r}", f"programs: {known}")
    kind, _, named = loaded.programs[program].section.removeprefix("?").partition("/")
    target = target or named
    on_return = kind in _RETURN
    if replace and (loaded.backend == "kernel" or kind not in _ENTRY):
        raise MissingCapability(
            f"{program} (section {kind!r}, backend {loaded.backend}) cannot stand in for a function",
            "use a program of section uprobe and backend='userspace'",
        )
    if loaded.backend == "userspace":
        refuse_kernel_only(program, kind)
    if on_return or kind in _ENTRY:
        try:
            return _functions(
                loaded, program, target, pid, cookie, on_return, ".multi" in kind, replace
            )
        except UnknownSymbol:
            if not wait or loaded.backend != "userspace":
                raise
            return loaded.attach_later(
                program, target, pid=pid, cookie=cookie, on_return=on_return, replace=replace
            )
    if kind == "usdt":
        return _marks(loaded, program, target, pid, cookie)
    if kind in ("tp", "tracepoint"):
        category, _, name = target.replace("/", ":").partition(":")
        if not name:
            raise BadSpec(f"{program} needs a tracepoint", "name it as CATEGORY:NAME")
        return loaded.attach_tracepoint(program, category, name, pid=pid)
    if kind in ("raw_tp", "raw_tracepoint", "raw_tp.w"):
        return loaded.attach_raw_tracepoint(program, target, pid=pid)
    if kind in _TRACING:
        return loaded.attach_tracing(program, pid=pid)
    if kind == "perf_event":
        return _clock(loaded, program, target, pid, cookie)
    raise BadSpec(
        f"{program} is of section {kind!r}, which is not attached to a process",
        "run it with `loaded.test_run`",
    )


def refuse_kernel_only(program: str, kind: str) -> None:
    """Name the backend that has what user space lacks."""
    if kind.startswith("uprobe.session"):
        raise MissingCapability(
            f"{program}: user space has no attach type {kind}",
            "use a uprobe and a uretprobe, or backend='kernel'",
        )
    supported = (*_RETURN, *_ENTRY, "usdt", "tp", "tracepoint", "raw_tp", "raw_tracepoint")
    if kind in (*supported, "raw_tp.w", "raw_tracepoint.w", "perf_event", *_HOOKED_BY_NOBODY):
        return
    raise MissingCapability(
        f"{program}: attach type {kind} is the kernel's alone",
        "use backend='kernel'; in user space run it with `loaded.test_run`, or make it a uprobe of a function",
    )


_ALL_OR_NONE = (
    "; it was one of many places and nothing is attached: `loaded.attach_uprobes(program, path, offsets, refused={})` "
    "attaches the others and says which were left out, and so does the collector (`uprobe:PATTERN`)"
)


def _functions(
    loaded: Any,
    program: str,
    target: str,
    pid: int | None,
    cookie: int,
    on_return: bool,
    multi: bool,
    replace: bool,
) -> Any:
    if not target:
        raise BadSpec(f"{program} needs a function", 'for example attach(program, "libc:malloc")')
    modules = Modules(pid if pid is not None else loaded.default_pid)
    files: dict[str, list[int]] = {}
    for place in resolve_function(modules, target):
        files.setdefault(place.path, []).append(place.file_offset)
    links: list[Any] = []
    more = {"replace": True} if replace else {}
    for path, offsets in files.items():
        if multi or loaded.backend == "userspace":
            try:
                links.append(
                    loaded.attach_uprobes(
                        program, path, offsets, cookies=np.full(len(offsets), cookie, np.uint64),
                        pid=pid, on_return=on_return, **more,
                    )
                )  # fmt: skip
            except MissingCapability as error:
                if loaded.backend == "userspace" and sum(map(len, files.values())) > 1:
                    for link in links:
                        link.close()
                    error.hint += _ALL_OR_NONE
                raise
        else:
            links += [
                loaded.attach_uprobe_event(
                    program, path, offset, cookie=cookie, pid=pid, on_return=on_return
                )
                for offset in offsets
            ]
    return links[0] if len(links) == 1 else _together(f"{program} on {target}", links)


def _marks(loaded: Any, program: str, target: str, pid: int | None, cookie: int) -> Any:
    from workbench.collectors.spec import parse
    from workbench.collectors.uprobe.options import Options
    from workbench.collectors.uprobe.plan import make_plan

    options = Options.from_spec(parse(f"usdt:{target},args=no"))
    modules = Modules(pid if pid is not None else loaded.default_pid)
    plan = make_plan(options, modules, loaded.backend)
    links = []
    for site in plan.sites:
        place = site.place
        links.append(
            loaded.attach_uprobes(
                program, place.path, [place.file_offset], cookies=[cookie],
                semaphores=[site.semaphore] if site.semaphore else None, pid=pid,
            )
            if loaded.backend == "userspace"
            else loaded.attach_uprobe_event(
                program, place.path, place.file_offset, cookie=cookie, semaphore=site.semaphore, pid=pid
            )
        )  # fmt: skip
    return links[0] if len(links) == 1 else _together(f"{program} on {target}", links)


def _clock(loaded: Any, program: str, target: str, pid: int | None, cookie: int) -> Any:
    """By CPU time or by wall-clock time, in the words of bpftrace's probes."""
    parts = (target or "99").split(":")
    kind, unit, number = parts if len(parts) == 3 else ("profile", "hz", parts[0])
    known = kind in ("profile", "interval") and unit in _UNITS and number.isdecimal()
    if not known or len(parts) == 2:
        raise BadSpec(
            f"{target!r} is not a rate or a period",
            'samples a second of CPU time, for example "999"; or profile:ms:10; or by wall-clock time interval:ms:100',
        )
    if not 0 < int(number) <= 10**9:
        raise BadSpec(f"{target!r}: {number} {unit}", "1 to 1,000,000,000")
    period = 1_000_000_000 // int(number) if unit == "hz" else int(number) * _UNITS[unit]
    if kind == "interval":
        if pid is not None:
            raise BadSpec("an interval belongs to no process", "leave pid away")
        return loaded.attach_interval(program, period, cookie=cookie)
    if period > 1_000_000_000:
        raise BadSpec(f"{target!r} is less than one sample a second", "profile:hz:1, or interval:s:10")
    return loaded.attach_sampling(program, 1_000_000_000 // max(period, 1), pid=pid)


def _together(description: str, links: list[Any]) -> _Links:
    return _Links(description, links)


class _Links:
    """Several links as one."""

    def __init__(self, description: str, links: list[Any]) -> None:
        self.description, self._links = description, links

    def __repr__(self) -> str:
        return f"<Links {self.description}: {len(self._links)}>"

    @property
    def attached(self) -> bool:
        return any(link.attached for link in self._links)

    @property
    def hits(self) -> int:
        """Times that the program ran at all the places; user space only, as of each link."""
        return sum(link.hits for link in self._links)

    def close(self) -> None:
        for link in reversed(self._links):
            link.close()

    def __enter__(self) -> _Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
