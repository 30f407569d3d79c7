"""What a helper's prototype is made of: argument kinds, result kinds, who may call it.

Named after `enum bpf_arg_type` and `enum bpf_return_type` of the kernel's include/linux/bpf.h.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

__all__ = (
    "CGROUP",
    "NETWORK",
    "SKB",
    "TRACE",
    "USERSPACE",
    "Argument",
    "Helper",
    "Result",
    "words",
)


class Argument(enum.Enum):
    """What an argument must be; the comment gives the kernel's name where it differs.

    Memory kinds are followed by a size argument, except the ``*_pointer`` and ``fixed_*`` kinds, whose size is fixed.
    """

    ANYTHING = "any initialised value"
    CONST_MAP = "a map"  # CONST_MAP_PTR
    MAP_KEY = "key_size readable bytes"
    MAP_VALUE = "value_size readable bytes"
    UNINIT_MAP_VALUE = "value_size writable bytes"
    MEMORY = "readable memory"  # MEM | MEM_RDONLY
    MEMORY_OR_NULL = "readable memory or NULL"
    UNINIT_MEMORY = "writable memory, initialised or not"  # MEM | MEM_UNINIT | MEM_WRITE
    UNINIT_MEMORY_OR_NULL = "writable memory or NULL"
    CONST_SIZE = "a bounded size above 0"
    CONST_SIZE_OR_ZERO = "a bounded size"
    CONST_ALLOC_SIZE = "a constant size of the memory that is returned"
    CONTEXT = "the program's context"
    CONTEXT_OR_NULL = "the program's context or NULL"
    SPIN_LOCK = "a bpf_spin_lock in a map value"
    TIMER = "a bpf_timer in a map value"
    DYNPTR = "an initialised dynptr on the stack"
    DYNPTR_WRITABLE = "an initialised dynptr that may be written through"
    DYNPTR_UNINIT_LOCAL = "a dynptr on the stack to initialise over memory"
    DYNPTR_UNINIT_RINGBUF = "a dynptr on the stack to initialise over a ring buffer record"
    DYNPTR_RINGBUF = "a dynptr over a ring buffer record, given up by the call"
    CONST_STRING = "a NUL-terminated string in a read-only map"
    CALLBACK = "a function of the program"  # FUNC
    STACK_OR_NULL = "a pointer to the stack or NULL"
    LONG_POINTER = "8 writable, aligned bytes"  # FIXED_SIZE_MEM of 8
    INT_POINTER = "4 writable, aligned bytes"  # FIXED_SIZE_MEM of 4
    FIXED_MEMORY = "readable memory of the helper's fixed size"
    FIXED_UNINIT_MEMORY = "writable memory of the helper's fixed size"
    RINGBUF_MEMORY = "a reserved ring buffer record, given up by the call"
    MAP_VALUE_POINTER = "a pointer into a map value"
    SOCKET = "a socket"
    SOCKET_OR_NULL = "a socket or NULL"
    TASK = "a task_struct"
    BTF_OBJECT = "a kernel object"
    PERCPU_OBJECT = "a per-CPU kernel variable"
    KPTR = "a kernel pointer field in a map value"


class Result(enum.Enum):
    """What a helper leaves in r0."""

    INTEGER = "an integer"
    VOID = "nothing"
    MAP_VALUE_OR_NULL = "a map value or NULL"
    MAP_VALUE = "a map value"
    MEMORY_OR_NULL = "memory of a size given by a constant argument, or NULL"  # DYNPTR_MEM
    ALLOC_MEMORY_OR_NULL = "a ring buffer record or NULL"  # RINGBUF_MEM_OR_NULL
    SOCKET_OR_NULL = "a socket or NULL"
    TASK = "a task_struct"
    BTF_OBJECT = "a kernel object"
    BTF_OBJECT_OR_NULL = "a kernel object or NULL"


Types: TypeAlias = frozenset[str]


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for tables of names."""
    return tuple(text.split())


#: Programs that see a probe's or event's context.
TRACE: Types = frozenset(
    {
        "kprobe",
        "tracepoint",
        "raw_tracepoint",
        "raw_tracepoint_writable",
        "perf_event",
        "tracing",
        "lsm",
        "syscall",
    }
)
#: Programs with a struct __sk_buff.
SKB: Types = frozenset(
    {
        "socket_filter",
        "sched_cls",
        "sched_act",
        "cgroup_skb",
        "lwt_in",
        "lwt_out",
        "lwt_xmit",
        "sk_skb",
    }
)
CGROUP: Types = frozenset(
    {"cgroup_sock", "cgroup_sock_addr", "cgroup_sockopt", "cgroup_sysctl", "cgroup_device"}
)
NETWORK: Types = SKB | frozenset({"xdp", "sk_msg", "sk_reuseport", "flow_dissector", "sock_ops"})

#: The last number of `enum bpf_func_id`; helpers above are user space's own.
LAST = 211

#: Names of the helpers that user space implements: the rows of workbench/native/runtime/table.c.
#: `get_current_task(_btf)` gives the running thread as the structures of native/runtime/platform.h.
USERSPACE: frozenset[str] = frozenset(
    words("""
    map_lookup_elem map_update_elem map_delete_elem map_push_elem map_pop_elem map_peek_elem
    map_lookup_percpu_elem for_each_map_elem loop tail_call
    probe_read probe_read_user probe_read_kernel probe_read_str probe_read_user_str
    probe_read_kernel_str probe_write_user copy_from_user
    strncmp strtol strtoul snprintf trace_printk trace_vprintk csum_diff
    ktime_get_ns ktime_get_boot_ns ktime_get_coarse_ns ktime_get_tai_ns jiffies64
    get_prandom_u32 get_smp_processor_id get_numa_node_id
    get_current_pid_tgid get_ns_current_pid_tgid get_current_uid_gid get_current_comm
    send_signal send_signal_thread override_return set_retval get_retval
    get_attach_cookie get_func_ip get_func_arg get_func_ret get_func_arg_cnt
    get_stackid get_stack perf_event_output
    ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard ringbuf_query
    ringbuf_reserve_dynptr ringbuf_submit_dynptr ringbuf_discard_dynptr
    dynptr_from_mem dynptr_read dynptr_write dynptr_data user_ringbuf_drain
    timer_init timer_set_callback timer_start timer_cancel
    spin_lock spin_unlock
    task_storage_get task_storage_delete get_current_task get_current_task_btf task_pt_regs
    delay
    """)
)


@dataclass(frozen=True, slots=True)
class Helper:
    """The prototype of one helper, after the kernel's `struct bpf_func_proto`.

    Attributes
    ----------
    number : int
        As in the call instruction (`enum bpf_func_id`).
    name : str
        With the prefix ``bpf_``.
    arguments : tuple of Argument or None
        None: user space does not know the prototype (and has not the helper).
    result : Result
    types : frozenset of str or None
        Program types that may call it (libbpf's names); None = every tracing and networking program.
    gpl_only : bool
        Refused in programs without a GPL-compatible licence.
    userspace : bool
        The userspace runtime implements it.
    releases : int or None
        Index of the argument whose reference the call gives up.
    acquires : bool
        The result is a reference that must be released (`Helper.name` says by what: `bpf_ringbuf_submit` ...).
    sleepable : bool
        Only sleepable programs may call it.
    packet : bool
        Memory arguments may point into the packet (`pkt_access`).
    changes_packet : bool
        Invalidates every packet pointer.
    fixed_size : int
        Bytes of the ``FIXED_*`` arguments.
    bounded_result : bool
        The result is at most the preceding size argument, or a negative errno (`do_refine_retval_range`).
    """

    number: int
    name: str
    arguments: tuple[Argument, ...] | None
    result: Result
    types: frozenset[str] | None = None
    gpl_only: bool = False
    userspace: bool = False
    releases: int | None = None
    acquires: bool = False
    sleepable: bool = False
    packet: bool = False
    changes_packet: bool = False
    fixed_size: int = 0
    bounded_result: bool = False

    @property
    def registers(self) -> int:
        """How many of r1 to r5 the helper reads: bpf_trace_printk takes values that no prototype checks."""
        return 5 if self.number == 6 else len(self.arguments or ())

    @property
    def backends(self) -> tuple[str, ...]:
        """Which backends can run it: ``kernel``, ``userspace``."""
        if self.number > LAST:
            return ("userspace",)
        return ("kernel", "userspace") if self.userspace else ("kernel",)

    def allowed_in(self, program_type: str) -> bool:
        """Whether programs of this type (libbpf's name) may call the helper."""
        return self.types is None or program_type in self.types

    def missing(self) -> str:
        """The sentence for a program that needs the helper where it is not implemented."""
        return f"helper {self.name} is missing in user space; the kernel backend has it"
