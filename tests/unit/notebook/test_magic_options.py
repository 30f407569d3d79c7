"""The magics take the options of the command line: one parser, and a list of what differs on purpose."""

from __future__ import annotations

import argparse

import pytest

from workbench.cli import record as cli
from workbench.collectors.options import keywords
from workbench.errors import BadSpec
from workbench.notebook.options import HelpShown, parse, record_parser

ONLY_CLI = {"--json"}  # a notebook has the recording itself
ONLY_MAGIC = {"--into", "--no-figure"}  # a shell has neither variables nor pictures


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: one for one in parser._actions for name in one.option_strings or [one.dest]}


def shell_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    return parser


def test_line_magic_has_every_option_of_the_command_line() -> None:
    assert set(options(record_parser("line"))) - ONLY_MAGIC == set(options(shell_parser())) - ONLY_CLI


def test_cell_magic_records_the_cell_instead_of_a_command() -> None:
    assert set(options(record_parser("line"))) - set(options(record_parser("cell"))) == {"command"}


@pytest.mark.parametrize("kind", ["line", "cell"])
def test_shared_options_mean_the_same(kind: str) -> None:
    shell = options(shell_parser())
    for name, one in options(record_parser(kind)).items():
        if name in shell:
            same = ("dest", "type", "nargs", "const", "default", "choices", "help", "metavar")
            assert all(getattr(one, key) == getattr(shell[name], key) for key in same), name


def test_what_is_parsed_is_what_the_recorder_gets() -> None:
    line = "-c cpu:99 -c 'uprobe:libc:malloc' -o out -p 7 -s 2.5 --no-follow --overwrite"
    magic = keywords(parse(record_parser("cell"), line))
    assert magic == keywords(shell_parser().parse_args(line.replace("'", "").split()))


def test_everything_after_two_dashes_is_the_command() -> None:
    arguments = parse(record_parser("line"), "-c cpu -- sh -c 'exit 3' -s 5", command=True)
    assert arguments.command == ["sh", "-c", "exit 3", "-s", "5"]
    assert arguments.seconds is None


def test_defaults_of_a_cell() -> None:
    words = keywords(parse(record_parser("cell"), ""))
    assert words["collect"] is None and words["output"] is None and words["pid"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("-s soon", "invalid float value"),
        ("-c 'cpu", "No closing quotation"),
        ("-- ls", "records the cell, not a command"),
        ("--into 2x", "not a name of a variable"),
    ],
)
def test_bad_lines_raise_and_do_not_exit(line: str, message: str) -> None:
    with pytest.raises(BadSpec, match=message) as raised:
        parse(record_parser("cell"), line)
    assert raised.value.hint


def test_help_is_shown_and_nothing_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse(record_parser("cell"), "--help")
    assert "--into NAME" in capsys.readouterr().out
    with pytest.raises(HelpShown):
        parse(record_parser("line"), "--collectors")
    assert "cpu" in capsys.readouterr().out
