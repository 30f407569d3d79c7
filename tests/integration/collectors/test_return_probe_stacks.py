"""A stack in which the kernel replaced return addresses unwinds like one in which it did not."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from workbench.frames.symbols.elffile import ElfFile
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.unwind import Status, Unwinder
from workbench.frames.unwind_tables import UnwindTables
from workbench.kernel.loaded import load
from workbench.native.build import compiler
from workbench.objects.model import compile

pytestmark = pytest.mark.needs("uprobe_multi", "clang", "C compiler", "libbpf")

TARGET = Path(__file__).parents[2] / "support" / "unwind_target.c"
SOURCE = """
#include "stack.h"
#include "return_probes.h"
struct stack_head head;
__u64 returns[MAX_RETURNS];
__u8 copy[4096];
__u32 copied, found, returned;
SEC("uprobe.multi") int entered(void *ctx)
{
	user_registers(&head);
	for (int i = 0; i < 16; i++) {
		if (bpf_probe_read_user(copy + i * 256, 256, (void *)(head.sp + i * 256)))
			break;
		copied = (i + 1) * 256;
	}
	found = original_returns(returns);
	return 0;
}
SEC("uretprobe.multi") int left(void *ctx) { __sync_fetch_and_add(&returned, 1); return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


def offsets_of(program: Path, *names: str) -> list[int]:
    """File offsets of functions."""
    lines = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {fields[2]: int(fields[0], 16) for line in lines if len(fields := line.split()) == 3}
    with ElfFile(program) as elf:
        return [
            next(
                found[name] - int(load["vaddr"]) + int(load["offset"])
                for load in elf.loads
                if 0 <= found[name] - int(load["vaddr"]) < int(load["filesz"])
            )
            for name in names
        ]


def places(pid: int, addresses: list[int]) -> list[tuple[str, int]]:
    """File and offset of each address: what does not change from run to run."""
    columns = Mappings.snapshot(pid)
    mappings = Mappings.from_columns(columns)
    rows = mappings.find(np.full(len(addresses), pid, np.int32), np.array(addresses, np.uint64))
    assert (rows >= 0).all()
    return [
        (columns["path"][row], int(a - int(columns["start"][row]) + int(columns["offset"][row])))
        for row, a in zip(rows.tolist(), addresses, strict=True)
    ]


def test_return_probes_do_not_cut_the_chain(tmp_path: Path) -> None:
    program, source = tmp_path / "target", tmp_path / "returns.bpf.c"
    source.write_text(SOURCE)
    subprocess.run(
        [compiler(), "-O2", "-fomit-frame-pointer", "-o", program, TARGET, "-ldl", "-lpthread"], check=True
    )
    unwinder = Unwinder(UnwindTables(tmp_path / "cache"))
    none = np.zeros(1, np.int64)
    with subprocess.Popen([program, "nested"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as plain:
        assert plain.stdout is not None
        head = struct.unpack("<6Q", plain.stdout.read(48))
        plain.stdout.read(head[4] * 8)
        stack = plain.stdout.read(head[5])
        chain = unwinder.unwind(
            np.array([plain.pid], np.int32), np.array([head[:3]], np.uint64), np.frombuffer(stack, np.uint8), none,
            np.array([len(stack)], np.int32),
        )  # fmt: skip
        expected = places(plain.pid, chain.addresses.tolist()[1:])
        plain.kill()
    with load(compile(source, output=tmp_path / "returns.o")) as loaded:
        loaded.attach_uprobes("entered", str(program), offsets_of(program, "capture"))
        for _ in range(2):  # the second probe on the same call is chained to the first
            loaded.attach_uprobes(
                "left", str(program), offsets_of(program, "nested", "through_libc"), on_return=True
            )
        with subprocess.Popen([program, "nested"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as probed:
            assert probed.stdout is not None and probed.stdin is not None
            assert len(probed.stdout.read(48)) == 48
            seen = {name: value.copy() for name, value in loaded.globals.items()}
            assert int(seen["found"]) >= 5, "four calls of nested, one of through_libc"
            arguments = (
                np.array([probed.pid], np.int32),
                np.array([[seen["head"][name] for name in ("ip", "sp", "fp")]], np.uint64),
                seen["copy"],
                none,
                np.array([int(seen["copied"])], np.int32),
            )
            cut = unwinder.unwind(*arguments)
            whole = unwinder.unwind(*arguments, returns=seen["returns"][None, :])
            got = places(probed.pid, whole.addresses.tolist()[1:])
            probed.kill()
    assert cut.status[0] == Status.UNSUPPORTED and len(cut.addresses) == 2
    assert whole.status[0] == Status.COMPLETE
    assert got == expected
