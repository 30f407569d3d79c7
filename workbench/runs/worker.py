"""The process that executes notebooks for a sweep: one job at a time, each with its own log.

`python -m workbench.runs.worker EVENTS_FD` reads jobs as JSON lines from standard input and reports on EVENTS_FD.
Standard input is also its lifeline: when it ends because the parent died, the running notebook is stopped as by
SIGTERM, its statuses are saved and its kernel is shut down.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from workbench.runs.progress import CellProgress, line

__all__ = ("main",)


def main() -> int:
    """Execute jobs until standard input ends."""
    # Of papermill's import time two thirds are this parser of internationalised URLs (0.9 of 1.4 s), an optional
    # format check of jsonschema that no notebook needs. jsonschema takes it as not installed.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    events = int(sys.argv[1])
    os.set_inheritable(events, False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    busy = threading.Event()

    def listen() -> None:
        for job in sys.stdin:
            busy.set()
            jobs.put(job)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        jobs.put("")

    threading.Thread(target=listen, daemon=True, name="lifeline").start()
    while text := jobs.get():
        end = _job(json.loads(text), events)
        busy.clear()
        _send(events, {"event": "end", **end})
        if end["status"] == "interrupted":
            return 130
    return 0


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _send(events: int, event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent died; the lifeline deals with that
        os.write(events, json.dumps(event).encode() + b"\n")


def _job(job: dict[str, Any], events: int) -> dict[str, Any]:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    before = dict(os.environ)
    os.environ.update(job["environment"])
    try:
        return _execute(job, events)
    except (KeyboardInterrupt, SystemExit):
        return {"status": "interrupted", "error": "interrupted"}
    except BaseException as error:
        import traceback

        traceback.print_exc()
        return {"status": "failed", "error": _one_line(error)}
    finally:
        os.environ.clear()
        os.environ.update(before)


def _execute(job: dict[str, Any], events: int) -> dict[str, Any]:
    import papermill

    def report(event: CellProgress) -> None:
        if event.status != "running":
            print(line(event), file=sys.stderr, flush=True)
        fields = {name: getattr(event, name) for name in CellProgress.__slots__}
        _send(events, {"event": "cell", **fields})

    part = Path(job["part"])
    end: dict[str, Any] = {"status": "completed", "error": ""}
    try:
        papermill.execute_notebook(
            _literal(job["notebook"]),
            _literal(job["part"]),
            job["parameters"],
            engine_name="workbench",
            kernel_name="python3",
            language="python",
            progress=report,
            progress_bar=False,
            execution_timeout=job["timeout"],
            grace=job["grace"],
            cwd=str(Path(job["notebook"]).parent),
        )
    except (KeyboardInterrupt, SystemExit):
        end = {"status": "interrupted", "error": "interrupted"}
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        end = {"status": "failed", "error": _one_line(error)}
    if part.exists() and end["status"] != "interrupted":
        _export_html(part, Path(job["html"]))
    return end


def _literal(path: str) -> str:
    """papermill formats paths as templates; these are names."""
    return path.replace("{", "{{").replace("}", "}}")


def _one_line(error: BaseException) -> str:
    ename, evalue = getattr(error, "ename", ""), getattr(error, "evalue", "")
    text = f"{ename}: {evalue}" if ename else f"{type(error).__name__}: {error}"
    return next((one.strip(" :") for one in text.splitlines() if one.strip(" :")), type(error).__name__)


def _export_html(notebook: Path, html: Path) -> None:
    import nbformat
    from nbconvert import HTMLExporter

    # Without the links to script servers: the page has to work, and to stay the same, without a network.
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        mathjax_url="", require_js_url="", jquery_url="", jupyter_widgets_base_url=""
    )
    nb = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    title = notebook.name.removesuffix(".part.ipynb")
    body, _ = exporter.from_notebook_node(nb, resources={"metadata": {"name": title}})
    html.write_text(body, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
