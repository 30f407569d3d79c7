"""`workbench report`."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, NotPermitted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("recording", metavar="DIR", help="folder of the recording")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="rows of each table (20)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--figure", metavar="FILE", help="write the flame graph (png, svg, pdf by its suffix)"
    )
    parser.add_argument("--timeline", metavar="FILE", help="write the timeline")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write one self-contained page: report and every interactive chart",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="load a recording whose checksums do not match"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the report; write the pictures that were asked for."""
    import workbench as wb
    from workbench.notebook.report import report

    if arguments.top < 1:
        raise BadSpec("--top is below 1", "give the number of rows of each table")
    recording = wb.load(arguments.recording, verify=not arguments.no_verify)
    made = report(recording, top=arguments.top)
    written: dict[str, str] = {}
    for name, path in (("flamegraph", arguments.figure), ("timeline", arguments.timeline)):
        if path:
            from workbench.notebook import plot

            _write(Path(path), getattr(plot, name)(recording).save)
            written[name] = path
    if arguments.html:
        text = _page(recording, made)
        _write(Path(arguments.html), lambda target: target.write_text(text, "utf-8", "replace"))
        written["html"] = arguments.html
    if arguments.json:
        print(json.dumps(made.to_json() | {"written": written}))
    else:
        print(made)
        for name, path in written.items():
            print(f"{name}: {path}")
    return 0


def _page(recording: Any, made: Any) -> str:
    from workbench.errors import MissingFrame
    from workbench.notebook import html

    charts: tuple[Callable[[Any], html.InteractiveChart], ...] = (
        html.interactive_flamegraph,
        html.interactive_timeline,
        html.interactive_heatmap,
        html.interactive_latency,
    )
    parts = [made._repr_html_()]
    for chart in charts:
        with contextlib.suppress(MissingFrame):  # a recording without samples has no flame graph
            parts.append(chart(recording).to_html())
    return html.page.document(f"workbench: {recording.name}", *parts)


def _write(path: Path, write: Any) -> None:
    try:
        write(path)
    except OSError as error:
        raise NotPermitted(
            f"cannot write {path}: {error.strerror}", "choose another file"
        ) from error
    except ValueError as error:
        raise BadSpec(f"cannot write {path}: {error}", "use .png, .svg or .pdf") from error
