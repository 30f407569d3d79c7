"""Every program of the project's own objects is accepted, with its knobs at rest and turned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.objects.link import link
from workbench.objects.model import builtin
from workbench.runtime.verifier import verify_object

_NAMES = sorted(
    path.name.removesuffix(".bpf.c")
    for path in (Path(__file__).parents[4] / "bpf").glob("*.bpf.c")
    if ".struct_ops" not in path.read_text()  # schedulers call into the kernel
)
_KNOBS: dict[str, list[dict[str, Any]]] = {
    "cpu": [{"copy_bytes": 16384}],
    "uprobe": [
        {"join": True, "argument_slots": 6, "string_slots": 2, "want_latency": True},
    ],
    "watch": [{"want_values": True, "want_stacks": True}],
}


@pytest.mark.parametrize("name", _NAMES)
def test_every_program_is_accepted(name: str) -> None:
    obj = builtin(name)
    for constants in ({}, *_KNOBS.get(name, [])):
        # Against the layout that the source declares: needs no kernel types.
        linked = link(obj, btf=obj.btf, constants=constants)
        for program, verdict in verify_object(linked).items():
            assert not verdict.widened, program
            assert not verdict.unbounded, program
            assert verdict.stack_depth <= 512


def test_the_list_is_not_empty() -> None:
    assert {"uprobe", "cpu", "gpu"} <= set(_NAMES)
