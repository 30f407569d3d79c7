"""Demonstrations on real servers: what becomes of trials, the load, the planted work. Guests are in tests/vm."""

from __future__ import annotations

import ctypes
import http.client
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from workbench.bench.causal_servers import programs, summarise, words
from workbench.causal.demonstrations.catalogue import DEMONSTRATIONS, demonstration
from workbench.causal.demonstrations.gains import Trial, gains
from workbench.causal.demonstrations.measure import code_of, places
from workbench.causal.demonstrations.model import Place
from workbench.causal.demonstrations.running import KNOBS, write_knobs
from workbench.collectors.modules import Modules
from workbench.errors import BadSpec, UnknownSymbol
from workbench.native.build import demonstration as library
from workbench.native.build import workload

MASK = (1 << 64) - 1


def trial(
    number: int, spot: str, speedup: float, removed: float, period: float, *, valid: bool = True
) -> Trial:
    return Trial(
        number, spot, f"lib:{spot}", speedup, removed, 100, period, period, 50, 20, 0, 0, valid
    )


def test_regions_are_ranked_and_the_bottleneck_has_its_truth_beside_it() -> None:
    made = [
        *[trial(1, "slow", 0.0, 0.0, period) for period in (100.0, 101.0, 99.0, 100.0)],
        *[trial(2, "slow", 1.0, 0.0, period) for period in (60.0, 61.0, 59.0)],
        *[trial(3, "slow", 0.5, 0.0, 80.0) for _ in range(2)],
        *[trial(4, "slow", 0.0, 1.0, period) for period in (62.0, 62.0, 63.0)],
        *[trial(5, "other", 1.0, 0.0, 95.0) for _ in range(3)],
        trial(6, "other", 1.0, 0.0, 10.0, valid=False),
    ]
    first, second, half = gains(made, "slow")
    assert (first.spot, first.rank, first.bottleneck) == ("slow", 1, True)
    assert (first.predicted, first.measured) == (pytest.approx(-40), pytest.approx(-38))
    assert first.error == pytest.approx(-2)
    assert first.low <= first.predicted <= first.high and first.experiments == 3
    assert (second.spot, second.rank, second.bottleneck) == ("other", 2, False)
    assert second.predicted == pytest.approx(-5) and math.isnan(second.measured)
    assert (half.speedup, half.rank) == (0.5, 0) and half.predicted == pytest.approx(-20)
    assert math.isnan(half.low) and math.isnan(half.measured)
    assert second.to_json()["measured"] is None


def test_what_the_guest_printed_is_judged() -> None:
    made = gains(
        [trial(1, "slow", *at) for at in ((0.0, 0.0, 100.0), (1.0, 0.0, 60.0), (0.0, 1.0, 61.0))]
        + [trial(2, "other", 1.0, 0.0, 50.0)],
        "slow",
    )
    found = [{"server": "redis", "gains": [one.to_json() for one in made]}]
    result = summarise(found, 2.0, "a guest")
    assert {check.name: check.ok for check in result.checks} == {
        "redis: slow 100% faster: error, points": True,
        "redis: rank of the bottleneck": False,
    }
    assert [one["spot"] for one in result.to_json()["gains"]] == ["other", "slow"]
    assert "-40.0" in str(result) and "a guest" in str(result)


@pytest.mark.parametrize("name", list(DEMONSTRATIONS))
def test_a_demonstration_is_whole(name: str, tmp_path: Path) -> None:
    one = demonstration(name)
    place = Place(tmp_path, tmp_path, tmp_path / "knobs")
    if one.prepare:
        one.prepare(place)
    commands = {process.name: list(process.command(place)) for process in one.processes}
    assert all(all(isinstance(word, str) for word in command) for command in commands.values())
    assert one.progress[0] in commands
    assert len({spot.name for spot in one.spots}) == len(one.spots) >= 5
    assert 1.0 in one.fractions and one.fix(1.0) != {}
    assert all(
        one.fix(part) != {number: one.knobs.get(number, 0) for number in one.fix(part)}
        for part in one.fractions
    )
    assert all(process.feeds in {"", *commands} for process in one.processes)


def test_a_name_that_is_none() -> None:
    with pytest.raises(BadSpec, match="no demonstration 'reddis'") as caught:
        demonstration("reddis")
    assert "redis" in (caught.value.hint or "")


def test_the_guest_gets_programs_that_were_built() -> None:
    assert all(path.is_file() for path in programs())
    assert "redis nginx" in words(["redis", "nginx"], "parallel", 3)[-1]


def test_all_code_of_a_file() -> None:
    modules = Modules(os.getpid())
    [(low, high)] = code_of(modules, "libc.so")
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    assert address is not None and low <= address < high
    assert places([os.getpid()], "text:libc.so") == {os.getpid(): ((low, high),)}
    with pytest.raises(UnknownSymbol, match="has mapped file-of-nobody"):
        places([os.getpid()], "text:file-of-nobody")


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_planted_work_is_as_much_as_the_knob_says(turns: int) -> None:
    planted = ctypes.CDLL(str(library("redis_audit"))).audit_digest
    planted.restype, planted.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_uint64]
    knobs = np.array([turns], np.uint64)
    value = 13
    for _ in range(50 * turns):
        value = (value * value + 7) & MASK
    assert planted(knobs.ctypes.data, 12) == value  # the lowest bit is set first


def test_the_library_for_memcached_lets_replies_through(tmp_path: Path) -> None:
    write_knobs(tmp_path / "knobs", {0: 5})
    code = "import socket; a, b = socket.socketpair(); a.sendmsg([b'VALUE ', b'x']); print(b.recv(9).decode())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "LD_PRELOAD": str(library("memcached_sign")),
            "WORKBENCH_KNOBS": str(tmp_path / "knobs"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "VALUE x\n"


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_client_sends_what_the_knob_says_and_waits_for_each_answer(tmp_path: Path) -> None:
    path, knobs = tmp_path / "socket", tmp_path / "knobs"
    write_knobs(knobs, {1: 0})
    numbers = np.memmap(knobs, np.uint64, "r+", shape=(KNOBS,))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(120)
        command = [
            workload("load_client"),
            path,
            "1",
            knobs,
            r"get a\r\n",
            r"END\r\n",
            r"get b\r\n",
            r"OVER\n",
        ]
        with ending(subprocess.Popen(command)) as client:
            connection, _ = listening.accept()
            connection.settimeout(120)
            with connection:
                assert connection.recv(100) == b"get a\r\n"
                connection.sendall(b"VALUE a\r\nEN")
                numbers[1] = 1
                connection.sendall(b"D\r\n")
                assert connection.recv(100) == b"get b\r\n"
                connection.sendall(
                    b"x" * 100_000 + b"END\r\nOVER\n"
                )  # the end of the other is not its end
                assert connection.recv(100) == b"get b\r\n"
            assert client.wait(timeout=120) == 1  # the server closed the connection


def test_wrong_words_for_the_client() -> None:
    run = subprocess.run(
        [workload("load_client"), "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2 and "usage:" in run.stderr


def test_the_application_answers_every_request(tmp_path: Path) -> None:
    write_knobs(tmp_path / "knobs", {0: 2})
    command = [workload("web_application"), "0", tmp_path / "knobs"]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE)) as application:
        assert application.stdout is not None
        port = int(application.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for _ in range(2):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read().endswith(b"</html>\n")
        connection.close()
