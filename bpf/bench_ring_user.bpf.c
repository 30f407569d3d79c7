/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Producer of `workbench bench ring-user`: 64 records of 40 bytes per run, which say who made them and in which order.
 * The same object runs in the kernel (BPF_PROG_TEST_RUN) and in user space, by many producers at a time.
 */
#include "workbench.h"

struct event {
	__u64 producer; /* thread group and thread */
	__u64 number;   /* of the producer's records, without a gap */
	__u64 check;    /* producer ^ number */
	__u64 turn;
	__u64 end;      /* ~number */
};

struct count {
	__u64 made, refused;
};

RING(events);
PUBLISH(events, event);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

SEC("xdp")
int produce(void *ctx)
{
	__u32 zero = 0;
	struct count *count = bpf_map_lookup_elem(&counts, &zero);
	__u64 producer = bpf_get_current_pid_tgid(), number;

	if (!count)
		return 1;
	number = count->made;
	for (int i = 0; i < 64; i++) {
		struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

		if (!e) {
			count->refused++;
			continue;
		}
		e->producer = producer;
		e->number = number;
		e->check = producer ^ number;
		e->turn = i;
		e->end = ~number;
		number++;
		bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	}
	count->made = number;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
