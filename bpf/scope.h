/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Which tasks a system-wide hook records: every task, or the processes in `targets` and what they fork.
 *
 * The key is the thread group id in the initial pid namespace. Children are added by the fork tracepoint before they
 * first run, so none of their events is missed. An object that includes this has to attach `scope_fork` and
 * `scope_exit` when `scope_machine` is false.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include "window.h"
#include "workbench.h"

/* True records the whole machine. */
const volatile bool scope_machine = false;
/* A thread that is never in scope: the recorder's own, when a process records itself. */
const volatile __u32 scope_left_out = 0;
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
	__u64 id = bpf_get_current_pid_tgid();

	return !paused && in_scope_pid(id >> 32) && (__u32)id != scope_left_out;
}

/* The raw tracepoint's arguments are (parent, child) task pointers: stable where the formatted layout is not. */
struct signal_struct___scope {
	struct {
		int counter;
	} live;
} __attribute__((preserve_access_index));

struct task_struct___scope {
	int pid;
	int tgid;
	struct signal_struct___scope *signal;
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
int scope_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___scope *task = (void *)ctx->args[0];
	struct signal_struct___scope *signal = 0;
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	int live = 0;

	if (scope_machine)
		return 0;
	/* The main thread may end before others; the process is gone with the last of them. */
	bpf_probe_read_kernel(&signal, sizeof(signal), __builtin_preserve_access_index(&task->signal));
	bpf_probe_read_kernel(&live, sizeof(live), __builtin_preserve_access_index(&signal->live.counter));
	if (live <= 0)
		bpf_map_delete_elem(&targets, &tgid);
	return 0;
}

#endif
