"""The userspace runtime in a guest, whose kernel may let only a tracer write to a process's code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.lab.vm import Vm
from workbench.objects.compile import compile_file

pytestmark = [pytest.mark.needs("QEMU", "clang"), pytest.mark.timeout(1500)]

LIMIT = 1200.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one
PROGRAMS = Path(__file__).parent / "programs"


def test_programs_come_into_a_process_and_leave_it(vm: Vm, tmp_path: Path) -> None:
    vm.copy_in(compile_file(PROGRAMS / "userspace.bpf.c", tmp_path / "userspace.bpf.o"))
    vm.copy_in(PROGRAMS / "userspace.py")
    result = vm.run(["python3", "/tmp/userspace.py", "/tmp/userspace.bpf.o"], limit=LIMIT)
    assert result.ok, result.stderr.decode(errors="replace")
    assert json.loads(result.text) == {
        "answers": [10] * 4,
        "tiers": ["quick", "optimised"],
        "seen": [20] * 3,
        "hits": [20] * 2,
        "problems": [],
        "code": True,
        "memory": True,
    }
