"""Bad input on the command line: two lines (what, what to do), a status of its own, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_support import NOBODY, as_nobody, check_error, several
from known_program import known, waiting
from left_behind import Left, state_of

import workbench as wb
from workbench.cli import VERBS, main

needs_bpf = pytest.mark.needs("perf_event BPF", "raw tracepoint", "ptrace")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(capfd)


class Runner:
    """Runs a command in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *words: object) -> subprocess.CompletedProcess[str]:
        self._capfd.readouterr()
        try:
            status = main([*map(str, words)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        out = self._capfd.readouterr()
        return subprocess.CompletedProcess(words, status, out.out, out.err)

    def record(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self("record", "-o", "r", *words)


def gone() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


# -- what to record -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, status, fragments",
    [
        (["-c", "cpuu", "--", "true"], 2, ["no collector 'cpuu'", "did you mean 'cpu'?"]),
        (["-c", "cpu,stack=no", "--", "true"], 2, ["no option 'stack'", "did you mean 'stacks'?"]),
        (["-c", "cpu,stacks=maybe", "--", "true"], 2, ["'maybe'", "dwarf, fp, no"]),
        (["-c", "cpu:fast", "--", "true"], 2, ["'fast' is not an integer", "such as 1000"]),
        (["-c", "cpu:20000", "--", "true"], 2, ["20000 is outside 1 to 10000"]),
        (["-c", "cpu,kernel=perhaps", "--", "true"], 2, ["kernel is 'perhaps'", "kernel=yes"]),
        (["-c", "sched,least=-1", "--", "true"], 2, ["-1"]),
        (["-c", "sched,slots=70000", "--", "true"], 2, ["70000"]),
        (["-c", "syscalls,least=1", "--", "true"], 2, ["no option 'least'", "none"]),
        (["-c", "pages,source=guess", "--", "true"], 2, ["'guess'", "auto, tracepoint, event"]),
        (["-c", "cpu,stacks=no,stacks=fp", "--", "true"], 2, ["given twice"]),
        (["-c", "", "--", "true"], 2, ["NAME[:ARGUMENT]"]),
        (["-c", "cpu"], 2, ["name one target", "--pid N"]),
        (["-c", "cpu", "--machine", "--", "true"], 2, ["name one target"]),
        (["-c", "cpu", "-p", "1", "--", "true"], 2, ["name one target"]),
        (["-c", "cpu", "-s", "0", "--", "true"], 2, ["seconds is 0", "positive"]),
        (["-c", "cpu", "-s", "-1", "--", "true"], 2, ["seconds is -1"]),
        (["-c", "cpu", "-s", "nan", "--", "true"], 2, ["seconds is nan"]),
        (["-c", "cpu", "-s", "inf", "--", "true"], 2, ["seconds is inf"]),
        (["-c", "cpu", "-s", "soon", "--", "true"], 2, ["invalid float value: 'soon'"]),
        (["-c", "cpu", "-p", "abc"], 2, ["invalid int value: 'abc'"]),
        (["-c", "cpu", "-p", "0"], 2, ["0 is not a process id"]),
        (["-c", "cpu", "-p", "-5"], 2, ["-5"]),
        (["-c", "cpu", "-p", str(2**70)], 5, ["there is no process", "ps -e"]),
        (["-c", "cpu", "--", "no-such-command-anywhere"], 2, ["command not found", "PATH"]),
        (["-c", "cpu", "--", "/etc/passwd"], 2, ["not executable", "chmod"]),
        (["-c", "cpu", "--", "/usr"], 2, ["is a folder"]),
        (["-c", "cpu", "--", ""], 2, ["no command"]),
        (["--", "true"], 2, ["-c/--collect", "--help"]),
    ],
)
def test_what_to_record(
    run: Runner, tmp_path: Path, words: list[str], status: int, fragments: list[str]
) -> None:
    left = Left()
    check_error(run.record(*words), status, *fragments)
    assert list(tmp_path.iterdir()) == []
    left.nothing()


def test_verbs(run: Runner) -> None:
    check_error(run("recrod"), 2, "no verb 'recrod'", "did you mean 'record'?")
    check_error(run(), 2, "VERB", "--help")
    check_error(run("schema", "sample"), 1, "sample", "samples")
    check_error(run("bench", "rings"), 2, "rings", "did you mean 'ring'?")
    check_error(run("doctor", "tracepoints"), 2, "tracepoints", "tracepoint")
    done = run("record", "--collectors")
    assert done.returncode == 0 and all(name in done.stdout for name in ("cpu[", "sched[", "pages["))
    for verb in VERBS:
        done = run(verb, "--help")
        assert done.returncode == 0 and VERBS[verb][1:] in " ".join(done.stdout.split()), verb


def test_thread_in_place_of_a_process(run: Runner) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        done = run.record("-c", "cpu", "-p", thread.native_id)
    finally:
        stop.set()
        thread.join()
    check_error(
        done, 2, f"{thread.native_id} is a thread of process {os.getpid()}", f"--pid {os.getpid()}"
    )


def test_process_that_is_gone(run: Runner, tmp_path: Path) -> None:
    check_error(run.record("-c", "cpu", "-p", gone()), 5, "there is no process")
    zombie = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        check_error(run.record("-c", "cpu", "-p", zombie.pid), 5, "has exited already")
    finally:
        zombie.wait()
    assert list(tmp_path.iterdir()) == []


@needs_bpf
def test_command_that_cannot_start(run: Runner, tmp_path: Path) -> None:
    """A shared library is missing: its dynamic linker says which, and ends before the program begins."""
    (tmp_path / "f.c").write_text("int f(void) { return 0; }\n")
    (tmp_path / "m.c").write_text("int f(void); int main(void) { return f(); }\n")
    subprocess.run(["gcc", "-shared", "-o", "libf.so", "f.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-o", "m", "m.c", "-L.", "-lf"], cwd=tmp_path, check=True)
    (tmp_path / "libf.so").unlink()
    left = Left()
    done = run.record("-c", "cpu", "--", "./m")
    assert done.returncode == 5
    first, *rest = done.stderr.strip().splitlines()
    assert "libf.so" in first  # what the dynamic linker said
    assert rest[0].startswith("workbench: ./m ended before its first instruction (exit status 127)")
    assert rest[1].startswith("  hint: run it alone to see why")
    assert not list(tmp_path.glob("r*"))
    left.nothing()
    interpreter = tmp_path / "script"
    interpreter.write_text("#!/no/such/interpreter\n")
    interpreter.chmod(0o755)
    check_error(run.record("-c", "cpu", "--", interpreter), 2, "its interpreter does not", "#!")
    interpreter.write_text("no program\n")
    check_error(run.record("-c", "cpu", "--", interpreter), 2, "not a program for this machine")


# -- where to ------------------------------------------------------------------------------------------------


@needs_bpf
def test_output_exists(run: Runner, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("keep me")
    left = Left()
    for extra in ([], ["--overwrite"]):
        done = run.record("-c", "cpu", *extra, "--", "touch", marker)
        check_error(done, 2, f"{tmp_path}/r")
    assert (tmp_path / "r" / "mine.txt").read_text() == "keep me"
    assert not marker.exists()  # no line of the command has run
    left.nothing()
    (tmp_path / "r" / "mine.txt").unlink()
    assert run.record("-c", "cpu", "--", "true").returncode == 0
    check_error(run.record("-c", "cpu", "--", "true"), 2, "exists already", "--overwrite")
    assert run.record("-c", "cpu", "--overwrite", "--", "true").returncode == 0
    check_error(run("record", "-c", "cpu", "-o", "a.partial", "--", "true"), 2, "a.partial")
    (tmp_path / "file").write_text("")
    check_error(run("record", "-c", "cpu", "-o", "file/r", "--", "true"), 4, "file")


@needs_bpf
@needs_root
def test_full_disk(tmp_path: Path) -> None:
    """1 MB in a mount namespace of its own: the recording ends, says why, and what was written loads."""
    disk = tmp_path / "disk"
    disk.mkdir()
    churn = (
        "import mmap\nwhile True:\n m = mmap.mmap(-1, 1 << 22)\n"
        " for i in range(0, 1 << 22, 4096): m[i] = 1\n m.close()"
    )
    mount = f'mount -t tmpfs -o size=1m none {disk} && exec "$@"'
    recorded, reported = several(
        ["record", "-c", "cpu:10000", "-c", "pages", "-o", disk / "r", "--", sys.executable, "-c", churn],
        ["report", disk / "r", "--json"],
        before=["unshare", "-m", "sh", "-c", mount, "sh"],
    )
    assert recorded.returncode == 1 and "Traceback" not in recorded.stderr
    assert "recording stopped, disk full" in recorded.stderr and "hint: " in recorded.stderr
    told = json.loads(reported.stdout)["header"]
    assert told["status"] == "interrupted" and sum(told["lost_events"].values()) > 0


@needs_bpf
def test_full_disk_before_it_begins(run: Runner) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    check_error(run("record", "-c", "cpu", "-o", "/dev/full/r", "--", "true"), 4, "/dev/full")


# -- who -----------------------------------------------------------------------------------------------------


@needs_bpf
@needs_root
def test_no_privilege(tmp_path: Path) -> None:
    marker, closed = tmp_path / "ran", tmp_path / "closed"
    closed.mkdir(mode=0o755)
    own = subprocess.Popen([*NOBODY, "sleep", "60"])
    record: list[object] = ["record", "-o", "r", "--backend", "kernel", "-c"]
    either: list[object] = ["record", "-o", "r", "-c"]
    try:
        *loads, other, mine, sched, pages, unwritable = as_nobody(
            *([*record, collect, "--", "touch", marker] for collect in ("cpu", "sched", "syscalls", "pages")),
            [*either, "cpu", "-p", os.getpid()],
            [*record, "cpu", "-p", own.pid],
            [*either, "sched", "-p", own.pid],
            [*either, "pages", "--", "touch", marker],
            ["record", "-c", "cpu", "-o", closed / "r", "--", "true"],
            folder=tmp_path,
        )
        assert state_of(own.pid) == "S"
    finally:
        own.kill()
        own.wait()
    for done in (*loads, mine):
        check_error(done, 4, "Operation not permitted", "run as root", "CAP_BPF", "doctor")
    check_error(
        other, 4, f"process {os.getpid()} belongs to user 0", "by user 65534", "its owner or as root"
    )
    for name, done in (("sched", sched), ("pages", pages)):
        check_error(done, 3, f"collector {name} needs the kernel", "root, or CAP_BPF and CAP_PERFMON")
    check_error(unwritable, 4, f"no recording can be made at {closed}/r", "may write to")
    assert not marker.exists() and not list(tmp_path.glob("r*")) and not list(closed.iterdir())


# -- recordings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "r"
    words = ["record", "-c", "cpu:999", "-o", str(folder), "--", known(), "burn", "0.1"]
    assert main(words) == 0
    return folder


READERS = [["report"], ["export", "-f", "folded", "-o", "out"]]


@needs_bpf
@pytest.mark.parametrize("reader", READERS, ids=["report", "export"])
def test_damaged_recordings(run: Runner, tmp_path: Path, good: Path, reader: list[str]) -> None:
    check_error(run(*reader, "nowhere"), 1, "there is no recording at nowhere")
    check_error(run(*reader, "/etc"), 1, "/etc")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    cut = copy("cut")
    samples = cut / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-100])
    check_error(run(*reader, cut), 1, "samples.parquet", "verify=False")
    missing = copy("missing")
    (missing / "stacks.parquet").unlink()
    check_error(run(*reader, missing), 1, "stacks.parquet is missing")
    edited = copy("edited")
    manifest = json.loads((edited / "manifest.json").read_text())
    (edited / "manifest.json").write_text(json.dumps(manifest | {"pid": "seven"}))
    check_error(run(*reader, edited), 1, "manifest.json")
    half = copy("half")
    (half / "manifest.json").write_text((half / "manifest.json").read_text()[:200])
    check_error(run(*reader, half), 1, "manifest.json")
    newer = copy("newer")
    version = next(key for key, value in manifest.items() if "version" in key and type(value) is int)
    assert isinstance(manifest[version], int)
    (newer / "manifest.json").write_text(json.dumps(manifest | {version: manifest[version] + 1}))
    check_error(run(*reader, newer), 1, "newer", "workbench")
    assert not (tmp_path / "out").exists()


@needs_bpf
def test_report_and_export(run: Runner, tmp_path: Path, good: Path) -> None:
    for words in (["report", good, "--json"], ["export", good, "-f", "speedscope", "-o", "a.json", "--json"]):
        done = run(*words)
        assert done.returncode == 0 and json.loads(done.stdout) and done.stderr == ""
    check_error(run("export", good, "-f", "folded", "-o", "a.json"), 2, "a.json exists", "--overwrite")
    check_error(run("export", good, "-f", "folded", "-o", "no/such/file"), 4, "no/such/file")
    check_error(run("export", good, "-f", "fold", "-o", "x"), 2, "invalid choice: 'fold'")
    check_error(run("export", good, "-f", "folded", "--frame", "calls", "-o", "x"), 1, "calls")
    check_error(run("report", good, "--top", "0"), 2, "--top is below 1")
    check_error(run("report", good, "--figure", "x.xyz"), 2, "x.xyz")
    assert run("export", good, "-f", "folded", "-o", "-").stdout.count("main;burn;heavy") >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_json_of_the_verbs_that_print_tables(run: Runner) -> None:
    verbs = (["schema"], ["schema", "samples"], ["bench"], ["doctor", "ptrace", "clang"])
    for words in ([*verb, "--json"] for verb in verbs):
        done = run(*words)
        assert done.returncode == 0 and json.loads(done.stdout), words
    rows = json.loads(run("doctor", "ptrace", "--json").stdout)
    assert [sorted(row) for row in rows] == [["name", "ok", "reason", "remedy"]]


@needs_bpf
def test_process_of_another_recorder_is_free_for_a_second(run: Runner, tmp_path: Path) -> None:
    """Only the folder is exclusive, not the process."""
    with waiting("patient") as process:
        with wb.record("cpu:99", pid=process.pid, output=tmp_path / "a"):
            done = run("record", "-c", "cpu:99", "-o", "a", "-p", process.pid, "-s", "0.1")
            check_error(done, 2, "another recorder is writing to")
            done = run("record", "-c", "cpu:99", "-o", "b", "-p", process.pid, "-s", "0.1")
            assert done.returncode == 0
        assert process.poll() is None


def test_signals_are_given_back(run: Runner) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run.record("-c", "cpu", "-p", gone())
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
