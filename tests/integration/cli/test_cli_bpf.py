"""`workbench bpf disasm`, `plugin` and `conformance`, as a user or the official runner calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.cli.bpf import SUBVERBS
from workbench.objects.build import built_object
from workbench.objects.link import link
from workbench.objects.model import open as open_object
from workbench.runtime.isa import assemble

# mov %r0, %r2; add %r0, 5; exit
PROGRAM = assemble("mov %r0, %r2\nadd %r0, 5\nexit").hex(" ")


def plugin(*arguments: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workbench.cli", "bpf", "plugin", *arguments]
    return subprocess.run(command, input=program + "\n", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", [(), ("--interpret",), ("--jit",), ("--jit", "--tier", "quick")])
def test_plugin_protocol(how: tuple[str, ...]) -> None:
    """As the official runner does: memory first, then the options, the program on standard input."""
    done = plugin("01  02  03  ", *how)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


@pytest.mark.parametrize("how", [("--interpret",), ("--jit",), ("--jit", "--tier", "quick")])
@pytest.mark.parametrize(
    "program",
    [
        "18 01 00 00 00 00 ad de 00 00 00 00 00 00 00 00 79 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00",
        "05 00 ff ff 00 00 00 00 95 00 00 00 00 00 00 00",
    ],
    ids=["reads elsewhere", "never ends"],
)
def test_the_plugin_survives_bad_programs(how: tuple[str, ...], program: str) -> None:
    done = plugin(*how, program=program)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("workbench: ") and "hint: " in done.stderr


def test_plugin_options_of_the_official_plugin() -> None:
    done = plugin("--program", PROGRAM, "ff", "--debug", program="")
    assert (done.returncode, done.stdout) == (0, "6\n")
    assert "r0 += 0x5" in done.stderr
    negative = plugin(program=assemble("mov %r0, -1\nexit").hex())
    assert negative.stdout == "ffffffffffffffff\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [("zz", "not hexadecimal"), ("ff" + "00" * 7, "opcode 0xff is not known"), ("b7 00", "no whole instruction")],
)
def test_plugin_errors(program: str, message: str) -> None:
    done = plugin(program=program)
    assert done.returncode != 0 and not done.stdout and message in done.stderr


def test_plugin_faults_in_the_interpreter() -> None:
    done = plugin(program=assemble("ldxb %r0, [%r1+1]\nexit").hex())
    assert done.returncode == 1 and "slot 0" in done.stderr


def test_disassembly_reassembles(capsys: pytest.CaptureFixture[str]) -> None:
    path = built_object("bench_ring")
    linked = link(open_object(path))
    name, program = next(iter(linked.programs.items()))
    assert main(["bpf", "disasm", str(path), name, "--lines"]) == 0
    text = capsys.readouterr().out
    assert assemble(text, maps=[one.name for one in linked.maps]) == program.code
    assert f"{name}:" in text and "bench_ring.bpf.c:" in text and "map[" in text


def test_disassembly_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    path = built_object("bench_ring")
    assert main(["bpf", "disasm", str(path), "--lines", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    linked = link(open_object(path))
    assert [one["name"] for one in document["programs"]] == list(linked.programs)
    for one in document["programs"]:
        code = "".join(row["code"] for row in one["instructions"])
        assert bytes.fromhex(code) == linked.programs[one["name"]].code
        assert one["instructions"][0]["function"] == one["name"]
        assert any("source" in row for row in one["instructions"])


def test_a_program_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bpf", "disasm", str(built_object("bench_ring")), "produced"]) == 2
    assert "did you mean 'produce'" in capsys.readouterr().err


def suite(folder: Path, result: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "good.data").write_text("-- asm\nldxb %r0, [%r1]\nexit\n-- mem\n07\n-- result\n0x7\n")
    (folder / "tests" / "other.data").write_text(f"-- asm\nmov %r0, 3\nexit\n-- result\n{result}\n")
    (folder / "tests" / "refused.data").write_text("-- raw\n0xff\n-- error\nunknown opcode\n")
    return folder


@pytest.mark.parametrize("how", ["--interpret", "--jit"])
def test_conformance(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    assert main(["bpf", "conformance", str(suite(tmp_path, "3")), how]) == 0
    assert "3 of 3 tests passed" in capsys.readouterr().out


def test_conformance_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bpf", "conformance", str(suite(tmp_path, "4")), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["tests"], document["passed"]) == (3, 2)
    assert [row["name"] for row in document["rows"] if not row["passed"]] == ["other"]


def test_every_subverb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bpf", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in SUBVERBS:
        assert name in text
