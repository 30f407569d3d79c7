"""`workbench run` as a user meets it: the command in a process of its own, real notebooks, real kernels."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from runs_support import Announcement, NotebookMaker, died, statuses

COMMAND = (sys.executable, "-m", "workbench.cli", "run")


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the experiment file goes; commands run in its folder, with a lock for live runs of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_LIVE_LOCK", str(tmp_path / "live.lock"))
    return tmp_path / "e.yaml"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "e.yaml", *arguments], capture_output=True, text=True)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "e.yaml", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def states(found: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(point["status"], point["cached"]) for point in found["points"]]


def test_sweep_keeps_what_succeeded(experiment: Path, notebook: NotebookMaker, tmp_path: Path) -> None:
    """A failing point and one whose runner is killed do not stop the others, and are all that is repeated."""
    flag = tmp_path / "mended"
    source = notebook(
        "import workbench.runs.claims as wb, os, signal",
        "wb.claim('square', n * n)",
        f"if not os.path.exists({str(flag)!r}):\n"
        "    assert n != 2, 'two is broken'\n"
        "    if n == 3: os.kill(os.getppid(), signal.SIGKILL); signal.pause()",
        "print(os.environ['WORKBENCH_SOURCE'], source, os.path.basename(os.environ['WORKBENCH_OUTPUT']))",
        parameters="n = 1\nsource = 'auto'",
    )
    experiment.write_text(
        f"notebook: {source.name}\ngrid: {{n: [1, 2, 3, 4]}}\nclaims: [{{name: square, equals: 16, where: {{n: 4}}}}]\n"
    )
    done = command("--json", "--workers", "1")
    assert done.returncode == 1
    found = result(done)
    assert states(found) == [("completed", False), ("failed", False), ("failed", False), ("completed", False)]
    first, second, third, fourth = found["points"]
    assert second["error"] == "AssertionError: two is broken"
    assert "killed by SIGKILL" in third["error"]
    assert first["claims"] == {"square": 1} and fourth["claims"] == {"square": 16}
    assert [(row["point"], row["got"], row["ok"]) for row in found["claims"]] == [("n=4", 16, True)]
    assert re.search(r"\[2/4\] e n=2: failed .*two is broken.*left", done.stderr)

    folder = tmp_path / "out" / "runs" / "e"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "n=1", "n=2", "n=3", "n=4"]
    names = ["manifest.json", "question.html", "question.ipynb", "question.log"]
    assert sorted(path.name for path in (folder / "n=1").iterdir()) == names
    nb = nbformat.read(folder / "n=1" / "question.ipynb", 4)
    assert nb.cells[-1].outputs[0].text == "replay replay n=1\n"
    assert nb.cells[3].outputs[0].data["text/plain"] == "claim square = 1"
    page = (folder / "n=1" / "question.html").read_text()
    assert "claim square = 1" in page and not re.findall(r"(?:src|href)=.https?://", page)
    assert re.search(r"cell 5/6 failed", (folder / "n=2" / "question.log").read_text())
    killed = nbformat.read(folder / "n=3" / "question.ipynb", 4)
    assert statuses(killed) == ["completed"] * 4 + ["failed", "skipped"]
    assert killed.metadata.papermill["exception"] is True
    manifest = json.loads((folder / "n=4" / "manifest.json").read_text())
    assert manifest["status"] == "completed" and manifest["parameters"] == {"n": 4, "source": "replay"}
    assert manifest["versions"]["papermill"] and manifest["host"]["kernel"] and len(manifest["key"]) == 64
    assert manifest["start"]["monotonic_ns"] < manifest["end"]["monotonic_ns"]

    flag.touch()
    done = command("--json")
    assert done.returncode == 0
    repeated = [("completed", False)] * 2
    assert states(result(done)) == [("completed", True), *repeated, ("completed", True)]
    assert "2 of 4 taken from the cache" in done.stderr
    assert result(done)["points"][0]["claims"] == {"square": 1}


def test_what_the_cache_depends_on(experiment: Path, notebook: NotebookMaker, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    recording.mkdir()
    (recording / "data").write_text("1")
    source = notebook(
        "import pathlib, workbench.runs.claims as wb",
        "wb.claim('data', int(pathlib.Path(data, 'data').read_text()))",
        parameters="data = ''",
    )
    text = f"notebook: {source.name}\nrecordings: {{data: recording}}\n"
    experiment.write_text(text)
    assert states(result(command("--json"))) == [("completed", False)]

    nb = nbformat.read(source, 4)
    nb.cells[-1].outputs = [nbformat.v4.new_output("stream", text="an old output")]
    nbformat.write(nb, source)
    experiment.write_text(text + "title: Another title\nclaims: [{name: data, at_least: 2}]\n")
    again = command("--json")
    assert states(result(again)) == [("completed", True)]
    assert [row["ok"] for row in result(again)["claims"]] == [False], "new claims are judged on the cached numbers"

    (recording / "data").write_text("2")
    fresh = command("--json")
    assert states(result(fresh)) == [("completed", False)]
    assert [row["ok"] for row in result(fresh)["claims"]] == [True]

    executed = tmp_path / "out" / "runs" / "e" / "question.ipynb"
    executed.write_text(executed.read_text().replace("claim data = 2", "claim data = 3"))
    assert states(result(command("--json"))) == [("completed", False)], "a hand-edited output is no result"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_stopped_and_resumed(
    number: signal.Signals, experiment: Path, notebook: NotebookMaker, announcement: Announcement, tmp_path: Path
) -> None:
    flag = tmp_path / "resumed"
    body = announcement.cleaning_up("'detached'")
    source = notebook(
        f"import os\nif n == 2 and not os.path.exists({str(flag)!r}):\n" + body.replace("\n", "\n  ").join(["  ", ""]),
        "1",
        parameters="n = 1",
    )
    experiment.write_text(f"notebook: {source.name}\ngrid: {{n: [1, 2, 3]}}\n")
    runner = start("--json", "--workers", "1")
    kernel = announcement.wait()
    runner.send_signal(number)
    output, progress = runner.communicate()
    assert runner.returncode == 128 + number
    assert died(kernel)
    assert [point["status"] for point in json.loads(output)["points"]] == ["completed", "interrupted", "interrupted"]
    assert "goes on where this one ended" in progress and "Traceback" not in progress
    nb = nbformat.read(tmp_path / "out" / "runs" / "e" / "n=2" / "question.ipynb", 4)
    assert statuses(nb) == ["completed", "completed", "failed", "skipped"]
    assert nb.cells[2].outputs[0].text == "detached\n"

    if number == signal.SIGTERM:
        return
    flag.touch()
    done = command("--json")
    assert done.returncode == 0
    assert states(result(done)) == [("completed", True), ("completed", False), ("completed", False)]


def test_a_second_interrupt_kills(
    experiment: Path, notebook: NotebookMaker, announcement: Announcement, tmp_path: Path
) -> None:
    ignores = f"import signal, time; signal.signal(2, signal.SIG_IGN); {announcement.line}; time.sleep(300)"
    source = notebook(ignores, "1")
    experiment.write_text(f"notebook: {source.name}\n")
    runner = start()
    kernel = announcement.wait()
    runner.send_signal(signal.SIGINT)
    assert runner.stderr is not None
    assert "once more kills them" in runner.stderr.readline()
    runner.send_signal(signal.SIGINT)
    runner.communicate()
    assert runner.returncode == 130
    assert died(kernel)
    nb = nbformat.read(tmp_path / "out" / "runs" / "e" / "question.ipynb", 4)
    assert statuses(nb) == ["failed", "skipped"] and nb.cells[0].outputs[-1].ename == "RunnerKilled"


def test_killed(experiment: Path, notebook: NotebookMaker, announcement: Announcement, tmp_path: Path) -> None:
    """SIGKILL to the command: its worker notices, saves true statuses and takes the kernel along."""
    source = notebook(announcement.cleaning_up("'detached'"), "1")
    experiment.write_text(f"notebook: {source.name}\n")
    runner = start()
    kernel = announcement.wait()
    worker = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(runner.pid)], text=True))
    runner.kill()
    runner.communicate()
    assert died(kernel)
    assert not Path(f"/proc/{worker}").exists() or wait_gone(worker)
    folder = tmp_path / "out" / "runs" / "e"
    nb = nbformat.read(folder / "question.part.ipynb", 4)
    assert statuses(nb) == ["failed", "skipped"] and nb.cells[0].outputs[0].text == "detached\n"
    assert json.loads((folder / "manifest.json").read_text())["status"] == "running"

    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), source)
    assert command().returncode == 0
    assert not (folder / "question.part.ipynb").exists()
    assert json.loads((folder / "manifest.json").read_text())["status"] == "completed"


def wait_gone(pid: int) -> bool:
    import os

    try:
        return died(os.pidfd_open(pid))
    except ProcessLookupError:
        return True


def test_live_runs_take_turns(experiment: Path, notebook: NotebookMaker, tmp_path: Path) -> None:
    source = notebook("print(source)", parameters="source = 'auto'")
    experiment.write_text(f"notebook: {source.name}\n")
    lock = tmp_path / "live.lock"
    lock.touch()
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        runner = start("--live", "--json")
        assert runner.stderr is not None
        assert "waiting for another live run" in runner.stderr.readline()
        waiting = start("--live", "-o", "elsewhere")
        assert waiting.stderr is not None
        assert "waiting for another live run" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        waiting.communicate()
        assert waiting.returncode == 130, "waiting for its turn can be interrupted"
        busy = command("--live")
        assert busy.returncode == 1 and "another run (pid" in busy.stderr, "one run at a time per folder"
    output, _ = runner.communicate()
    assert runner.returncode == 0
    assert json.loads(output)["points"][0]["source"] == "live"
    nb = nbformat.read(tmp_path / "out" / "runs" / "e" / "question.ipynb", 4)
    assert nb.cells[-1].outputs[0].text == "live\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "size"), "-p 'size' is not NAME=VALUE"),
        (("-p", "seize=1"), r"the command line sets the parameter 'seize'.*\n  hint: did you mean 'size'"),
        (("--replay",), r"recordings.recording: there is no recording .*nowhere\n  hint: record it live first"),
        (("-o", "/proc/nowhere"), "cannot write into /proc/nowhere"),
    ],
)
def test_refused(experiment: Path, notebook: NotebookMaker, arguments: tuple[str, ...], message: str) -> None:
    source = notebook("1", parameters="size = 1\nrecording = ''")
    experiment.write_text(f"notebook: {source.name}\nrecordings: {{recording: nowhere}}\n")
    done = command(*arguments)
    assert done.returncode == 2
    assert re.search(message, done.stderr) and "Traceback" not in done.stderr


def test_from_python_inside_a_running_loop(
    experiment: Path, notebook: NotebookMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    from workbench.runs.result import RunResult
    from workbench.runs.run import run

    source = notebook("import workbench.runs.claims as wb\nwb.claim('twice', 2 * n)", parameters="n = 1")
    experiment.write_text(f"notebook: {source.name}\ngrid: {{n: [1, 2]}}\n")

    async def cell_of_a_notebook() -> RunResult:
        return run("e.yaml", workers=2)

    found = asyncio.run(cell_of_a_notebook())
    assert found.ok
    assert found.frame()[["n", "twice", "status"]].values.tolist() == [[1, 2, "completed"], [2, 4, "completed"]]
    assert "[2/2]" in capsys.readouterr().err


def test_live_where_the_machine_cannot(experiment: Path, notebook: NotebookMaker) -> None:
    """A capability that no machine has both ways: what `auto` chooses follows what the doctor finds."""
    from workbench import host

    able = host.check("fentry").ok
    source = notebook("1", parameters="source = 'auto'")
    experiment.write_text(f"notebook: {source.name}\nneeds: [fentry]\n")
    done = command("--json")
    assert result(done)["points"][0]["source"] == ("live" if able else "replay")
    if not able:
        assert "this machine cannot record it live (fentry: " in done.stderr
        refused = command("--live")
        assert refused.returncode == 3 and "cannot be recorded live on this machine: fentry" in refused.stderr
