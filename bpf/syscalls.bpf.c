/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* System call latency histograms, counted where the calls are made: no event is sent. Buckets are log-linear, four per
 * octave, so a bucket is at most 25 % wide.
 */
#include "scope.h"

/* True in user space: a signal handler's calls lie between entry and exit of the call that the signal interrupted. The
 * kernel ends that call first.
 */
const volatile bool nested = false;

struct pt_regs___calls {
#if defined(__TARGET_ARCH_x86)
	unsigned long orig_ax;
#else
	int syscallno;
#endif
} __attribute__((preserve_access_index));

struct key {
	__u32 pid;
	__u32 nr;
	__u32 bucket;
	__u32 reserved;
};

struct cell {
	__u64 count, errors, total;
	char comm[COMM_LENGTH];
};

struct entry {
	__u64 time;
	__u64 nr;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct key);
	__type(value, struct cell);
} cells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* threads that die inside a call (exit) leave theirs behind */
	__uint(max_entries, 32768);
	__type(key, __u64); /* thread; with `nested`, thread and number */
	__type(value, struct entry);
} entries SEC(".maps");

__u64 calls;
__u64 lost_map_full;

static __always_inline __u32 bucket_of(__u64 value)
{
	__u32 bit = 0;
	__u64 rest = value;

	if (value < 4)
		return value;
#define STEP(n)                \
	if (rest >> n) {       \
		rest >>= n;    \
		bit += n;      \
	}
	STEP(32) STEP(16) STEP(8) STEP(4) STEP(2) STEP(1)
#undef STEP
	return (bit - 1) * 4 + ((value >> (bit - 2)) & 3);
}

SEC("raw_tp/sys_enter")
int syscall_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct entry entry = { .nr = ctx->args[1] };
	__u64 thread = bpf_get_current_pid_tgid() << 32;

	if (!in_scope())
		return 0;
	if (nested)
		thread |= (__u32)entry.nr;
	entry.time = bpf_ktime_get_ns();
	bpf_map_update_elem(&entries, &thread, &entry, BPF_ANY);
	return 0;
}

SEC("raw_tp/sys_exit")
int syscall_exit(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), thread = id << 32, took;
	struct entry *entry;
	struct key key = {};
	struct cell *cell, fresh = {};
	long result = ctx->args[1];

	if (!in_scope())
		return 0;
	if (nested) {
		struct pt_regs___calls *registers = (void *)ctx->args[0];
		__u32 number = 0;
#if defined(__TARGET_ARCH_x86)
		bpf_probe_read_kernel(&number, sizeof(number), &registers->orig_ax);
#else
		bpf_probe_read_kernel(&number, sizeof(number), &registers->syscallno);
#endif
		thread |= number;
	}
	entry = bpf_map_lookup_elem(&entries, &thread);
	if (!entry)
		return 0;
	took = bpf_ktime_get_ns() - entry->time;
	key.pid = id >> 32;
	key.nr = entry->nr;
	key.bucket = bucket_of(took);
	bpf_map_delete_elem(&entries, &thread);
	__sync_fetch_and_add(&calls, 1);
	cell = bpf_map_lookup_elem(&cells, &key);
	if (!cell) {
		bpf_get_current_comm(fresh.comm, COMM_LENGTH);
		bpf_map_update_elem(&cells, &key, &fresh, BPF_NOEXIST);
		cell = bpf_map_lookup_elem(&cells, &key);
		if (!cell) {
			__sync_fetch_and_add(&lost_map_full, 1);
			return 0;
		}
	}
	__sync_fetch_and_add(&cell->count, 1);
	__sync_fetch_and_add(&cell->total, took);
	if (result < 0 && result >= -4095)
		__sync_fetch_and_add(&cell->errors, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
