"""Prototypes of the helpers for programs on probes and events (kernel/trace/bpf_trace.c, kernel/bpf/stackmap.c)."""

from __future__ import annotations

from workbench.runtime.helpers.generic import helper
from workbench.runtime.helpers.model import CGROUP, TRACE, Argument, Helper, Result

__all__ = ("OWN", "TRACING")

A = Argument
R = Result
PERF = frozenset({"perf_event"})
TRAMPOLINE = frozenset({"tracing"})
LSM = frozenset({"lsm"})
SYSCALL = frozenset({"syscall"})
COOKIES = frozenset({"kprobe", "tracepoint", "raw_tracepoint", "perf_event", "tracing", "lsm"})


def _read(
    number: int, name: str, *, text: bool = False, types: frozenset[str] | None = None
) -> Helper:
    arguments = (A.UNINIT_MEMORY, A.CONST_SIZE_OR_ZERO, A.ANYTHING)
    return helper(
        number, name, R.INTEGER, *arguments, types=types, gpl_only=True, bounded_result=text
    )


TRACING: tuple[Helper, ...] = (
    _read(4, "probe_read", types=TRACE),
    helper(22, "perf_event_read", R.INTEGER, A.CONST_MAP, A.ANYTHING, gpl_only=True),
    helper(
        27, "get_stackid", R.INTEGER, A.CONTEXT, A.CONST_MAP, A.ANYTHING, types=TRACE, gpl_only=True
    ),
    helper(35, "get_current_task", R.INTEGER, gpl_only=True),
    helper(
        36,
        "probe_write_user",
        R.INTEGER,
        A.ANYTHING,
        A.MEMORY,
        A.CONST_SIZE,
        types=TRACE,
        gpl_only=True,
    ),
    helper(37, "current_task_under_cgroup", R.INTEGER, A.CONST_MAP, A.ANYTHING),
    _read(45, "probe_read_str", text=True, types=TRACE),
    helper(
        55,
        "perf_event_read_value",
        R.INTEGER,
        A.CONST_MAP,
        A.ANYTHING,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        gpl_only=True,
    ),
    helper(
        56,
        "perf_prog_read_value",
        R.INTEGER,
        A.CONTEXT,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        types=PERF,
        gpl_only=True,
    ),
    helper(
        58,
        "override_return",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        types=frozenset({"kprobe"}),
        gpl_only=True,
    ),
    helper(
        67,
        "get_stack",
        R.INTEGER,
        A.CONTEXT,
        A.UNINIT_MEMORY,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        types=TRACE,
        gpl_only=True,
        bounded_result=True,
    ),
    helper(109, "send_signal", R.INTEGER, A.ANYTHING),
    _read(112, "probe_read_user"),
    _read(113, "probe_read_kernel"),
    _read(114, "probe_read_user_str", text=True),
    _read(115, "probe_read_kernel_str", text=True),
    helper(117, "send_signal_thread", R.INTEGER, A.ANYTHING),
    helper(
        119,
        "read_branch_records",
        R.INTEGER,
        A.CONTEXT,
        A.UNINIT_MEMORY_OR_NULL,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        types=PERF,
        gpl_only=True,
    ),
    helper(
        126,
        "seq_printf",
        R.INTEGER,
        A.BTF_OBJECT,
        A.MEMORY,
        A.CONST_SIZE,
        A.MEMORY_OR_NULL,
        A.CONST_SIZE_OR_ZERO,
        types=TRAMPOLINE,
        gpl_only=True,
    ),
    helper(
        127,
        "seq_write",
        R.INTEGER,
        A.BTF_OBJECT,
        A.MEMORY,
        A.CONST_SIZE_OR_ZERO,
        types=TRAMPOLINE,
        gpl_only=True,
    ),
    helper(
        141,
        "get_task_stack",
        R.INTEGER,
        A.TASK,
        A.UNINIT_MEMORY,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        bounded_result=True,
    ),
    helper(
        147,
        "d_path",
        R.INTEGER,
        A.BTF_OBJECT,
        A.UNINIT_MEMORY,
        A.CONST_SIZE_OR_ZERO,
        types=TRAMPOLINE,
    ),
    helper(
        149,
        "snprintf_btf",
        R.INTEGER,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        A.MEMORY,
        A.CONST_SIZE,
        A.ANYTHING,
        gpl_only=True,
    ),
    helper(
        150,
        "seq_printf_btf",
        R.INTEGER,
        A.BTF_OBJECT,
        A.MEMORY,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        types=TRAMPOLINE,
        gpl_only=True,
    ),
    helper(
        156,
        "task_storage_get",
        R.MAP_VALUE_OR_NULL,
        A.CONST_MAP,
        A.TASK,
        A.MAP_VALUE,
        A.ANYTHING,
    ),
    helper(157, "task_storage_delete", R.INTEGER, A.CONST_MAP, A.TASK),
    helper(158, "get_current_task_btf", R.TASK),
    helper(166, "sys_bpf", R.INTEGER, A.ANYTHING, A.MEMORY, A.CONST_SIZE, types=SYSCALL),
    helper(
        167,
        "btf_find_by_name_kind",
        R.INTEGER,
        A.MEMORY,
        A.CONST_SIZE,
        A.ANYTHING,
        A.ANYTHING,
        types=SYSCALL,
    ),
    helper(168, "sys_close", R.INTEGER, A.ANYTHING, types=SYSCALL),
    helper(173, "get_func_ip", R.INTEGER, A.CONTEXT, types=TRACE, gpl_only=True),
    helper(174, "get_attach_cookie", R.INTEGER, A.CONTEXT, types=COOKIES),
    helper(175, "task_pt_regs", R.BTF_OBJECT, A.TASK),
    helper(
        176,
        "get_branch_snapshot",
        R.INTEGER,
        A.UNINIT_MEMORY,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        gpl_only=True,
    ),
    helper(
        179,
        "kallsyms_lookup_name",
        R.INTEGER,
        A.MEMORY,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        A.LONG_POINTER,
        types=SYSCALL,
    ),
    helper(
        180,
        "find_vma",
        R.INTEGER,
        A.TASK,
        A.ANYTHING,
        A.CALLBACK,
        A.STACK_OR_NULL,
        A.ANYTHING,
    ),
    helper(183, "get_func_arg", R.INTEGER, A.CONTEXT, A.ANYTHING, A.LONG_POINTER, types=TRAMPOLINE),
    helper(184, "get_func_ret", R.INTEGER, A.CONTEXT, A.LONG_POINTER, types=TRAMPOLINE),
    helper(185, "get_func_arg_cnt", R.INTEGER, A.CONTEXT, types=TRAMPOLINE),
    helper(186, "get_retval", R.INTEGER, types=CGROUP | LSM),
    helper(187, "set_retval", R.INTEGER, A.ANYTHING, types=CGROUP | LSM),
)

#: Not of the kernel, whose numbers end at 211: `bpf_delay(ns)` lets the calling thread sleep, 20 ms at most, and
#: returns the ns that it really slept.
OWN: tuple[Helper, ...] = (helper(500, "delay", R.INTEGER, A.ANYTHING, types=TRACE),)
