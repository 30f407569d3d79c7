/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* CPU samples: one record with the stacks per sampling event. */
#include "stack.h"
#include "window.h"

struct sample {
	__u64 time;
	__u32 pid, tid;
	__u32 cpu, reserved;
	char comm[COMM_LENGTH];
	struct stack_head stack;
};

struct scratch {
	struct sample head;
	__u8 body[STACK_BODY];
	__u32 busy, reserved;
};

/* A program in user space may be preempted by one of another thread on the same CPU. */
#define SLOTS 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets SLOTS for each possible CPU */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

RING(samples);
PUBLISH(samples, sample);

__u64 taken;
__u64 lost_ring_full;
__u64 lost_nested;

static __always_inline struct scratch *take_scratch(void)
{
	__u32 first = bpf_get_smp_processor_id() * SLOTS;

	for (int i = 0; i < SLOTS; i++) {
		__u32 at = first + i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &at);

		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	__sync_fetch_and_add(&lost_nested, 1);
	return 0;
}

SEC("perf_event")
int sample_cpu(void *ctx)
{
	struct scratch *s;
	__u32 used;
	__u64 id = bpf_get_current_pid_tgid();

	if (paused)
		return 0;
	s = take_scratch();
	__sync_fetch_and_add(&taken, 1);
	if (!s)
		return 0;
	s->head.time = bpf_ktime_get_ns();
	s->head.pid = id >> 32;
	s->head.tid = id;
	s->head.cpu = bpf_get_smp_processor_id();
	s->head.reserved = 0;
	bpf_get_current_comm(s->head.comm, COMM_LENGTH);
	used = capture_stack(ctx, &s->head.stack, s->body);
	if (used > sizeof(s->body))
		used = sizeof(s->body);
	if (bpf_ringbuf_output(&samples, s, sizeof(s->head) + used, wake_flags_for(&samples, sizeof(s->head) + used)))
		__sync_fetch_and_add(&lost_ring_full, 1);
	__sync_lock_test_and_set(&s->busy, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
