"""`workbench bpf run FILE PROGRAM`: one program on given input, as BPF_PROG_TEST_RUN."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workbench.errors import BadSpec, MissingCapability

__all__ = ("configure", "execute")

_PACKETS = ("xdp", "socket_filter", "sched_cls", "sched_act")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("object", metavar="FILE", help="BPF object (.o), or C source (.bpf.c)")
    parser.add_argument("program", metavar="PROGRAM")
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--hex", metavar="BYTES", help="packet of a network program, context of another"
    )
    data.add_argument("--data", metavar="FILE", help="the same from a file")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run N times")
    parser.add_argument(
        "--backend", choices=("userspace", "kernel"), default="userspace", help="default: userspace"
    )
    parser.add_argument("--maps", action="store_true", help="print what is in the maps afterwards")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Run it and print the result, the time of a run and, if asked, the maps."""
    from workbench.cli.bpf.dump import entries, has_entries, lines
    from workbench.cli.bpf.objects import check_programs, opened

    if arguments.repeat < 1:
        raise BadSpec(f"--repeat {arguments.repeat}", "give 1 or more")
    data = bytes(64)
    if arguments.hex is not None:
        try:
            data = bytes.fromhex(arguments.hex)
        except ValueError as error:
            raise BadSpec(f"--hex: {error}", "pairs of hexadecimal digits: --hex 0a0b0c") from None
    elif arguments.data is not None:
        try:
            data = Path(arguments.data).read_bytes()
        except OSError as error:
            raise BadSpec(f"--data {arguments.data}: {error.strerror}") from None
    obj = opened(arguments.object)
    check_programs(obj, [arguments.program])
    with obj.load(arguments.backend, programs=[arguments.program]) as loaded:
        if loaded.backend == "userspace" and (arguments.hex is not None or arguments.data is not None):
            _refuse_short_context(loaded.programs[arguments.program], data)
        value, spent = _test_run(loaded, arguments.program, data, arguments.repeat)
        result: dict[str, Any] = {
            "program": arguments.program,
            "backend": loaded.backend,
            "retval": value,
            "duration": spent,
            "repeat": arguments.repeat,
        }
        if arguments.maps:
            result["maps"] = {
                name: entries(one) for name, one in loaded.maps.items() if has_entries(one)
            }
    if arguments.json:
        print(json.dumps(result))
        return 0
    if arguments.repeat > 1:
        print(f"Return value: {value}, duration (average): {spent}ns")
    else:
        print(f"Return value: {value}, duration (one run, cold): {spent}ns; --repeat N averages N runs")
    for name, rows in result.get("maps", {}).items():
        print(f"{name}: {len(rows)} element{'s' if len(rows) != 1 else ''}")
        for line in lines(rows):
            print(f"  {line}")
    return 0


def _refuse_short_context(program: Any, data: bytes) -> None:
    """Refuse a context that ends before what the program reads, as the kernel refuses a packet without a header."""
    needed = program.verdict.context_size
    if program.linked.type not in _PACKETS and len(data) < needed:
        raise BadSpec(
            f"a context of {len(data)} bytes: program {program.linked.name} reads bytes up to {needed}",
            f"give at least {needed} bytes, or leave --hex and --data away for zeros",
        )


def _test_run(loaded: Any, program: str, data: bytes, repeat: int) -> tuple[int, int]:
    try:
        value, spent = loaded.test_run(program, data, repeat)
    except MissingCapability as error:
        if loaded.backend != "kernel" or "not supported" not in error.message:
            raise
        raise MissingCapability(
            error.message,
            "the kernel test-runs network programs, raw tracepoints, fentry and fexit, syscall and struct_ops, not "
            "kprobes, uprobes, tracepoints and perf events: run those with --backend userspace",
        ) from error
    return value, spent
