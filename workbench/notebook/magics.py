"""`%load_ext workbench`: the magics.

====================  ======================================================================================
``%%wb_record``       record while the cell runs; options as `workbench record`
``%wb_record``        record a command, a process or the machine, as `workbench record`
``%wb_doctor``        what this machine can do
``%wb_report X``      the report of a recording: a folder, or a variable that holds a recording
``%wb_debug on|off``  whole tracebacks for the workbench's own errors, or just what to do
====================  ======================================================================================
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from workbench.collectors.api import record
from workbench.collectors.options import keywords
from workbench.errors import BadSpec, RunFailed, WorkbenchError
from workbench.notebook import hook, tracebacks
from workbench.notebook.cell import compile_cell
from workbench.notebook.forward import ForwardedOutput
from workbench.notebook.options import HelpShown, MagicParser, parse, record_parser
from workbench.notebook.progress import Progress
from workbench.notebook.widget import RecorderView

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.collectors.recorder import Recorder
    from workbench.frames.recording import Recording

__all__ = ("Magics", "register")


def register(shell: Any) -> None:
    """Register the magics, the short errors and the view of recorders with an IPython shell."""
    magics = Magics(shell)
    for name, function, kind in (
        ("wb_record", magics.record, "line_cell"),
        ("wb_doctor", magics.doctor, "line"),
        ("wb_report", magics.report, "line"),
        ("wb_debug", magics.debug, "line"),
    ):
        shell.register_magic_function(function, kind, name)
    hook.install(shell)
    tracebacks.install(shell)


def _display(value: Any) -> None:
    from IPython import display

    show: Any = display.display
    show(value)


class Magics:
    """The magics of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    # -- recording --------------------------------------------------------------------------------------------

    def record(self, line: str, cell: str | None = None) -> Any:
        """Record while the cell runs, or (with one %) a command, a process or the machine. See --help."""
        __tracebackhide__ = True
        kind = "line" if cell is None else "cell"
        try:
            arguments = parse(record_parser(kind), line, command=cell is None)
        except HelpShown:
            return None
        if cell is None:
            self._record_line(arguments)
            return None
        return self._record_cell(arguments, cell)

    def _record_line(self, arguments: argparse.Namespace) -> None:
        __tracebackhide__ = True
        if not (arguments.command or arguments.pid is not None or arguments.machine):
            raise BadSpec(
                "%wb_record: name one target", "--pid N, --machine or -- CMD ...; or %%wb_record"
            )
        with ForwardedOutput() as output:
            recorder = self._recorder(arguments, stdout=output.stdout, stderr=output.stderr)

            def work() -> None:
                output.started()
                recorder.wait()

            # The target decides the end; a Stop button, --seconds or an interrupt may come first.
            self._observe(recorder, arguments, work)
        if recorder.exit_status:
            raise RunFailed(
                f"the command ended with status {recorder.exit_status}",
                f"what it printed is above; the recording is in `{arguments.into}`",
            )

    def _record_cell(self, arguments: argparse.Namespace, cell: str) -> Any:
        __tracebackhide__ = True
        run = compile_cell(self._shell, cell)
        return self._observe(self._recorder(arguments), arguments, run)

    @staticmethod
    def _recorder(arguments: argparse.Namespace, **more: Any) -> Recorder:
        words = keywords(arguments) | more
        return record(words.pop("collect") or "cpu:999", **words)

    def _observe(
        self, recorder: Recorder, arguments: argparse.Namespace, work: Callable[[], Any]
    ) -> Any:
        """Record while `work` runs; whatever it raises, the probes are gone and the data is in the variable."""
        __tracebackhide__ = True
        recorder.start()
        view = None
        try:
            if not arguments.quiet:
                view = RecorderView(recorder)
                view.display()
            value = work()
        except KeyboardInterrupt as error:
            recorder.stop(interrupted=True)
            self._keep(recorder, arguments, view)
            tracebacks.shorten(
                error, f"the recording ended here; what was recorded is in `{arguments.into}`"
            )
            raise
        except BaseException as error:
            recorder.stop(
                interrupted=not isinstance(error, Exception),
                reason=f"the cell raised {type(error).__name__}",
            )
            self._keep(recorder, arguments, view)
            raise
        recorder.stop(reason="the cell ended")
        self._keep(recorder, arguments, view)
        recorder.result()  # raises what ended the recording early, such as a full disk
        return value

    def _keep(
        self, recorder: Recorder, arguments: argparse.Namespace, view: RecorderView | None
    ) -> None:
        """Wait for the end, hand over the recording and show it."""
        while True:
            try:
                recorder.wait()
                if view is not None:
                    view.finish()
                break
            except KeyboardInterrupt:  # a second press: what is being written is what the first one wants kept
                continue
        try:
            recording = recorder.recording
        except WorkbenchError:
            return  # nothing could be written; `result()` says why
        self._shell.user_ns[arguments.into] = recording
        if not arguments.no_figure:
            self._show_figure(recording)
        if arguments.quiet:
            _display(recording)

    @staticmethod
    def _show_figure(recording: Recording) -> None:
        if recording.rows.get("samples"):
            from workbench.notebook.html import interactive_flamegraph

            _display(interactive_flamegraph(recording))

    # -- others -----------------------------------------------------------------------------------------------

    def doctor(self, line: str) -> Any:
        """What this machine can do, each row proven by trying: %wb_doctor [NAME ...]."""
        __tracebackhide__ = True
        from workbench import host

        parser = MagicParser(prog="%wb_doctor", description="What this machine can do.")
        parser.add_argument("names", nargs="*", metavar="NAME", help="rows to try (all)")
        try:
            names = parse(parser, line).names
        except HelpShown:
            return None
        total = len(names) or len(host.NAMES)
        tried = 0
        with Progress("trying what this machine can do") as progress:

            def step(row: host.Row) -> None:
                nonlocal tried
                tried += 1
                progress.update(tried / total, row.name)

            return host.doctor(names, step)

    def report(self, line: str) -> Any:
        """The report of a recording: %wb_report FOLDER or %wb_report VARIABLE [--top N]."""
        __tracebackhide__ = True
        from workbench.frames.recording import load
        from workbench.notebook.report import report

        parser = MagicParser(prog="%wb_report", description="What a recording holds.")
        parser.add_argument(
            "recording", metavar="X", help="folder, or variable that holds a recording"
        )
        parser.add_argument("--top", type=int, default=20, metavar="N", help="rows of each table (20)")
        parser.add_argument(
            "--no-verify", action="store_true", help="load a recording whose checksums do not match"
        )
        try:
            arguments = parse(parser, line)
        except HelpShown:
            return None
        if arguments.top < 1:
            parser.error("--top is below 1")
        found = self._shell.user_ns.get(arguments.recording)
        if found is None or isinstance(found, str):
            found = load(found or arguments.recording, verify=not arguments.no_verify)
        return report(found, top=arguments.top)

    def debug(self, line: str) -> None:
        """Whole tracebacks for the workbench's own errors: %wb_debug on, %wb_debug off."""
        word = line.strip()
        if word == "on":
            tracebacks.remove()
        elif word == "off":
            tracebacks.install(self._shell)
        else:
            raise BadSpec(f"%wb_debug {word}".rstrip(), "%wb_debug on, or %wb_debug off")
