"""What a notebook shows of a recorder: live counters, rates, a plot, the time to go, and a Stop button.

While it records, a widget; afterwards plain HTML with the final numbers, so that a saved notebook shows the end and
not a widget that nobody can press. A thread of its own redraws: the cell that runs meanwhile is not held up, and
Stop arrives on a kernel subshell (JupyterLab 4.4, ipykernel 7) without waiting for that cell.
"""

from __future__ import annotations

import contextlib
import html
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.notebook.progress import bar
from workbench.notebook.rates import Rates, sparkline
from workbench.notebook.surface import LiveOutput, surface
from workbench.runs.progress import duration_text

if TYPE_CHECKING:
    from workbench.collectors.recorder import Recorder, State
    from workbench.frames.recording import Recording

__all__ = ("RecorderView",)

INTERVAL = {"live": 0.25, "document": 1.0}
CELL = "text-align:right;padding:2px 12px 2px 0;font-variant-numeric:tabular-nums"
LEFT = "text-align:left;padding:2px 12px 2px 0"


class RecorderView:
    """Shows one recorder in the output of a cell until it has ended, and then its result.

    Parameters
    ----------
    recorder : Recorder
        In any phase.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._rates: dict[int, Rates] = {}
        self._output = LiveOutput()
        self._body: Any = None
        self._button: Any = None
        self._box: Any = None
        self._thread: threading.Thread | None = None

    def display(self) -> None:
        """Show it here; returns at once. Outside a notebook that is one line of text."""
        where = surface()
        if where not in ("live", "document"):
            print(self.recorder.state())
            return
        state = self.recorder.state()
        self._count(state)
        moving = state.phase in ("recording", "finishing")
        if moving and where == "live" and find_spec("ipywidgets") is not None:
            self._make_widget(state)
        if moving:
            self._output.show(self._text(state), self._html(state), self._widget_data())
            self._thread = threading.Thread(
                target=self._follow, args=(INTERVAL[where],), name="workbench-view", daemon=True
            )
            self._thread.start()
        else:
            self._show_end()

    def finish(self) -> None:
        """After the recorder has ended: wait until its final state is shown."""
        if self._thread is not None:
            self._thread.join()

    # -- while it records -------------------------------------------------------------------------------------

    def _make_widget(self, state: State) -> None:
        import ipywidgets

        self._body = ipywidgets.HTML(self._html(state))
        self._button = ipywidgets.Button(
            description="Stop",
            icon="stop",
            tooltip="End the recording; what was recorded is kept",
        )
        self._button.add_class("wb-stop")
        self._button.on_click(self._on_stop)
        _deliver_on_subshell(self._button)
        self._box = ipywidgets.VBox([self._body, self._button])
        self._box.add_class("wb-recorder-widget")

    def _widget_data(self) -> dict[str, Any]:
        if self._box is None:
            return {}
        kind = "application/vnd.jupyter.widget-view+json"
        return {kind: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}

    def _on_stop(self, _button: Any) -> None:
        """May run in any thread, while a cell runs in the main one."""
        self._button.disabled = True
        self._button.description = "Stopping"
        self.recorder.stop(reason="stopped by the user")

    def _follow(self, interval: float) -> None:
        while not self.recorder.wait(interval):
            state = self.recorder.state()
            self._count(state)
            if self._body is not None:
                self._body.value = self._html(state)
            else:
                self._output.show(self._text(state), self._html(state))
        self._count(self.recorder.state())
        self._show_end()
        if self._box is not None:
            for one in (self._button, self._body, self._box):
                one.close()

    def _count(self, state: State) -> None:
        for index, one in enumerate(state.collectors):
            self._rates.setdefault(index, Rates()).add(state.elapsed, one.events)

    # -- what it looks like -----------------------------------------------------------------------------------

    def _show_end(self) -> None:
        state = self.recorder.state()
        self._output.show(self._text(state), self._html(state))

    def _title(self, state: State) -> str:
        recorder = self.recorder
        of = f"process {recorder.pid}" if recorder.pid is not None else "the whole machine"
        if state.phase == "new":
            return f"Recorder of {of}: not started"
        time = duration_text(state.elapsed)
        if state.phase == "recording":
            left = state.remaining
            to_go = "" if left is None else f", {duration_text(max(left, 0.0))} to go"
            return f"Recording {of}: {time}{to_go}"
        if state.phase == "finishing":
            return f"Recorded {of} for {time}, writing {100 * state.progress:.0f} %"
        return f"Recorded {of} for {time}"

    def _result(self, state: State) -> tuple[str, str]:
        """Why it ended and where it is, once it has."""
        if state.phase != "done":
            return "", ""
        recording = self._recording()
        if recording is None:
            return f"failed: {self._failure()}", ""
        manifest = recording.manifest
        ended = str(manifest.notes.get("ended_by", ""))
        why = manifest.reason or ended
        return f"{recording.status}: {why}" if why else recording.status, str(recording.path)

    def _recording(self) -> Recording | None:
        """The recording, once there is one."""
        with contextlib.suppress(WorkbenchError):
            return self.recorder.recording
        return None

    def _failure(self) -> str:
        """Why nothing could be written."""
        try:
            self.recorder.result()
        except WorkbenchError as error:
            return error.message
        except Exception as error:  # whatever ended the recorder's thread; shown, and raised by result()
            return f"{type(error).__name__}: {error}"
        return ""

    def _text(self, state: State) -> str:
        lines = [self._title(state)]
        for index, (one, rates) in enumerate(zip(state.collectors, self._rates.values(), strict=True)):
            lost = self._lost(index, one.lost)
            gone = f", {lost:,} lost" if lost else ""
            lines.append(f"  {one.name}: {one.events:,} events, {self._rate(state, rates)} per second{gone}")
        lines += [f"  {part}" for part in self._result(state) if part]
        return "\n".join(lines)

    @staticmethod
    def _rate(state: State, rates: Rates) -> str:
        rate = rates.latest() if state.phase == "recording" else rates.average()
        return "-" if rate is None else f"{rate:,.0f}"

    def _html(self, state: State) -> str:
        parts = [f"<b>{html.escape(self._title(state))}</b>"]
        fraction = self._fraction(state)
        if fraction is not None:
            parts.append(bar(fraction))
        head = "".join(
            f'<th style="{style}">{name}</th>'
            for name, style in (
                ("collector", LEFT), ("events", CELL), ("per second", CELL), ("lost", CELL), ("over time", LEFT),
            )
        )  # fmt: skip
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{self._rows(state)}</tbody></table>")
        why, where = self._result(state)
        if why:
            parts.append(f"<div>{html.escape(why)}</div>")
        if where:
            parts.append(f"<div><code>{html.escape(where)}</code></div>")
        return f'<div class="wb-recorder" data-phase="{state.phase}">{"".join(parts)}</div>'

    def _lost(self, index: int, live: int) -> int:
        """Events that a collector lost: at the end, what the recording says, which counts the rings as well."""
        recording = self._recording()
        if recording is None:
            return live
        return max(live, sum(recording.lost.get(one, 0) for one in self.recorder.collectors[index].frames))

    def _rows(self, state: State) -> str:
        rows = []
        for index, (one, rates) in enumerate(zip(state.collectors, self._rates.values(), strict=True)):
            lost = self._lost(index, one.lost)
            values = rates.per_second()
            label = f"{one.name}: events per second, at most {max(values, default=0):,.0f}"
            alarm = "color:#D55E00;font-weight:bold;" if lost else ""
            rows.append(
                f'<tr data-collector="{html.escape(one.name)}"><td style="{LEFT}">{html.escape(one.name)}</td>'
                f'<td class="wb-events" style="{CELL}">{one.events:,}</td>'
                f'<td style="{CELL}">{self._rate(state, rates)}</td>'
                f'<td style="{alarm}{CELL}">{lost:,}</td>'
                f'<td style="{LEFT}">{sparkline(values, label)}</td></tr>'
            )
        return "".join(rows)

    @staticmethod
    def _fraction(state: State) -> float | None:
        if state.phase == "finishing":
            return state.progress
        if state.phase == "recording" and state.remaining is not None:
            return state.elapsed / max(state.elapsed + state.remaining, 1e-9)
        return None


def _deliver_on_subshell(widget: Any) -> None:
    """Let messages of a widget go where the frontend sends them: to a subshell, which no running cell blocks.

    ipykernel 7.4 answers on the shell that last used the comm, and that is the main one, where the widget was made:
    a click would wait for the cell whose recording it should stop. Earlier versions do what this asks for.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda _data, chosen: chosen
