"""`workbench lab shell`: a guest to look around in."""

from __future__ import annotations

import argparse

from workbench.cli.lab import say
from workbench.cli.lab.options import add_machine, bring, machine

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    add_machine(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Until the shell ends; its exit status."""
    with machine(arguments) as vm:
        bring(vm, arguments, "/root")
        about = vm.about
        say(
            f"Linux {about['release']}, {about['mode']}, {about['accelerator']}, {about['cpus']} CPU; "
            f"up after {about['boot_seconds']:.1f} s; leave with exit or Ctrl-D, everything in it is gone then"
        )
        return vm.shell()
