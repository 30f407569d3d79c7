"""A campaign of random programs: our verifier, the kernel's, the interpreter and both JIT tiers against each other.

The work is done by a child process, so that compiled code that crashes is a finding and not the end: the child names
every program before it runs it. What cannot run here (no privilege, no LLVM) is left out and named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from workbench.errors import RunFailed

__all__ = ("Campaign", "campaign", "normalised")

_NUMBER = re.compile(r"-?\b0x[0-9a-f]+\b|-?\b\d+\b")
_REGISTER = re.compile(r"\b[Rrw]\d+\b")
COMMAND = ("-m", "workbench.bench.fuzz_worker")
_CRASHES = 100  # after that many the campaign gives up
_KEPT = 50  # findings listed; all are counted


@dataclass(slots=True)
class Campaign:
    """What a campaign found.

    Attributes
    ----------
    programs : int
        Done so far.
    seconds : float
    accepted : Counter
        Programs accepted, by verifier.
    compared : Counter
        Results compared with the interpreter's, by engine.
    left_out : dict of str to str
        Engines that cannot run here, and why.
    bugs : Counter
        By kind: "accepted and faulting", "result", "crash", "internal error".
    findings : list of dict
        The first bugs: seed, kind, what.
    disagreements : dict
        (who accepts, the other's reason) -> how many, with the seed of the first.
    interrupted : bool
    """

    programs: int = 0
    seconds: float = 0.0
    accepted: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    bugs: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    disagreements: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    interrupted: bool = False

    def add(self, row: dict[str, Any]) -> None:
        """Count one program's row."""
        self.programs += 1
        ours, kernel = row["ours"], row["kernel"]
        for who, verdict in (("ours", ours), ("kernel", kernel)):
            self.accepted[who] += verdict == ""
        self.compared.update(row["compared"])
        if ours is not None and kernel is not None and (ours == "") != (kernel == ""):
            key = ("kernel", normalised(ours)) if ours else ("ours", normalised(kernel))
            entry = self.disagreements.setdefault(key, [0, row["seed"]])
            entry[0] += 1
        for kind, what in row["bugs"]:
            self.found(row["seed"], kind, what)

    def found(self, seed: int, kind: str, what: str) -> None:
        """Count a bug."""
        self.bugs[kind] += 1
        if len(self.findings) < _KEPT:
            self.findings.append({"seed": seed, "kind": kind, "what": what})

    def to_json(self) -> dict[str, Any]:
        """The document that `workbench bpf fuzz --json` prints."""
        rows = sorted(self.disagreements.items(), key=lambda item: -item[1][0])
        return {
            "programs": self.programs,
            "seconds": round(self.seconds, 1),
            "accepted": dict(self.accepted),
            "compared": dict(self.compared),
            "left_out": self.left_out,
            "bugs": dict(self.bugs),
            "findings": self.findings,
            "disagreements": [
                {"accepted_by": who, "reason_of_the_other": why, "count": count, "seed": seed}
                for (who, why), (count, seed) in rows
            ],
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        compared = ", ".join(f"{name} {count:,}" for name, count in self.compared.items())
        lines = [
            f"{self.programs:,} programs in {self.seconds:.1f} s"
            + (" (interrupted)" if self.interrupted else ""),
            f"accepted: by us {self.accepted['ours']:,}, by the kernel {self.accepted['kernel']:,}",
            f"results equal to the interpreter's, compared: {compared or 'none'}",
            *(f"left out: {name}: {why}" for name, why in self.left_out.items()),
            f"bugs: {sum(self.bugs.values())}",
            *(f"  seed {one['seed']}: {one['kind']}: {one['what']}" for one in self.findings),
            "verdicts that differ:" if self.disagreements else "no verdict differs",
        ]
        for row in self.to_json()["disagreements"]:
            who = "we accept" if row["accepted_by"] == "ours" else "the kernel accepts"
            lines.append(
                f"  {row['count']:6,}  {who}, the other: {row['reason_of_the_other']} (seed {row['seed']})"
            )
        return "\n".join(lines)


def normalised(reason: str) -> str:
    """A reason without its numbers, so that equal reasons count together."""
    line = reason.splitlines()[0] if reason else ""
    return _NUMBER.sub("N", _REGISTER.sub("rN", line))[:160]


def campaign(
    programs: int,
    seed: int = 0,
    *,
    first: int = 0,
    without: tuple[str, ...] = (),
    progress: Callable[[Campaign], None] | None = None,
) -> Campaign:
    """Run `programs` programs of the seeds from `seed * 1,000,000,000 + first`.

    Parameters
    ----------
    programs : int
    seed : int
    first : int
        Programs of this seed to pass over: those that an interrupted campaign has done.
    without : tuple of str
        Engines to leave out: verifier, kernel, quick, optimised.
    progress : callable, optional
        Called about once a second with what there is.

    Raises
    ------
    RunFailed
        The child process does not start, or crashed 100 times.

    Returns
    -------
    Campaign
        Also when interrupted by Ctrl-C, with what there was.
    """
    found = Campaign()
    begin, shown = time.monotonic(), 0.0
    at = seed * 1_000_000_000 + first
    end = at + programs
    try:
        while at < end:
            last = at - 1
            for row in _worker(at, end - at, without):
                if "left_out" in row:
                    found.left_out.update(row["left_out"])
                elif "died" in row:
                    if last < at or found.bugs["crash"] >= _CRASHES:
                        raise RunFailed(
                            f"the child process ended by {row['died']}"
                            + (" before its first program" if last < at else " again"),
                            "its standard error says why",
                        )
                    found.programs += 1
                    found.found(last, "crash", row["died"])
                elif "starts" in row:
                    last = row["starts"]
                else:
                    found.add(row)
                found.seconds = time.monotonic() - begin
                if progress is not None and found.seconds - shown >= 1:
                    shown = found.seconds
                    progress(found)
            at = last + 1
    except KeyboardInterrupt:
        found.interrupted = True
    found.seconds = time.monotonic() - begin
    return found


def _worker(first: int, count: int, without: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of a child that runs the seeds from `first`; ends with a row `died` when it did not reach the end."""
    command = [sys.executable, *COMMAND, str(first), str(count), *without]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    done = False
    try:
        stream: IO[str] | None = child.stdout
        for line in stream or ():
            row = json.loads(line)
            if "done" in row:
                done = True
                break
            yield row
        status = child.wait()
        if not done:
            yield {"died": f"signal {-status}" if status < 0 else f"exit status {status}"}
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
