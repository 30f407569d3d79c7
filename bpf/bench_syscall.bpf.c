/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Programs of `workbench bench syscall`: a count per CPU at the entry and at the exit of system calls. */
#include "workbench.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 3);
} counts SEC(".maps");

static __always_inline int add(__u32 key)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &key);

	if (value)
		*value += 1;
	return 0;
}

SEC("raw_tp/sys_enter")
int enter(struct bpf_raw_tracepoint_args *ctx)
{
	return add(0);
}

SEC("raw_tp/sys_exit")
int leave(struct bpf_raw_tracepoint_args *ctx)
{
	return add(1);
}

SEC("tracepoint/syscalls/sys_enter_openat")
int opened(void *ctx)
{
	return add(2);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
