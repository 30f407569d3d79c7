"""A process that records itself in user space: the recorder runs in a child of its own, which can hold it still.

Everything but the recorder's thread is as in `Recorder`. The child is told by lines (state, stop) and answers with a
JSON value a line; it stops when the line to it breaks, and leaves itself out of what it records.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import errors
from workbench.collectors.recorder import DRAIN_SECONDS, Recorder
from workbench.collectors.spec import Spec
from workbench.collectors.state import CollectorState, State
from workbench.errors import BadSpec, RunFailed, WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("OutsideRecorder",)

_PR_SET_PTRACER = 0x59616D61
_PATIENCE = 60.0


class OutsideRecorder(Recorder):
    """A `Recorder` of this very process, by user space's programs."""

    _child: subprocess.Popen[str] | None = None
    _last = State("new", 0.0, None, 0.0, ())

    def start(self) -> Recorder:
        """As of `Recorder`."""
        with self._lock:
            if self._started:
                raise BadSpec("this recorder was started already", "make a new one")
            self._started = True
        if not all(isinstance(one, Spec) for one in self._specs):
            raise BadSpec("a collector object cannot record its own process in user space", "name it by a text")
        self._talk = threading.RLock()
        self._output = Path(self._output).absolute()
        options = {
            "collect": [str(one) for one in self._specs],
            "output": str(self._output),
            "pid": os.getpid(),
            "seconds": self._seconds,
            "follow": self._follow,
            "overwrite": self._overwrite,
        }
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        # Where Yama lets only parents trace; without it the call is refused, and not needed.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, self._child.pid, 0, 0, 0)
        answer = self._read() or {"error": ["RunFailed", "the recording process ended early", ""]}
        if "error" in answer:
            self._end_child()
            if self.temporary is not None:
                with contextlib.suppress(OSError):
                    self.temporary.rmdir()
            raise _error(answer["error"])
        self._phase = "recording"
        _running_add(self)
        return self

    def _read(self) -> dict[str, Any] | None:
        assert self._child is not None and self._child.stdout is not None
        line = self._child.stdout.readline()
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def _tell(self, word: str) -> None:
        assert self._child is not None and self._child.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.write(word + "\n")
            self._child.stdin.flush()

    def _hear(self, timeout: float) -> bool:
        """Take one answer, if one comes in time; True when the recording has ended."""
        assert self._child is not None and self._child.stdout is not None
        with self._talk:
            if self._phase == "done":
                return True
            if not select.select([self._child.stdout], [], [], timeout)[0]:
                return False
            answer = self._read()
            if answer is not None and "state" in answer:
                phase, elapsed, remaining, progress, rows = answer["state"]
                collectors = tuple(CollectorState(*row) for row in rows)
                self._last = State(phase, elapsed, remaining, progress, collectors)
                return False
            self._take_end(answer)
            return True

    def _take_end(self, answer: dict[str, Any] | None) -> None:
        from workbench.frames.recording import load

        self._phase = "done"
        self._end_child()
        _running_discard(self)
        with contextlib.suppress(WorkbenchError, OSError):
            self._recording = load(self._output)
        if answer is None:
            self._error = RunFailed("the recording process ended unexpectedly", "see `recorder.recording`")
        elif answer.get("error"):
            self._error = _error(answer["error"])
        self._done.set()

    def _end_child(self) -> None:
        assert self._child is not None
        with contextlib.suppress(OSError):
            self._child.communicate(timeout=_PATIENCE)

    def state(self) -> State:
        """As of `Recorder`."""
        if self._phase not in ("new", "done"):
            with self._talk:
                self._tell("state")
                self._hear(1.0)
        last = self._last
        phase = "done" if self._phase == "done" else last.phase
        return State(phase, last.elapsed, last.remaining, last.progress, last.collectors)

    def stop(self, *, interrupted: bool = False, reason: str = "") -> None:
        """As of `Recorder`."""
        with self._lock:
            if self._stopping or self._phase in ("new", "done"):
                return
            self._stopping = True
        self._tell("interrupt" if interrupted else f"stop {reason}")

    def wait(
        self, timeout: float | None = None, on_tick: Callable[[State], None] | None = None
    ) -> bool:
        """As of `Recorder`."""
        if not self._started:
            raise BadSpec("this recorder was not started", "call start(), run(), or use `with`")
        end = None if timeout is None else time.monotonic() + timeout
        while not self._hear(DRAIN_SECONDS):
            if on_tick is not None:
                on_tick(self.state())
            if end is not None and time.monotonic() >= end:
                return False
        return True


def _running_add(recorder: Recorder) -> None:
    from workbench.collectors.recorder import _running

    _running.add(recorder)


def _running_discard(recorder: Recorder) -> None:
    from workbench.collectors.recorder import _running

    _running.discard(recorder)


def _error(parts: list[str]) -> WorkbenchError:
    name, message, hint = parts
    kind = getattr(errors, name, WorkbenchError)
    made: WorkbenchError = (kind if issubclass(kind, WorkbenchError) else WorkbenchError)(message, hint)
    return made


def _described(error: BaseException) -> list[str]:
    if isinstance(error, WorkbenchError):
        return [type(error).__name__, error.message, error.hint]
    return ["RunFailed", f"{type(error).__name__}: {error}", ""]


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main(options: dict[str, Any]) -> None:
    """The child: record as told until a line says stop, or the line is gone."""
    collect = options.pop("collect")
    try:
        recorder = Recorder(collect, backend="userspace", **options).start()
    except BaseException as error:
        _say({"error": _described(error)})
        return
    _say({"ready": True})
    while not recorder.wait(0):
        if not select.select([sys.stdin], [], [], DRAIN_SECONDS)[0]:
            continue
        word, _, reason = (sys.stdin.readline() or "stop the recorded process ended").strip().partition(" ")
        if word == "state":
            now = recorder.state()
            rows = [[one.name, one.events, one.lost] for one in now.collectors]
            _say({"state": [now.phase, now.elapsed, now.remaining, now.progress, rows]})
            continue
        recorder.stop(interrupted=word == "interrupt", reason=reason)
        recorder.wait()
    try:
        recorder.result()
        _say({"done": True})
    except BaseException as error:
        _say({"error": _described(error)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
