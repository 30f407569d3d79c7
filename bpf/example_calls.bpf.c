/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The example of notebook 03: who calls which function how often, how large an argument is, what comes back.
 *
 * The cookie of an attachment says which function it is. One object for both backends: nothing here knows of them.
 */
#include "workbench.h"

/* Words of struct pt_regs. */
#if defined(__TARGET_ARCH_x86)
enum { THIRD = 12, RESULT = 10 };
#else
enum { THIRD = 2, RESULT = 0 };
#endif

#define FUNCTIONS 8
#define POWERS 64

struct call {
	__u64 function;
	__s64 argument;
	__u32 pid, tid;
};

RING(calls);
PUBLISH(calls, call);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FUNCTIONS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POWERS);
	__type(key, __u32);
	__type(value, __u64);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

__u64 lost; /* records that found the ring full */

static __always_inline __u32 power_of_two(__u64 value)
{
	__u32 power = 0;

	for (__u32 step = 32; step; step /= 2) {
		if (value >> step) {
			value >>= step;
			power += step;
		}
	}
	return power;
}

/* What the cost of a hit is measured with. */
SEC("uprobe") int count(__u64 *ctx)
{
	__u32 function = bpf_get_attach_cookie(ctx);
	__u64 *calls_of = bpf_map_lookup_elem(&counts, &function);

	if (calls_of)
		*calls_of += 1;
	return 0;
}

/* A call whose third argument is a number. */
SEC("uprobe") int called(__u64 *ctx)
{
	__u32 function = bpf_get_attach_cookie(ctx), power = power_of_two(ctx[THIRD]);
	__u64 *calls_of = bpf_map_lookup_elem(&counts, &function);
	__u64 *in_power = bpf_map_lookup_elem(&sizes, &power);
	struct call *call;

	if (calls_of)
		*calls_of += 1;
	if (in_power)
		__sync_fetch_and_add(in_power, 1);
	call = bpf_ringbuf_reserve(&calls, sizeof(*call), 0);
	if (!call) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	call->function = function;
	call->argument = ctx[THIRD];
	call->pid = bpf_get_current_pid_tgid() >> 32;
	call->tid = bpf_get_current_pid_tgid();
	bpf_ringbuf_submit(call, 0);
	return 0;
}

SEC("uretprobe") int returned(__u64 *ctx)
{
	__u32 result = ctx[RESULT];
	__u64 one = 1, *seen = bpf_map_lookup_elem(&results, &result);

	if (seen)
		__sync_fetch_and_add(seen, 1);
	else
		bpf_map_update_elem(&results, &result, &one, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
