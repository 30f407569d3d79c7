"""Source lines and inlined calls from one llvm-symbolizer that stays up between queries.

Its start-up and its reading of the debug information dominate a query, so it is started once and asked in batches.
It is optional: without it there are no lines, and no error.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import select
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("LineFrame", "LineResolver", "find_tool")

BATCH = 4096
_VERSIONED = re.compile(r"llvm-symbolizer-(\d+)")


@dataclass(frozen=True, slots=True)
class LineFrame:
    """One source-level frame of an address: readable function and ``file:line`` (either may be empty)."""

    function: str
    line: str


def find_tool() -> str | None:
    """The newest llvm-symbolizer on PATH ($LLVM_SYMBOLIZER wins), or None."""
    if own := os.environ.get("LLVM_SYMBOLIZER"):
        return shutil.which(own)
    found: dict[int, str] = {}
    for folder in os.get_exec_path():
        try:
            names = os.listdir(folder)  # noqa: PTH208 - names only, of folders with thousands of files
        except OSError:
            continue
        for name in names:
            if match := _VERSIONED.fullmatch(name):
                found.setdefault(int(match[1]), str(Path(folder) / name))
    for version in sorted(found, reverse=True):
        if os.access(found[version], os.X_OK):
            return found[version]
    return shutil.which("llvm-symbolizer")


class LineResolver:
    """A persistent llvm-symbolizer.

    Parameters
    ----------
    tool : str, optional
        Program to run; default `find_tool()`.
    timeout : float
        Seconds without any answer after which it is killed and the module given up (reading large debug
        information takes its time before the first answer).
    """

    def __init__(self, tool: str | None = None, timeout: float = 60.0) -> None:
        self.tool = tool or find_tool()
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._given_up: set[str] = set()

    @property
    def available(self) -> bool:
        """A tool was found, and it has not proven unusable."""
        return self.tool is not None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        self._rest = b""
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                # Closing flushes, and what was not sent yet has no reader any more.
                with contextlib.suppress(OSError):
                    pipe.close()

    def resolve(
        self,
        path: str,
        vaddrs: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[tuple[LineFrame, ...]]:
        """Frames of each virtual address of a file, innermost inlined call first; empty where unknown.

        Parameters
        ----------
        path : str
            The file as this process can read it.
        vaddrs : sequence of int
            Virtual addresses in the file (not runtime addresses).
        progress : callable, optional
            Called with (done, total) after every batch.
        """
        out: list[tuple[LineFrame, ...]] = []
        usable = self.available and path not in self._given_up and not set('"\\\n') & set(path)
        while usable and len(out) < len(vaddrs):
            batch = vaddrs[len(out) : len(out) + BATCH]
            answers = self._ask(path, batch) or self._ask(path, batch)
            if answers is None:
                # Died or hung twice on the same batch: this module's debug information is beyond it.
                self._given_up.add(path)
                break
            out += answers
            if progress is not None:
                progress(len(out), len(vaddrs))
        return out + [()] * (len(vaddrs) - len(out))

    def _start(self) -> subprocess.Popen[bytes] | None:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        if self.tool is None:
            return None
        # With DEBUGINFOD_URLS set it would go to the network for every module.
        environment = {k: v for k, v in os.environ.items() if k != "DEBUGINFOD_URLS"}
        try:
            self._process = subprocess.Popen(
                [self.tool, "--output-style=JSON", "--inlines", "--demangle"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C goes to the terminal's whole group; this process must not die under a query.
                start_new_session=True,
            )
        except OSError:
            self.tool = None
        return self._process

    def _ask(self, path: str, vaddrs: Sequence[int]) -> list[tuple[LineFrame, ...]] | None:
        process = self._start()
        if process is None or process.stdin is None or process.stdout is None:
            return None
        request = "".join(f'"{path}" {vaddr:#x}\n' for vaddr in vaddrs).encode(
            "utf-8", "surrogateescape"
        )
        writer = threading.Thread(target=_feed, args=(process.stdin, request), daemon=True)
        writer.start()
        answers: list[tuple[LineFrame, ...]] = []
        try:
            while len(answers) < len(vaddrs):
                line = self._line(process.stdout.fileno())
                if line is None:
                    self.close()
                    return None
                answers.append(_frames(line))
        except BaseException:
            # An interrupt leaves unread answers in the pipe; they must not become those of the next query.
            self.close()
            raise
        finally:
            writer.join(1.0)
        return answers

    def _line(self, fd: int) -> bytes | None:
        deadline = time.monotonic() + self.timeout
        while (end := self._rest.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            part = os.read(fd, 1 << 16)
            if not part:
                return None
            self._rest += part
        line, self._rest = self._rest[:end], self._rest[end + 1 :]
        return line


def _feed(pipe: Any, request: bytes) -> None:
    try:
        pipe.write(request)
        pipe.flush()
    except (OSError, ValueError):
        pass  # it died or was closed; the reader sees the end of the answers


def _frames(line: bytes) -> tuple[LineFrame, ...]:
    try:
        answer = json.loads(line)
        symbols = answer.get("Symbol", ()) if isinstance(answer, dict) else ()
        frames = tuple(
            LineFrame(str(one.get("FunctionName", "")), _place(one))
            for one in symbols
            if isinstance(one, dict)
        )
    except (ValueError, AttributeError, TypeError):
        return ()
    return frames if any(frame.line for frame in frames) else ()


def _place(symbol: dict[str, Any]) -> str:
    name, line = symbol.get("FileName", ""), symbol.get("Line", 0)
    return f"{_tidy(str(name))}:{line}" if name and line else ""


@lru_cache(maxsize=4096)
def _tidy(name: str) -> str:
    """The path without what the build's working folder left in it: ``/./``, ``a/../b``."""
    return posixpath.normpath(name) if "/" in name else name
