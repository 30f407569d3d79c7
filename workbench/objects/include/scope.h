/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Which tasks a system-wide hook records: every task, or the processes in `targets` and what they fork.
 *
 * The key is the thread group id in the initial pid namespace. Children are added by the fork tracepoint before they
 * first run, so none of their events is missed. An object that includes this has to attach `scope_fork` and
 * `scope_exit` when `scope_machine` is false.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include "workbench.h"

/* True records the whole machine. */
const volatile bool scope_machine = false;
/* True adds processes forked by a target. */
const volatile bool scope_follow = true;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} targets SEC(".maps");

static __always_inline bool in_scope_pid(__u32 tgid)
{
	return scope_machine || bpf_map_lookup_elem(&targets, &tgid);
}

static __always_inline bool in_scope(void)
{
	return in_scope_pid(bpf_get_current_pid_tgid() >> 32);
}

/* The raw tracepoint's arguments are (parent, child) task pointers: stable where the formatted layout is not. */
struct task_struct___scope {
	int pid;
	int tgid;
} __attribute__((preserve_access_index));

SEC("raw_tp/sched_process_fork")
int scope_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___scope *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	__u32 from = 0, to = 0;
	__u8 one = 1;

	if (scope_machine || !scope_follow)
		return 0;
	bpf_probe_read_kernel(&from, sizeof(from), __builtin_preserve_access_index(&parent->tgid));
	bpf_probe_read_kernel(&to, sizeof(to), __builtin_preserve_access_index(&child->tgid));
	if (from != to && bpf_map_lookup_elem(&targets, &from))
		bpf_map_update_elem(&targets, &to, &one, BPF_ANY);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int scope_exit(void *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tgid = id >> 32;

	if (!scope_machine && tgid == (__u32)id)
		bpf_map_delete_elem(&targets, &tgid);
	return 0;
}

#endif
