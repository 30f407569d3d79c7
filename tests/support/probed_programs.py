"""Programs that tests probe, compiled here and told apart by what they print; and programs written by hand."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ("HandWritten", "Running", "build", "counting", "returning", "running")


@dataclass(frozen=True)
class HandWritten:
    """A program as machine code: `uint64_t program(ctx, run)`."""

    code: bytes
    entry: int = 0


def counting(address: int) -> HandWritten:
    """Adds 1 to the 64-bit word at an address of the target, atomically; returns 0."""
    return HandWritten(b"\x48\xb8" + struct.pack("<Q", address) + b"\xf0\x48\xff\x00\x31\xc0\xc3")


def storing(address: int, register: int) -> HandWritten:
    """Stores the word at byte `register` of struct pt_regs at an address of the target; returns 0."""
    return HandWritten(
        b"\x48\x8b\x87"
        + struct.pack("<i", register)
        + b"\x48\xb9"
        + struct.pack("<Q", address)
        + b"\x48\x89\x01\x31\xc0\xc3"
    )


def returning(value: int) -> HandWritten:
    """Returns a number."""
    return HandWritten(b"\x48\xb8" + struct.pack("<Q", value % 2**64) + b"\xc3")


def build(folder: Path, name: str, source: str, *flags: str) -> Path:
    """Compile C (or C++ for a name that ends in .cc) into an executable or library."""
    compiler = "g++" if name.endswith(".cc") else "gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    path = folder / name
    if not name.endswith(".cc"):
        path = folder / f"{name}.c"
    path.write_text(source)
    output = folder / name.removesuffix(".cc")
    subprocess.run([compiler, "-O2", "-g", "-o", output, path, *flags, "-lpthread"], check=True)
    return output


class Running:
    """A program that reads commands from a pipe and answers each with a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def read(self) -> list[str]:
        """The next line, in words."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait(30)}"
        return line.split()

    def ask(self, text: str = "") -> list[str]:
        """Send a line; the words of the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.read()

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: object) -> Iterator[Running]:
    """A program, killed at the end."""
    process = subprocess.Popen(
        [str(one) for one in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
