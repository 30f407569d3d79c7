"""The same calls on a timer give the same answers in the kernel and in user space."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import workbench as wb
from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.native import CProgram, CRun, call
from workbench.runtime.helpers.timers import Timers
from workbench.runtime.maps import Space, current_run

SOURCE = r"""
#include "workbench.h"
char LICENSE[] SEC("license") = "GPL";
struct value { struct bpf_timer timer; __u64 count; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct value);
} values SEC(".maps");
__u64 op, number, flags;
__s64 result;
static int fired(void *map, __u32 *key, struct value *value) { value->count++; return 0; }
SEC("xdp") int timers(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct value *value = bpf_map_lookup_elem(&values, &key);
	if (!value)
		return 0;
	if (op == 1)
		result = number == 7 ? bpf_timer_init(&value->timer, &values, 7)
			: number == 1 ? bpf_timer_init(&value->timer, &values, 1)
			: bpf_timer_init(&value->timer, &values, 2);
	else if (op == 2)
		result = bpf_timer_set_callback(&value->timer, fired);
	else if (op == 3)
		result = bpf_timer_start(&value->timer, number, flags);
	else if (op == 4)
		result = bpf_timer_cancel(&value->timer);
	return 2;
}
"""

HOUR = 3600 * 10**9
#: (operation, number, flags): init by clock, set_callback, start, cancel.
STEPS = [
    (2, 0, 0), (3, HOUR, 0), (4, 0, 0), (1, 2, 0), (1, 1, 0), (1, 1, 0), (1, 7, 0), (3, HOUR, 0), (4, 0, 0),
    (2, 0, 0), (3, HOUR, 4), (3, HOUR, 0), (3, HOUR, 0), (4, 0, 0), (4, 0, 0), (3, HOUR, 0), (2, 0, 0),
    (3, HOUR, 2), (4, 0, 0), (2, 0, 0), (3, HOUR, 1 << 40), (4, 0, 0),
]  # fmt: skip


def _kernel(folder: Path) -> list[int]:
    path = folder / "timers.bpf.c"
    path.write_text(SOURCE)
    answers = []
    with wb.compile(path).load(backend="kernel") as loaded:
        for op, number, flags in STEPS:
            loaded.globals["op"][...] = op
            loaded.globals["number"][...] = number
            loaded.globals["flags"][...] = flags
            assert loaded.test_run("timers")[0] == 2
            answers.append(int(loaded.globals["result"]))
    return answers


def _user_space() -> list[int]:
    callback = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 6)(lambda *_: 0)
    address = ctypes.cast(callback, ctypes.c_void_p).value or 0
    program = CProgram(budget=1)
    answers = []
    with Space() as space:
        values = space.create(LinkedMap("values", 2, 4, 24, 4))
        with Timers(space, [values]):
            run = current_run(space)
            CRun.from_address(run).program = ctypes.addressof(program)
            timer = int(values.struct.values)
            names = {1: "timer_init", 2: "timer_set_callback", 3: "timer_start", 4: "timer_cancel"}
            for op, number, flags in STEPS:
                arguments = {1: (values.handle, number), 2: (address,), 3: (number, flags), 4: ()}[
                    op
                ]
                answers.append(call(names[op], run, timer, *arguments))
    return answers


@pytest.mark.needs("raw tracepoint", "clang")
def test_a_timers_life(tmp_path: Path) -> None:
    assert _user_space() == _kernel(tmp_path)
