"""Programs at the system calls of servers and interpreters at work, of other users, under a killed workbench."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from calling_programs import calling_program, code_of, goes_on, wait_for
from probed_programs import returning, running

from workbench.runtime.attach import Process

pytestmark = [pytest.mark.needs("ptrace")]


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calling_program(tmp_path_factory.mktemp("calls"), "dynamic", "-ldl")


def test_unprivileged(dynamic: Path) -> None:
    """Ordinary users hook their own processes."""
    if os.getuid():
        pytest.skip("already an ordinary user")
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from probed_programs import counting, running
from workbench.runtime.attach import Process
assert os.getuid() != 0
with running([sys.argv[1]]) as target:
    words = int(target.read()[0], 16)
    with Process(target.pid) as process:
        link = process.system_calls.attach(counting(words), "enter", number=110)
        target.ask("ppid 100")
        print(link.hits, process.system_calls.hooked > 100)
"""
    support = Path(__file__).parents[3] / "support"
    folder = dynamic.parent
    while folder != folder.parent and folder.name != "tmp":
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        result = subprocess.run(
            [sys.executable, "-c", script, dynamic, support],
            user=65534, group=65534, extra_groups=[], capture_output=True, text=True, timeout=120,
            env={**os.environ, "HOME": home, "WORKBENCH_NAMESPACES": f"{home}/n", "XDG_CACHE_HOME": home},
        )  # fmt: skip
    assert result.stdout.split() == ["100", "True"], result.stderr


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[int, str]]:
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    if not server or not client:
        pytest.skip("needs redis-server")
    place = tmp_path / "socket"
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", place, "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(place.exists)
        yield process.pid, str(place)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_redis_works_through_two_hundred_cycles(redis: tuple[int, str]) -> None:
    pid, place = redis
    before = code_of(pid)
    client = subprocess.Popen(
        ["redis-cli", "-s", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin and client.stdout
    try:
        number, hits = 0, 0
        with Process(pid) as process:
            nothing = returning(0)
            for cycle in range(200):
                enter = process.system_calls.attach(nothing, "enter")
                leave = process.system_calls.attach(nothing, "exit")
                for _ in range(2):
                    number += 1
                    client.stdin.write("incr counter\n")
                    client.stdin.flush()
                    assert client.stdout.readline().strip() == str(number), cycle
                process.system_calls.detach([enter, leave])
                hits += enter.hits
        assert hits > 400
        assert code_of(pid) == before
    finally:
        client.kill()
        client.communicate()


def test_python_works_through_cycles() -> None:
    """An interpreter with threads, files, sleeps and children; each round entered afresh."""
    script = """
import os, subprocess, sys, tempfile, threading, time
stop = threading.Event()
def files():
    n = 0
    while not stop.is_set():
        with tempfile.TemporaryFile() as f:
            f.write(b"x" * 1000); f.seek(0); assert f.read() == b"x" * 1000
        time.sleep(0.0005)
threads = [threading.Thread(target=files) for _ in range(3)]
for t in threads: t.start()
print("ready", flush=True)
for line in sys.stdin:
    r = subprocess.run(["/bin/echo", line.strip()], capture_output=True, text=True)
    print(r.stdout.strip(), all(t.is_alive() for t in threads), flush=True)
stop.set()
for t in threads: t.join()
print("done", flush=True)
"""
    nothing = returning(0)
    with running([sys.executable, "-c", script]) as target:
        assert target.read() == ["ready"]
        for outer in range(10):
            with Process(target.pid) as process:
                for inner in range(20):
                    enter = process.system_calls.attach(nothing, "enter")
                    leave = process.system_calls.attach(nothing, "exit")
                    if inner % 5 == 0:
                        assert target.ask(f"{outer}.{inner}") == [f"{outer}.{inner}", "True"]
                    process.system_calls.detach([enter, leave])
        assert target.process.stdin
        target.process.stdin.close()
        assert target.read() == ["done"]
        assert target.process.wait(60) == 0


def test_a_killed_workbench_leaves_nothing(dynamic: Path) -> None:
    from workbench.runtime.attach import collect

    with running([dynamic, "busy"]) as target:
        words = int(target.read()[0], 16)
        before = code_of(target.pid)
        script = (
            "import sys, time\nsys.path.insert(0, sys.argv[1])\n"
            "from probed_programs import counting\nfrom workbench.runtime.attach import Process\n"
            "process = Process(int(sys.argv[2]))\n"
            "process.system_calls.attach(counting(int(sys.argv[3])), 'enter')\n"
            "print('attached', flush=True)\ntime.sleep(600)\n"
        )
        support = Path(__file__).parents[3] / "support"
        with running([sys.executable, "-c", script, support, str(target.pid), str(words)]) as other:
            assert other.read() == ["attached"]
            assert code_of(target.pid) != before
            goes_on(target)
            other.process.send_signal(signal.SIGKILL)
            other.process.wait()
        assert target.pid in {one.pid for one in collect()}
        assert code_of(target.pid) == before
        goes_on(target)
