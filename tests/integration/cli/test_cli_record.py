"""`workbench record`: the command's own streams and status, every signal at every moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import WORKBENCH, start, workbench
from known_program import compiled, known, waiting
from left_behind import (
    held,
    links_in_the_kernel,
    programs_in_the_kernel,
    state_of,
    wait_until,
)

import workbench as wb

pytestmark = pytest.mark.needs("perf_event BPF", "raw tracepoint", "ptrace")


def test_streams_and_status_of_the_command_are_its_own(tmp_path: Path) -> None:
    script = "cat; echo to stderr >&2; env | sort | md5sum; pwd; ulimit -n; echo $0 $1; exit 7"
    command = ["/bin/sh", "-c", script, "zero", "one two"]
    plain = subprocess.run(command, input="hallo\n", capture_output=True, text=True, cwd=tmp_path)
    done = subprocess.run(
        [*WORKBENCH, "record", "-c", "cpu", "-o", tmp_path / "r", "--", *command],
        input="hallo\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == plain.returncode == 7
    assert done.stdout == plain.stdout and done.stdout.startswith("hallo\n")
    assert done.stderr.startswith("to stderr\n")
    assert "the command ended with status 7" in done.stderr
    recording = wb.load(tmp_path / "r")
    assert recording.manifest.command == tuple(command)
    assert recording.manifest.notes["exit_status"] == 7 and recording.status == "complete"


def test_command_that_dies_of_a_signal(tmp_path: Path) -> None:
    done = workbench("record", "-c", "cpu", "-o", tmp_path / "r", "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 128 + 9 and "the command was killed by signal 9\n" in done.stderr
    assert wb.load(tmp_path / "r").manifest.notes["exit_status"] == -9


def test_static_binary(tmp_path: Path) -> None:
    source = tmp_path / "one.c"
    source.write_text(
        "#include <time.h>\nint main(int c, char **v) { clock_t e = clock() + CLOCKS_PER_SEC / 10;\n"
        "while (clock() < e) ; (void)v; return c; }\n"
    )
    done = workbench(
        "record", "-c", "cpu", "-o", tmp_path / "r", "--", compiled(source, "-static"), "a"
    )
    assert done.returncode == 2
    assert "main" in set(wb.load(tmp_path / "r").stacks["function"])


def test_script_is_run_by_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "with space.sh"
    script.write_text('#!/bin/sh -u\necho "$0|$1"\n')
    script.chmod(0o755)
    done = workbench("record", "-c", "syscalls", "-o", tmp_path / "r", "--", script, "a b")
    assert done.returncode == 0 and done.stdout == f"{script}|a b\n"
    assert len(wb.load(tmp_path / "r").syscalls)


def test_options_of_the_command_are_left_alone(tmp_path: Path) -> None:
    words = ["-c", "x", "--json", "--", "-o", "--debug"]
    done = workbench("record", "-c", "cpu", "-o", tmp_path / "r", "--", "echo", *words)
    assert done.stdout == " ".join(words) + "\n"


@pytest.mark.needs("uprobe")
def test_names_need_not_be_text(tmp_path: Path) -> None:
    program = shutil.copy(known(), os.fsdecode(os.fsencode(tmp_path) + b"/a\xffb"))
    environment = dict(os.environ, PYTHONIOENCODING="utf-8:strict")
    collect = [word for one in ("cpu:999", "sched", "pages", "uprobe:main") for word in ("-c", one)]
    done = workbench(
        "record", *collect, "-o", tmp_path / "r", "--", program, "burn", "0.1", env=environment
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    recording = wb.load(tmp_path / "r")
    assert recording.calls["comm"].tolist() == ["a\ufffdb"]
    assert set(recording.samples["comm"]) == {"a\ufffdb"}
    page = tmp_path / "page.html"
    reported = workbench("report", tmp_path / "r", "--html", page, env=environment)
    assert reported.returncode == 0, reported.stderr
    assert "a\ufffdb" in page.read_text()


def test_json_is_alone_on_standard_output(tmp_path: Path) -> None:
    done = workbench("record", "-c", "cpu", "-o", tmp_path / "r", "--json", "--", "echo", "hello")
    assert json.loads(done.stdout)["exit_status"] == 0 and done.stderr == "hello\n"


def test_json_of_a_process(tmp_path: Path) -> None:
    with waiting("patient") as process:
        done = workbench(
            "record", "-c", "cpu:99", "-o", tmp_path / "r", "-p", process.pid, "-s", "0.1", "--json"
        )
        assert done.returncode == 0 and done.stderr == ""
        told = json.loads(done.stdout)
        assert told["path"] == str(tmp_path / "r") and told["status"] == "complete"
        assert told["frames"]["processes"] == 1 and told["lost"] == {}
        assert process.poll() is None


def test_reader_of_the_output_goes_away(tmp_path: Path) -> None:
    line = f"{sys.executable} -m workbench.cli record -c cpu -o {tmp_path}/r -- yes | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout == "y\n" and "Traceback" not in done.stderr
    assert wb.load(tmp_path / "r").manifest.notes["exit_status"] == -signal.SIGPIPE
    line = f"{sys.executable} -m workbench.cli schema | head -n 1; echo end"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("end\n") and done.stderr == ""


# -- signals --------------------------------------------------------------------------------------------------


def recording_begins(folder: Path) -> None:
    wait_until(lambda: (folder.with_name(folder.name + ".partial") / "manifest.json").exists())


def child_of(pid: int) -> int:
    """The recorded command."""
    found: list[int] = []

    def look() -> list[int]:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                found.extend(map(int, (task / "children").read_text().split()))
            except OSError:
                continue
        return found

    wait_until(look)
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_recording_a_command(tmp_path: Path, number: signal.Signals) -> None:
    recorder = start("record", "-c", "cpu:999", "-o", tmp_path / "r", "--", known(), "burn", "60")
    recording_begins(tmp_path / "r")
    command = child_of(recorder.pid)
    wait_until(lambda: state_of(command) == "R")
    recorder.send_signal(number)
    out, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 128 + number and "Traceback" not in errors and out == ""
    recording = wb.load(tmp_path / "r")
    assert recording.status == "interrupted"
    assert recording.manifest.reason == "interrupted by the user"
    assert not Path(f"/proc/{command}").exists()


def test_interrupt_ends_a_recording_without_end(tmp_path: Path) -> None:
    """Nothing else would end it, so Ctrl-C is no accident; the process goes on."""
    with waiting("patient") as process:
        recorder = start("record", "-c", "cpu:999", "-o", tmp_path / "r", "-p", process.pid)
        recording_begins(tmp_path / "r")
        wait_until(lambda: len(held("link_id", recorder.pid)) > 0)
        wait_until(lambda: any_thread(recorder.pid, "wb-recorder", "epoll"))
        recorder.send_signal(signal.SIGINT)
        out, errors = recorder.communicate(timeout=60)
        assert recorder.returncode == 0, errors
        assert "status      complete" in out
        assert process.communicate("go\n")[0] == "done\n"


def any_thread(pid: int, name: str, where: str) -> bool:
    """A thread of that name sleeps in a kernel function like that (that is: it records)."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            place = (task / "wchan").read_text()
            return where in place or place in ("0", "")
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_attaching(tmp_path: Path, number: signal.Signals) -> None:
    """The command is held at its entry: it has done nothing, and it is gone with the recorder."""
    slow = tmp_path / "slow"  # the recorder waits for the dynamic linker, which waits for this library
    library = slow_library(tmp_path)
    recorder = start(
        "record", "-c", "cpu:999", "-o", tmp_path / "r", "--", known(), "burn", "60",
        env=os.environ | {"LD_PRELOAD": library, "SLOW": str(slow)},
    )  # fmt: skip
    wait_until(lambda: slow.exists() and slow.read_text())
    command = int(slow.read_text())
    recorder.send_signal(number)
    out, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 128 + number
    assert errors == "workbench: stopped before anything was recorded\n" and out == ""
    assert not Path(f"/proc/{command}").exists()
    assert not list(tmp_path.glob("r*")) and not list(tmp_path.glob(".r*"))


def slow_library(folder: Path) -> str:
    """Keeps a program (not the recorder, which has the variable too) in its dynamic linker."""
    source = folder / "slow.c"
    source.write_text(
        "#include <errno.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void wait_here(void)\n{\n"
        '\tif (strncmp(program_invocation_short_name, "known", 5)) return;\n'
        '\tFILE *f = fopen(getenv("SLOW"), "w"); fprintf(f, "%d", getpid()); fclose(f);\n'
        "\tpause();\n}\n"
    )
    library = folder / "slow.so"
    subprocess.run(
        ["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library, source], check=True
    )
    return str(library)


def test_recorder_is_killed_while_it_holds_the_command(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    recorder = start(
        "record", "-c", "cpu:999", "-o", tmp_path / "r", "--", known(), "burn", "60",
        env=os.environ | {"LD_PRELOAD": slow_library(tmp_path), "SLOW": str(slow)},
    )  # fmt: skip
    wait_until(lambda: slow.exists() and slow.read_text())
    command = int(slow.read_text())
    recorder.kill()
    recorder.communicate()
    wait_until(lambda: state_of(command) in ("", "Z"))


def test_recorder_is_killed_while_recording_a_process(tmp_path: Path) -> None:
    """What was flushed loads, no program stays, the process goes on."""
    with waiting("threads", 60) as process:
        recorder = start(
            "record", "-c", "cpu:999", "-c", "sched", "-c", "syscalls", "-c", "pages",
            "-o", tmp_path / "r", "-p", process.pid,
        )  # fmt: skip
        recording_begins(tmp_path / "r")
        spool = tmp_path / "r.partial" / "spool" / "samples.index"
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        wait_until(lambda: spool.exists() and spool.stat().st_size)
        programs, links = held("prog_id", recorder.pid), held("link_id", recorder.pid)
        assert len(programs) >= 6 and links <= links_in_the_kernel()
        recorder.kill()
        recorder.communicate()
        wait_until(lambda: not programs & programs_in_the_kernel())
        assert not links & links_in_the_kernel()
        worked = cpu_ticks(process.pid)
        wait_until(lambda: cpu_ticks(process.pid) > worked)
        assert process.poll() is None and state_of(process.pid) in ("R", "S")
    recording = wb.load(tmp_path / "r")
    assert recording.status == "interrupted"
    assert len(recording.samples) > 100
    assert {"early_work", "late_work"} <= set(recording.samples["function"])
    done = workbench("report", tmp_path / "r", "--json")
    assert json.loads(done.stdout)["header"]["status"] == "interrupted"


def cpu_ticks(pid: int) -> int:
    """User time of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11])


def test_second_interrupt_while_writing(tmp_path: Path) -> None:
    """The command takes its time to end, and the user is impatient: the recording is whole all the same."""
    script = "trap 'sleep 0.5; exit 0' TERM; echo $$; while :; do sleep 0.05; done"
    recorder = start(
        "record", "-c", "cpu:99", "-c", "syscalls", "-o", tmp_path / "r", "--", "sh", "-c", script
    )
    assert recorder.stdout is not None
    recorder.stdout.readline()
    recorder.send_signal(signal.SIGINT)
    wait_until(lambda: not any_thread(recorder.pid, "wb-recorder", "epoll"))
    for _ in range(3):
        recorder.send_signal(signal.SIGINT)
    _, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 130 and "Traceback" not in errors
    recording = wb.load(tmp_path / "r")
    assert recording.status == "interrupted" and len(recording.syscalls)
