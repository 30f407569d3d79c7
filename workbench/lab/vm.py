"""`wb.lab(...)`: a guest as a context, in which commands run and files come and go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from workbench.errors import BadSpec, GuestFailed
from workbench.lab.accelerator import choose
from workbench.lab.cache import Cache
from workbench.lab.exchange import Exchange, Output
from workbench.lab.guest import Guest
from workbench.lab.machine import Machine
from workbench.lab.prepare import parts
from workbench.lab.result import Result
from workbench.lab.transfer import Receiver, frames_of

__all__ = ("BOOT_LIMIT", "LIMIT", "OUT", "Vm", "lab")

BOOT_LIMIT = 180.0
"""Seconds of wall time that booting may take."""
LIMIT = 600.0
"""Seconds of wall time that a command may take."""
_FILES = 300.0  # seconds of wall time that moving files may take
OUT = "/out"
"""Folder of the guest whose files come back; $OUT there."""


def lab(
    mode: str = "deterministic",
    *,
    cpus: int | None = None,
    memory: int = 1024,
    kernel: str | None = None,
    accelerator: str = "auto",
    modules: Sequence[str] = (),
    seed: int = 1,
    boot: Sequence[str] = (),
    priority: str = "normal",
    boot_limit: float = BOOT_LIMIT,
    retries: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Vm:
    """A disposable guest; enter it with ``with`` to boot it.

    Parameters
    ----------
    mode : str
        ``deterministic`` (time counted in instructions, one CPU) or ``parallel``.
    cpus : int, optional
        Virtual processors; 1 in the deterministic mode, 2 in the parallel one.
    memory : int
        MiB.
    kernel : str, optional
        Release of a prepared kernel; without it the one that was prepared last.
    accelerator : str
        ``kvm``, ``tcg`` (emulation), or ``auto``: KVM where a guest was seen to come up with it. The deterministic mode
        is always emulated.
    modules : sequence of str
        Kernel modules to load, with what they need.
    seed : int
        Of the guest's random numbers in the deterministic mode.
    boot : sequence of str
        More words for the kernel's command line.
    priority : str
        ``high``: run before the host's other programs, as far as this user may (root). On a busy host, what is timed
        in a parallel guest means nothing otherwise.
    boot_limit : float
        Seconds of wall time that booting may take.
    retries : int
        How often a guest whose kernel panicked is booted again; `Vm.panics` tells of it.
    progress : callable, optional
        Called with a line of text when something takes longer than a moment.

    Raises
    ------
    MissingCapability
        No QEMU, or nothing is prepared: `workbench lab prepare` does that, and is the only step that downloads.
    BadSpec
        Options that make no sense.

    Examples
    --------
    >>> with wb.lab() as vm:                                # doctest: +SKIP
    ...     vm.run(["uname", "-r"]).text
    """
    count = cpus if cpus is not None else (1 if mode == "deterministic" else 2)
    cache = Cache()
    say = progress or (lambda text: None)
    made = parts(cache, kernel, tuple(modules), say)
    machine = Machine(
        made.kernel,
        made.initramfs,
        made.root,
        made.project,
        mode,
        "tcg",
        count,
        memory,
        seed,
        boot=tuple(boot),
        priority=priority,
    )
    machine = replace(machine, accelerator=choose(cache, machine, accelerator, say))
    return Vm(machine, cache, boot_limit, retries)


class Vm:
    """A guest. `lab` makes one.

    Attributes
    ----------
    panics : list of str
        What the guest's kernel said each time it panicked and was booted again.
    """

    def __init__(self, machine: Machine, cache: Cache, boot_limit: float, retries: int) -> None:
        self.machine = machine
        self.panics: list[str] = []
        self._cache, self._boot_limit, self._retries = cache, boot_limit, retries
        self._guest: Guest | None = None
        self._brought: list[tuple[Path, str]] = []

    def __enter__(self) -> Vm:
        self._boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch the guest off; what was written in it is gone."""
        guest, self._guest = self._guest, None
        if guest:
            guest.stop()

    @property
    def guest(self) -> Guest:
        """The boot that is running.

        Raises
        ------
        BadSpec
            None is.
        """
        if not self._guest:
            raise BadSpec("the guest is not running", "use it inside `with wb.lab(...) as vm:`")
        return self._guest

    @property
    def about(self) -> dict[str, Any]:
        """``mode``, ``accelerator``, ``release``, ``cpus``, ``memory`` (MiB), ``boot_seconds`` (wall time)."""
        machine = self.machine
        return {
            "mode": machine.mode,
            "accelerator": machine.accelerator,
            "release": machine.kernel.release,
            "cpus": machine.cpus,
            "memory": machine.memory,
            "boot_seconds": round(self.guest.boot_seconds, 3),
        }

    @property
    def console(self) -> str:
        """What the guest's kernel wrote so far."""
        return self.guest.console

    def run(
        self,
        command: Sequence[str] | str,
        *,
        env: Mapping[str, str] | None = None,
        folder: str = "/tmp",
        stdin: bytes | None = None,
        limit: float = LIMIT,
        output: Path | str | None = None,
        show: Output | None = None,
        check: bool = False,
        retry: bool = True,
    ) -> Result:
        """Run a command as root and wait for its end.

        Parameters
        ----------
        command : sequence of str or str
            Program and arguments; a string is given to ``sh -c``.
        env : mapping, optional
            Variables on top of the guest's own. $OUT names the folder whose files come back.
        folder : str
            Working folder.
        stdin : bytes, optional
            Its standard input; without it that is empty.
        limit : float
            Seconds of wall time; then it is ended and the result says `timed_out`.
        output : path, optional
            Folder of the host that takes what the command left in $OUT; that folder of the guest is empty afterwards.
        show : callable, optional
            Called with (1 or 2, bytes) for each piece of output as it comes.
        check : bool
            Raise `RunFailed` unless it ends with status 0.
        retry : bool
            If the guest's kernel panics: boot again, copy in again what was copied in, run again. What earlier
            commands did in the guest is lost then: pass False when this one builds on it.

        Raises
        ------
        GuestFailed
            The guest panicked (again), or no longer answers.
        RunFailed
            With `check`.
        """
        words = ("sh", "-c", command) if isinstance(command, str) else tuple(map(str, command))
        fields = {
            "argv": words,
            "env": dict(env or {}),
            "folder": folder,
            "stdin": stdin is not None,
        }
        started = time.monotonic()
        while True:
            exchange = Exchange(self.guest, show)
            try:
                end = exchange.run(fields, stdin, started + limit)
                files = self._collect(Path(output)) if output is not None else ()
                break
            except GuestFailed as failure:
                if not (retry and self._again(failure)):
                    raise
        result = Result(
            words, end.status, bytes(exchange.stdout), bytes(exchange.stderr), end.seconds, time.monotonic() - started,
            files, end.timed_out, exchange.lost, tuple(self.panics), self.about,
        )  # fmt: skip
        return result.check() if check else result

    def shell(self, command: Sequence[str] = ("bash",)) -> int:
        """Run a command on this terminal until it ends; its exit status."""
        from workbench.lab.terminal import interactive

        return interactive(self.guest, tuple(command))

    def copy_in(self, source: Path | str, target: str = "/tmp/") -> None:
        """Copy a file or a folder into the guest.

        Parameters
        ----------
        source : path
            On the host.
        target : str
            Path in the guest; one that ends with ``/`` is a folder, which is made, and keeps the name of `source`.

        Raises
        ------
        BadSpec
            There is no such source.
        RunFailed
            The guest could not write it.
        """
        source = Path(source)
        if not source.exists():
            raise BadSpec(
                f"there is no {source} to copy into the guest",
                "name a file or a folder of this machine",
            )
        self._put(source, target)
        self._brought.append((source, target))

    def copy_out(self, source: str, target: Path | str) -> tuple[Path, ...]:
        """Copy a file or a folder out of the guest.

        Parameters
        ----------
        source : str
            Path in the guest.
        target : path
            Folder of the host; made if it is missing.

        Returns
        -------
        tuple of Path
            The files that were written.

        Raises
        ------
        RunFailed
            There is no such source.
        """
        target = Path(target)
        receiver = Receiver(target)
        exchange = Exchange(self.guest)
        try:
            return exchange.get(source, receiver, time.monotonic() + _FILES)
        finally:
            receiver.close()

    def _put(self, source: Path, target: str) -> None:
        place = PurePosixPath("/") / target
        folder, name = (place, source.name) if target.endswith("/") else (place.parent, place.name)
        exchange = Exchange(self.guest)
        exchange.put(str(folder), frames_of(source.resolve(), name), time.monotonic() + _FILES)

    def _collect(self, target: Path) -> tuple[Path, ...]:
        """Bring what is in $OUT, and empty it."""
        target.mkdir(parents=True, exist_ok=True)
        holding = target / f".arriving-{os.getpid()}"
        try:
            brought = self.copy_out(OUT, holding)
            top = holding / OUT.lstrip("/")
            places = []
            for path in brought:
                place = target / path.relative_to(top.resolve())
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
                places.append(place)
        finally:
            shutil.rmtree(holding, ignore_errors=True)
        emptied = {"argv": ["sh", "-c", f"rm -rf {OUT}/* {OUT}/.[!.]*"]}
        Exchange(self.guest).run(emptied, None, time.monotonic() + _FILES)
        return tuple(places)

    def _boot(self) -> None:
        while True:
            try:
                self._guest = Guest(self.machine, self._boot_limit, self._cache.workspace("guest"))
                for source, target in self._brought:
                    self._put(source, target)
                return
            except GuestFailed as failure:
                if not self._may_try_again(failure):
                    raise

    def _again(self, failure: GuestFailed) -> bool:
        """Boot again after a panic; False when that was done often enough."""
        if not self._may_try_again(failure):
            return False
        self._boot()
        return True

    def _may_try_again(self, failure: GuestFailed) -> bool:
        self.close()
        if not failure.panicked or len(self.panics) >= self._retries:
            return False
        self.panics.append(failure.message)
        return True
