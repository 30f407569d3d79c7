/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Producer of `workbench bench ring`: 64 records of 40 bytes per run (BPF_PROG_TEST_RUN), as fast as the kernel can. */
#include "workbench.h"

struct event {
	__u64 time;
	__u64 address;
	__u32 pid, tid;
	__u32 cpu, kind;
	__u64 value;
};

RING(events);
PUBLISH(events, event);

__u64 produced;
__u64 lost_ring_full;

SEC("xdp")
int produce(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	for (int i = 0; i < 64; i++) {
		struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

		if (!e) {
			lost_ring_full++;
			continue;
		}
		e->time = bpf_ktime_get_ns();
		e->address = i;
		e->pid = 1;
		e->tid = 2;
		e->cpu = cpu;
		e->kind = 3;
		e->value = produced++;
		bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
