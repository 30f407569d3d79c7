"""Compile and record programs with known truth (known.c); find them in the frames."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.collectors.recorder import Recorder
from workbench.frames.recording import Recording

SOURCE = Path(__file__).with_name("known.c")
WITHOUT_FRAME_POINTERS = ("-O1", "-fomit-frame-pointer")
WITH_FRAME_POINTERS = ("-O1", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer")


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="workbench-known-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def compiled(source: Path, *flags: str) -> str:
    """A program, compiled once per run of the tests."""
    output = _folder() / f"{source.stem}-{len(list(_folder().iterdir()))}"
    subprocess.run(["gcc", "-o", output, source, "-pthread", *flags], check=True, timeout=60)
    return str(output)


def known(*flags: str) -> str:
    """The program with known truth."""
    return compiled(SOURCE, *(flags or WITHOUT_FRAME_POINTERS))


def record(
    folder: Path, collect: str | list[str], *work: object, program: str = "", **options: Any
) -> Recording:
    """Record one work of the program to its end."""
    command = [program or known(), *map(str, work)] if work else []
    collect = [collect] if isinstance(collect, str) else collect
    if command:
        options["command"] = command
    return Recorder(collect, output=folder / "recording", **options).run()


@contextlib.contextmanager
def waiting(*work: object, program: str = "") -> Iterator[subprocess.Popen[str]]:
    """A work that has said it is ready and goes on at a word."""
    process = subprocess.Popen(
        [program or known(), *map(str, work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> str:
    """Let a waiting work go on to its end; what it prints."""
    return process.communicate("go\n", timeout=60)[0]


def share(samples: pd.DataFrame, function: str) -> float:
    """Part of the samples whose innermost function this is."""
    return float((samples["function"] == function).mean())


def chains(recording: Recording, *, user: bool = True) -> dict[int, tuple[str, ...]]:
    """Functions of every stack, innermost first."""
    stacks = recording.stacks
    if user:
        stacks = stacks[stacks["space"] != "kernel"]
    stacks = stacks.sort_values(["stack", "depth"])
    return {int(key): tuple(part) for key, part in stacks.groupby("stack")["function"]}
