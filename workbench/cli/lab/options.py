"""Options of a guest, the same for every sub-verb that boots one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workbench.cli.lab import say

if TYPE_CHECKING:
    from workbench.lab.vm import Vm

__all__ = ("add_machine", "machine")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a guest is made of."""
    parser.add_argument(
        "--mode",
        choices=("deterministic", "parallel"),
        default="deterministic",
        help="deterministic: one CPU, time counted in instructions (default); parallel: several CPUs",
    )
    parser.add_argument("--cpus", type=int, metavar="N", help="virtual processors (parallel: 2)")
    parser.add_argument("--memory", type=int, metavar="MIB", default=1024, help="MiB (1024)")
    parser.add_argument("--kernel", metavar="RELEASE", help="a prepared kernel (the last)")
    parser.add_argument(
        "--accelerator",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="auto: KVM where a guest comes up with it",
    )
    parser.add_argument(
        "--module",
        metavar="NAME",
        action="append",
        default=[],
        help="kernel module to load at boot; repeat",
    )
    parser.add_argument(
        "--file", metavar="PATH[:GUEST_PATH]", action="append", default=[],
        help="file or folder to copy in, into the command's working folder unless a path says where; repeat",
    )  # fmt: skip
    parser.add_argument(
        "--priority",
        choices=("normal", "high"),
        default="normal",
        help="high: before the host's other programs (root)",
    )
    parser.add_argument(
        "--boot-limit", type=float, metavar="S", default=180.0, help="seconds for booting (180)"
    )


def machine(arguments: argparse.Namespace, retries: int = 1) -> Vm:
    """The guest that the options ask for, not yet booted."""
    from workbench.lab.vm import lab

    return lab(
        arguments.mode,
        cpus=arguments.cpus,
        memory=arguments.memory,
        kernel=arguments.kernel,
        accelerator=arguments.accelerator,
        modules=arguments.module,
        priority=arguments.priority,
        boot_limit=arguments.boot_limit,
        retries=retries,
        progress=say,
    )


def bring(vm: Vm, arguments: argparse.Namespace, folder: str) -> None:
    """Copy in what ``--file`` names."""
    for spec in arguments.file:
        source, colon, target = spec.partition(":")
        vm.copy_in(source, target if colon and target else f"{folder}/")
