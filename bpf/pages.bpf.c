/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Page faults with the faulting instruction and data address.
 *
 * `fault_tracepoint` sits on the exception tracepoints, which know read from write (x86). `fault_event` sits on the
 * software page-fault event, which every architecture has.
 */
#define MAX_COPY (16 * 1024)
#include "scope.h"
#include "stack.h"
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <bpf/bpf_tracing.h>

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE, ACCESS_UNKNOWN };

struct event {
	__u64 time;
	__u64 address, ip;
	__u32 pid, tid;
	__u32 cpu;
	__u8 access, user;
	__u16 reserved;
	char comm[COMM_LENGTH];
	struct stack_head stack;
};

struct scratch {
	struct event head;
	__u8 body[STACK_BODY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

RING(events);
PUBLISH(events, event);

/* Stacks cost more than the fault itself; off by default. */
const volatile bool stacks = false;

__u64 faults;
__u64 lost_ring_full;

static __always_inline int record(void *ctx, __u64 address, __u64 ip, __u8 access, __u8 user)
{
	__u32 cpu = bpf_get_smp_processor_id(), used = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &cpu);
	__u64 id = bpf_get_current_pid_tgid();

	if (!s)
		return 0;
	__sync_fetch_and_add(&faults, 1);
	s->head.time = bpf_ktime_get_ns();
	s->head.address = address;
	s->head.ip = ip;
	s->head.pid = id >> 32;
	s->head.tid = id;
	s->head.cpu = cpu;
	s->head.access = access;
	s->head.user = user;
	s->head.reserved = 0;
	bpf_get_current_comm(s->head.comm, COMM_LENGTH);
	s->head.stack.copied = 0;
	s->head.stack.kernel_frames = s->head.stack.user_frames = 0;
	if (stacks)
		used = capture_stack(ctx, &s->head.stack, s->body);
	if (used > sizeof(s->body))
		used = sizeof(s->body);
	if (bpf_ringbuf_output(&events, s, sizeof(s->head) + used, wake_flags_for(&events, sizeof(s->head) + used)))
		__sync_fetch_and_add(&lost_ring_full, 1);
	return 0;
}

/* Arguments: address, registers, error code (arch/x86/include/asm/trace/exceptions.h); bits of the error code:
 * 1 write, 2 user, 4 instruction fetch (arch/x86/include/asm/trap_pf.h). */
static __always_inline int from_tracepoint(struct bpf_raw_tracepoint_args *ctx, __u8 user)
{
	__u64 code = ctx->args[2], ip = 0;

	if (!in_scope())
		return 0;
#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_kernel(&ip, 8, &((struct pt_regs___x86 *)ctx->args[1])->ip);
#endif
	return record(ctx, ctx->args[0], ip, code & 16 ? ACCESS_EXECUTE : code & 2 ? ACCESS_WRITE : ACCESS_READ, user);
}

SEC("raw_tp/page_fault_user")
int fault_user(struct bpf_raw_tracepoint_args *ctx)
{
	return from_tracepoint(ctx, 1);
}

struct task_struct___fault {
	int pagefault_disabled;
} __attribute__((preserve_access_index));

SEC("raw_tp/page_fault_kernel")
int fault_kernel(struct bpf_raw_tracepoint_args *ctx)
{
	/* Another probe that looked at memory which is not there: the kernel gives up at once and maps nothing. */
	if (((struct task_struct___fault *)bpf_get_current_task_btf())->pagefault_disabled)
		return 0;
	return from_tracepoint(ctx, 0);
}

SEC("perf_event")
int fault_event(struct bpf_perf_event_data *ctx)
{
	__u64 ip = PT_REGS_IP(&ctx->regs);

	if (paused)
		return 0;
	return record(ctx, ctx->addr, ip, ACCESS_UNKNOWN, (long)ip >= 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
