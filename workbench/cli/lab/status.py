"""`workbench lab status`: what is prepared."""

from __future__ import annotations

import argparse
import json

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print; that nothing is prepared is no failure of the command."""
    from workbench.lab.prepare import status

    found = status()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"folder    {found['folder']} ({_size(found['bytes'])})")
    print(f"QEMU      {found['qemu'] or 'not installed'}")
    if found["kvm"]:
        print(f"KVM       {found['kvm']}")
    for kernel in found["kernels"]:
        has = {True: "with sched_ext", False: "without sched_ext", None: "configuration unknown"}[
            kernel["sched_ext"]
        ]
        chosen = ", guests boot this one" if kernel["chosen"] else ""
        print(
            f"kernel    {kernel['release']} ({kernel['origin']}, {_size(kernel['bytes'])}, {has}{chosen})"
        )
    for image in found["images"]:
        print(f"image     {image['name']} ({_size(image['bytes'])})")
    lacking = [name for name, path in found["programs"].items() if not path]
    print(
        f"programs  {', '.join(name for name, path in found['programs'].items() if path) or 'none'}"
    )
    if lacking:
        print(f"          not: {', '.join(lacking)}")
    if found["problem"]:
        print(f"no guest can boot: {found['problem']}\n  hint: {found['hint']}")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
