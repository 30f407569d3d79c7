/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* CPU samples: one record with the stacks per sampling event. */
#include "stack.h"

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
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

RING(samples);
PUBLISH(samples, sample);

__u64 taken;
__u64 lost_ring_full;

SEC("perf_event")
int sample_cpu(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), used;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &cpu);
	__u64 id = bpf_get_current_pid_tgid();

	__sync_fetch_and_add(&taken, 1);
	if (!s)
		return 0;
	s->head.time = bpf_ktime_get_ns();
	s->head.pid = id >> 32;
	s->head.tid = id;
	s->head.cpu = cpu;
	s->head.reserved = 0;
	bpf_get_current_comm(s->head.comm, COMM_LENGTH);
	used = capture_stack(ctx, &s->head.stack, s->body);
	if (used > sizeof(s->body))
		used = sizeof(s->body);
	if (bpf_ringbuf_output(&samples, s, sizeof(s->head) + used, wake_flags_for(&samples, sizeof(s->head) + used)))
		__sync_fetch_and_add(&lost_ring_full, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
