"""Run the command line as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKBENCH = [sys.executable, "-m", "workbench.cli"]


def workbench(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    options = {"stdin": subprocess.DEVNULL, "timeout": 60} | options
    return subprocess.run(
        [*WORKBENCH, *map(str, words)], capture_output=True, text=True, **options
    )


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """One command in a session of its own, so that a signal to it reaches nobody else."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*WORKBENCH, *map(str, words)], start_new_session=True, **options)


def check_error(
    done: subprocess.CompletedProcess[str], status: int, *fragments: str
) -> tuple[str, str]:
    """The command failed with this status and said so in two lines: what, and what to do."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("workbench: ") and lines[1].startswith("  hint: ")
    for fragment in fragments:
        assert fragment in done.stderr
    return lines[0], lines[1]


NOBODY = [
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    # The interpreter may lie in a folder that only root may enter; nothing else is kept.
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
]  # fmt: skip


_SEVERAL = """
import contextlib, io, json, sys
from workbench.cli import main
for words in json.loads(sys.argv[1]):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(words)
    print(json.dumps([status, out.getvalue(), errors.getvalue()]), flush=True)
"""


def several(
    *commands: list[object], before: list[str] | None = None, **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    """Some commands one after the other in one process of their own; what they start prints nothing here."""
    words = [[str(word) for word in command] for command in commands]
    line = [*(before or []), sys.executable, "-c", _SEVERAL, json.dumps(words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, **options)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(words), done.stdout + done.stderr
    return [
        subprocess.CompletedProcess(command, *one)
        for command, one in zip(words, found, strict=True)
    ]


def as_nobody(
    *commands: list[object], folder: Path
) -> list[subprocess.CompletedProcess[str]]:
    """The same by a user without privilege (who it is already, if not root)."""
    folder.chmod(0o777)
    variables = os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    before = NOBODY if os.getuid() == 0 else []
    return several(*commands, before=before, cwd=folder, env=variables)
