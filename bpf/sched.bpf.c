/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Off-CPU time: why a thread left the CPU, who woke it, how long it then waited to run.
 *
 * A thread that leaves gets a slot that holds its stack; its waker adds its own; when the thread runs again, one
 * record with the thread's stack and, before it, one with the waker's go to the ring, joined by (tid, time). Nothing
 * is sent for waits shorter than `least`, so the filter costs no ring space.
 */
#define MAX_COPY (8 * 1024)
#include "scope.h"
#include "stack.h"

struct task_struct {
	int pid;
	int tgid;
	char comm[COMM_LENGTH];
	unsigned int __state;
} __attribute__((preserve_access_index));

enum kind { KIND_WAKER = 1, KIND_OFF = 2 };

struct event {
	__u64 time; /* of the switch-in */
	__u64 left, woken;
	__u32 pid, tid;
	__u32 cpu, state;
	__u32 waker_pid, waker_tid;
	__u32 kind, reserved;
	char comm[COMM_LENGTH], waker_comm[COMM_LENGTH];
	struct stack_head stack;
};

struct part {
	struct event head;
	__u8 body[STACK_BODY];
	__u32 used;
	__u32 filled;
};

struct slot {
	struct part off, waker;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024); /* the loader sizes it: threads that can be off the CPU at the same time */
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
} slot_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 65536);
	__uint(key_size, 0);
	__uint(value_size, 4);
} free_slots SEC(".maps");

RING(events);
PUBLISH(events, event);

#define TASK_DEAD 0x80 /* include/linux/sched.h: the last switch of a thread */

/* Shorter times off the CPU are not recorded, ns: the floor trades ring space for detail. */
const volatile __u64 least = 0;
const volatile bool wakers = true;

__u64 switches;
__u64 lost_ring_full, lost_slots_full;

static __always_inline struct slot *slot_for(__u32 tid, bool make)
{
	__u32 *known = bpf_map_lookup_elem(&slot_of, &tid), fresh = 0;

	if (known)
		return bpf_map_lookup_elem(&slots, known);
	if (!make)
		return 0;
	if (bpf_map_pop_elem(&free_slots, &fresh) || bpf_map_update_elem(&slot_of, &tid, &fresh, BPF_ANY)) {
		__sync_fetch_and_add(&lost_slots_full, 1);
		return 0;
	}
	return bpf_map_lookup_elem(&slots, &fresh);
}

static __always_inline void send(struct part *part)
{
	__u32 used = part->used;

	if (used > sizeof(part->body))
		used = sizeof(part->body);
	if (bpf_ringbuf_output(&events, part, sizeof(part->head) + used, wake_flags_for(&events, sizeof(part->head) + used)))
		__sync_fetch_and_add(&lost_ring_full, 1);
}

static __always_inline void leave(void *ctx, struct task_struct *task, __u32 state)
{
	struct slot *slot = slot_for(task->pid, true);
	struct event *e;

	if (!slot)
		return;
	slot->waker.filled = 0;
	e = &slot->off.head;
	e->left = bpf_ktime_get_ns();
	e->woken = 0;
	e->pid = task->tgid;
	e->tid = task->pid;
	e->state = state;
	e->kind = KIND_OFF;
	e->waker_pid = e->waker_tid = 0;
	bpf_probe_read_kernel(e->comm, COMM_LENGTH, task->comm);
	slot->off.used = capture_stack(ctx, &e->stack, slot->off.body);
	slot->off.filled = 1;
}

static __always_inline void enter(struct task_struct *task)
{
	struct slot *slot = slot_for(task->pid, false);
	struct event *e;

	if (!slot || !slot->off.filled)
		return;
	slot->off.filled = 0;
	e = &slot->off.head;
	e->time = bpf_ktime_get_ns();
	e->cpu = bpf_get_smp_processor_id();
	__sync_fetch_and_add(&switches, 1);
	if (e->time - e->left < least)
		return;
	if (slot->waker.filled) {
		slot->waker.head.time = e->time;
		slot->waker.head.tid = e->tid;
		slot->waker.head.kind = KIND_WAKER;
		send(&slot->waker);
	}
	send(&slot->off);
}

/* Gives the slot of a thread that is gone back. At its last switch: before that it may still leave the CPU. */
static __always_inline void forget(__u32 tid)
{
	__u32 *known = bpf_map_lookup_elem(&slot_of, &tid);

	if (known) {
		bpf_map_push_elem(&free_slots, known, BPF_ANY);
		bpf_map_delete_elem(&slot_of, &tid);
	}
}

static __always_inline bool wanted(struct task_struct *task)
{
	return !paused && in_scope_pid(task->tgid) && (__u32)task->pid != scope_left_out;
}

SEC("tp_btf/sched_switch")
int off_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];

	/* A thread that was preempted on its way to sleep is still runnable, whatever its state says. */
	__u32 state = ctx[0] ? 0 : prev->__state;

	if (state & TASK_DEAD)
		forget(prev->pid);
	else if (prev->pid && wanted(prev))
		leave(ctx, prev, state);
	if (next->pid && wanted(next))
		enter(next);
	return 0;
}

SEC("tp_btf/sched_waking")
int off_waking(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct slot *slot;
	struct event *e, *off;
	__u64 id;

	if (!wanted(task))
		return 0;
	slot = slot_for(task->pid, false);
	if (!slot || !slot->off.filled || slot->off.head.woken)
		return 0;
	id = bpf_get_current_pid_tgid();
	off = &slot->off.head;
	off->woken = bpf_ktime_get_ns();
	off->waker_pid = id >> 32;
	off->waker_tid = id;
	bpf_get_current_comm(off->waker_comm, COMM_LENGTH);
	if (!wakers)
		return 0;
	e = &slot->waker.head;
	e->pid = id >> 32;
	slot->waker.used = capture_stack(ctx, &e->stack, slot->waker.body);
	slot->waker.filled = 1;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
