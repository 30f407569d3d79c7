"""`workbench lab prepare`: get a kernel and what else a guest needs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from workbench.cli.lab import say
from workbench.errors import BadSpec
from workbench.lab.extras import EXTRAS

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel", metavar="PATH", help="a kernel image of your own: vmlinuz or vmlinux"
    )
    which.add_argument("--running", action="store_true", help="the kernel that this machine runs")
    parser.add_argument(
        "--modules", metavar="DIR", help="modules of --kernel, if they are not beside it"
    )
    parser.add_argument(
        "--again", action="store_true", help="forget what was prepared and begin anew"
    )
    parser.add_argument(
        "--with",
        dest="extras",
        action="append",
        default=[],
        choices=sorted(EXTRAS),
        help="programs that some experiments bring into a guest: Coz, for `workbench bench causal-coz`",
    )
    parser.add_argument("--json", action="store_true", help="print the kernel as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Prepare; 0 if a guest can boot now.

    Raises
    ------
    BadSpec
        Modules without their kernel.
    """
    from workbench.lab.prepare import prepare

    if arguments.modules and not arguments.kernel:
        raise BadSpec("--modules names the modules of --kernel", "give both, or neither")
    kernel = prepare(
        arguments.kernel,
        modules=Path(arguments.modules) if arguments.modules else None,
        running=arguments.running,
        again=arguments.again,
        kvm=True,
        extras=arguments.extras,
        say=say,
    )
    if arguments.json:
        print(
            json.dumps(
                {"release": kernel.release, "origin": kernel.origin, "vmlinux": str(kernel.vmlinux)}
            )
        )
    else:
        print(f"guests boot Linux {kernel.release} ({kernel.origin})")
    return 0
