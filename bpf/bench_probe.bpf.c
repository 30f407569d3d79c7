/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Programs of `workbench bench probe`: a count per CPU, and a record of 40 bytes for each entry with its return. */
#include "workbench.h"

/* Words of struct pt_regs. */
#if defined(__TARGET_ARCH_x86)
enum { ARGUMENT = 14, RESULT = 10, ADDRESS = 16, STACK = 19 };
#else
enum { ARGUMENT = 0, RESULT = 0, ADDRESS = 32, STACK = 31 };
#endif

struct call {
	__u64 number, argument, result;
	__u64 address, stack;
};

RING(calls);
PUBLISH(calls, call);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct call);
	__uint(max_entries, 1);
} inside SEC(".maps");

SEC("uprobe")
int count(__u64 *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		*value += 1;
	return 0;
}

SEC("uprobe")
int entered(__u64 *ctx)
{
	__u32 key = 0;
	struct call *call = bpf_map_lookup_elem(&inside, &key);

	if (call) {
		call->number++;
		call->argument = ctx[ARGUMENT];
		call->address = ctx[ADDRESS];
		call->stack = ctx[STACK];
	}
	return 0;
}

SEC("uretprobe")
int returned(__u64 *ctx)
{
	__u32 key = 0, lost = 1;
	struct call *call = bpf_map_lookup_elem(&inside, &key), *record;

	if (!call)
		return 0;
	record = bpf_ringbuf_reserve(&calls, sizeof(*record), 0);
	if (!record) {
		__u64 *value = bpf_map_lookup_elem(&counts, &lost);

		if (value)
			*value += 1;
		return 0;
	}
	record->number = call->number;
	record->argument = call->argument;
	record->address = call->address;
	record->stack = call->stack;
	record->result = ctx[RESULT];
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
