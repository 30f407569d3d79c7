/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Hardware watchpoint hits: one record per access of a watched address, with the registers and the code bytes from
 * which user space finds the accessing instruction, the value before and after where asked, and the stacks.
 *
 * The breakpoint events are opened per thread by user space. A hit costs tens of microseconds, nearly all of it the
 * debug exception itself, so the budget is counted here: past it the hit is only counted, and the reader is woken to
 * disarm the events.
 */
#include <linux/bpf_perf_event.h>
#include "stack.h"

#if defined(__TARGET_ARCH_x86)
#define REGISTERS 21 /* struct pt_regs: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi - rip cs flags rsp ss */
#else
#define REGISTERS 34 /* struct user_pt_regs of arm64: x0..x30 sp pc pstate */
#endif
#define CODE_BYTES 32 /* half of it before the instruction pointer */

enum { KNOWS_BEFORE = 1, KNOWS_AFTER = 2, KNOWS_CODE = 4 };

struct hit {
	__u64 time;
	__u32 pid, tid;
	__u32 cpu, flags;
	__u64 address, size;
	__u64 before, after;
	__u64 registers[REGISTERS];
	__u8 code[CODE_BYTES];
	char comm[COMM_LENGTH];
	struct stack_head stack;
};

struct scratch {
	struct hit head;
	__u8 body[STACK_BODY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* What user space arms, by watched address. */
struct place {
	__u64 size;
	__u64 hits;     /* traps taken */
	__u64 recorded; /* of these, records sent */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct place);
} places SEC(".maps");

/* The value seen last, per process and address. */
struct memory {
	__u64 address;
	__u32 pid;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct memory);
	__type(value, __u64);
} values SEC(".maps");

RING(hits);
PUBLISH(hits, hit);

const volatile bool want_values = false;
const volatile bool want_stacks = false;

__s64 budget = 0; /* hits that may still be recorded in all */
__s64 window = 0; /* and until user space renews this */
__u64 taken;
__u64 lost_ring_full;
__u64 lost_budget_spent;
__u64 lost_rate_limited;

/* True if the hit may be recorded; wakes the reader at the one that spends the last. */
static __always_inline bool allowed(bool *last)
{
	__s64 left = __sync_fetch_and_add(&budget, -1);

	if (left <= 0) {
		__sync_fetch_and_add(&lost_budget_spent, 1);
		return false;
	}
	*last = left == 1;
	left = __sync_fetch_and_add(&window, -1);
	if (left <= 0) {
		__sync_fetch_and_add(&budget, 1);
		__sync_fetch_and_add(&lost_rate_limited, 1);
		return false;
	}
	*last |= left == 1;
	return true;
}

static __always_inline void read_values(struct hit *hit, const struct place *place)
{
	struct memory key = { .address = hit->address, .pid = hit->pid };
	__u64 *known, now = 0;
	__u32 size = place->size & 15;

	known = bpf_map_lookup_elem(&values, &key);
	if (known) {
		hit->before = *known;
		hit->flags |= KNOWS_BEFORE;
	}
	if (size > 8 || bpf_probe_read_user(&now, size, (void *)hit->address))
		return;
#if defined(__TARGET_ARCH_arm64)
	/* Here the trap comes before the access. */
	hit->before = now;
	hit->flags |= KNOWS_BEFORE;
	return;
#endif
	hit->after = now;
	hit->flags |= KNOWS_AFTER;
	if (known)
		*known = now;
	else
		bpf_map_update_elem(&values, &key, &now, BPF_ANY);
}

SEC("perf_event")
int on_access(struct bpf_perf_event_data *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), used = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &cpu);
	__u64 id = bpf_get_current_pid_tgid(), address = ctx->addr, ip;
	struct place *place;
	bool last = false;

	__sync_fetch_and_add(&taken, 1);
	place = bpf_map_lookup_elem(&places, &address);
	if (!s || !place)
		return 0;
	__sync_fetch_and_add(&place->hits, 1);
	if (!allowed(&last))
		return 0;
	s->head.time = bpf_ktime_get_ns();
	s->head.pid = id >> 32;
	s->head.tid = id;
	s->head.cpu = cpu;
	s->head.flags = 0;
	s->head.address = address;
	s->head.size = place->size;
	s->head.before = s->head.after = 0;
#if defined(__TARGET_ARCH_x86)
	ip = ctx->regs.rip;
#else
	ip = ctx->regs.pc;
#endif
#pragma unroll
	for (int i = 0; i < REGISTERS; i++)
		s->head.registers[i] = ((__u64 *)&ctx->regs)[i];
	bpf_get_current_comm(s->head.comm, COMM_LENGTH);
	if ((__s64)ip < 0 ? !bpf_probe_read_kernel(s->head.code, CODE_BYTES, (void *)(ip - CODE_BYTES / 2)) :
			    !bpf_probe_read_user(s->head.code, CODE_BYTES, (void *)(ip - CODE_BYTES / 2)))
		s->head.flags |= KNOWS_CODE;
	else
		__builtin_memset(s->head.code, 0, CODE_BYTES);
	if (want_values)
		read_values(&s->head, place);
	if (want_stacks)
		used = capture_stack(ctx, &s->head.stack, s->body);
	else
		__builtin_memset(&s->head.stack, 0, sizeof(s->head.stack));
	if (used > sizeof(s->body))
		used = sizeof(s->body);
	if (bpf_ringbuf_output(&hits, s, sizeof(s->head) + used, last ? BPF_RB_FORCE_WAKEUP : wake_flags(&hits)))
		__sync_fetch_and_add(&lost_ring_full, 1);
	else
		__sync_fetch_and_add(&place->recorded, 1);
	return 0;
}

/* A forked child starts with its parent's memory: it starts with what was seen there last. */
#define MAX_PLACES 4
__u64 armed[MAX_PLACES];

struct task_struct___watch {
	int tgid;
} __attribute__((preserve_access_index));

SEC("raw_tp/sched_process_fork")
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___watch *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	__u32 from = 0, to = 0;

	bpf_probe_read_kernel(&from, sizeof(from), __builtin_preserve_access_index(&parent->tgid));
	bpf_probe_read_kernel(&to, sizeof(to), __builtin_preserve_access_index(&child->tgid));
	if (from == to)
		return 0;
	for (int i = 0; i < MAX_PLACES; i++) {
		struct memory key = { .address = armed[i], .pid = from };
		__u64 *value, copy;

		if (!key.address)
			continue;
		value = bpf_map_lookup_elem(&values, &key);
		if (!value)
			continue;
		copy = *value;
		key.pid = to;
		bpf_map_update_elem(&values, &key, &copy, BPF_ANY);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
