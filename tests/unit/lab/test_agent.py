"""The guest's agent, run here over a socket: commands, streams, files, and the end of the host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import RunFailed
from workbench.lab.channel import Channel, Closed
from workbench.lab.exchange import Exchange
from workbench.lab.transfer import Receiver, frames_of
from workbench.lab.wire import Kind, decode_object, encode, encode_object

AGENT = """
import sys
from pathlib import Path
from workbench.lab.agent import Agent
Agent(int(sys.argv[1]), Path(sys.argv[2])).serve()
"""
LONG = 90.0


class Here:
    """In place of a guest: a process of this machine that serves the channel."""

    def __init__(self, root: Path) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(theirs.fileno()), str(root)],
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.channel = Channel(ours)
        answer = self.channel.receive(time.monotonic() + LONG)
        assert not isinstance(answer, int) and answer[0] is Kind.HELLO
        self.about = decode_object(answer[1])

    def failure(self, message: str) -> RunFailed:
        return RunFailed(message)

    def stop(self) -> None:
        self.channel.close()
        self.process.wait(LONG)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    (tmp_path / "root").mkdir()
    here = Here(tmp_path / "root")
    yield here
    here.stop()
    assert here.process.returncode == 0


def run(
    here: Here, script: str, stdin: bytes | None = None, limit: float = LONG, **fields: object
) -> tuple[int, bytes, bytes]:
    exchange = Exchange(here)  # type: ignore[arg-type]
    whole = {"argv": ["sh", "-c", script], "stdin": stdin is not None} | fields
    end = exchange.run(whole, stdin, time.monotonic() + limit)
    return end.status, bytes(exchange.stdout), bytes(exchange.stderr)


def test_status_and_both_streams_come_back(here: Here) -> None:
    assert here.about["release"] == os.uname().release
    assert run(here, "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert run(here, "kill -9 $$")[0] == 128 + 9
    assert run(here, "echo $NAME; pwd", env={"NAME": "x"}, folder="/")[1] == b"x\n/\n"


def test_programs_that_are_not_there(here: Here) -> None:
    status, _, err = run(here, "", argv=["/no/such/program"])
    assert status == 127 and b"No such file" in err
    assert run(here, "", argv=["/"])[0] == 126
    with pytest.raises(RunFailed, match="no command"):
        run(here, "", argv=[])
    assert run(here, "echo still here")[1] == b"still here\n"


def test_large_streams_in_both_directions(here: Here) -> None:
    data = os.urandom(3_000_000)
    status, out, err = run(here, "tee /dev/stderr", data)
    assert (status, out == data, err == data) == (0, True, True)
    assert run(here, "cat", b"")[:2] == (0, b"")
    assert run(here, "exec 0<&-; echo unread", data)[:2] == (0, b"unread\n")


def test_a_background_process_is_not_waited_for(here: Here) -> None:
    status, out, _ = run(here, "sleep 1000 & echo $!")
    pid = int(out)
    assert status == 0
    os.kill(pid, signal.SIGKILL)


def test_a_command_ends_when_its_time_is_over(here: Here) -> None:
    exchange = Exchange(here)  # type: ignore[arg-type]
    end = exchange.run(
        {"argv": ["sh", "-c", "echo begun; sleep 1000"]}, None, time.monotonic() + 0.5
    )
    assert (end.status, end.timed_out) == (124, True)
    assert run(here, "echo next")[1] == b"next\n"


def test_output_is_shown_as_it_comes(here: Here) -> None:
    pieces: list[tuple[int, bytes]] = []
    exchange = Exchange(here, lambda stream, data: pieces.append((stream, data)))  # type: ignore[arg-type]
    exchange.run({"argv": ["sh", "-c", "echo a; echo b >&2"]}, None, time.monotonic() + LONG)
    assert sorted(pieces) == [(1, b"a\n"), (2, b"b\n")]


def test_a_command_on_a_terminal(here: Here) -> None:
    channel, deadline = here.channel, time.monotonic() + LONG
    channel.send([encode_object(Kind.RUN, {"argv": ["sh"], "terminal": [10, 40]})], deadline)
    channel.send([encode(Kind.STDIN, b"stty size; exit 5\n")], deadline)
    seen = b""
    while True:
        frame = channel.receive(deadline)
        assert not isinstance(frame, int)
        if frame[0] is Kind.EXIT:
            assert decode_object(frame[1])["status"] == 5
            break
        seen += frame[1]
    assert b"10 40" in seen


def test_files_in_and_out(here: Here, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(os.urandom(300_000))
    exchange = Exchange(here)  # type: ignore[arg-type]
    assert exchange.put("/in/here", frames_of(source, "tree"), time.monotonic() + LONG) == 2
    assert (tmp_path / "root/in/here/tree/data").read_bytes() == (source / "data").read_bytes()
    [back] = exchange.get("/in/here/tree", Receiver(tmp_path / "back"), time.monotonic() + LONG)
    assert (
        back == tmp_path / "back/tree/data" and back.read_bytes() == (source / "data").read_bytes()
    )
    with pytest.raises(RunFailed, match="No such file"):
        exchange.get("/none", Receiver(tmp_path / "back"), time.monotonic() + LONG)
    (tmp_path / "root/file").write_text("")
    with pytest.raises(RunFailed, match="in the guest"):
        exchange.put("/file/below", frames_of(source, "tree"), time.monotonic() + LONG)
    assert run(here, "echo fine")[1] == b"fine\n"


def test_orphans_are_reaped_without_taking_the_commands_status(here: Here) -> None:
    assert run(here, "(sleep 0.01 &) ; (exit 3) ; exit 4")[0] == 4


def test_the_agent_ends_with_its_host(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.channel.send(
        [encode_object(Kind.RUN, {"argv": ["sh", "-c", "echo $$; exec sleep 1000"]})],
        time.monotonic() + LONG,
    )
    frame = here.channel.receive(time.monotonic() + LONG)
    assert not isinstance(frame, int) and frame[0] is Kind.STDOUT
    here.channel.close()
    assert here.process.wait(LONG) == 0
    with pytest.raises(Closed):
        here.channel.receive(time.monotonic() + 1)


def test_garbage_ends_the_agent(tmp_path: Path) -> None:
    here = Here(tmp_path)
    here.channel.send([b"no frame at all"], time.monotonic() + LONG)
    assert here.process.wait(LONG) != 0
    here.stop()
