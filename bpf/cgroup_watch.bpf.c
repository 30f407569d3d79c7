/* SPDX-License-Identifier: GPL-2.0 */
/* Who enters a cgroup or one below it, and who leaves: for a scheduler whose scope is that cgroup.
 *
 * A scheduler has the tasks of policy SCHED_EXT. What a task forks has its policy, so only two events ask for a change:
 * a process is moved, and one is forked into another cgroup than its parent's (clone3 with CLONE_INTO_CGROUP, or a
 * parent that may not pass its policy on). Each is reported when the policy does not fit where the process is now.
 */
#include "workbench.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define SCHED_EXT 7

#define DEEPEST 64 /* levels of cgroups that are looked at */

/* Inode number of the cgroup's folder. */
const volatile __u64 scope_cgroup = 0;

/* Records that found no room: the reader looks at the whole cgroup then. */
__u64 lost_ring_full;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	__u64 id;
};
struct cgroup {
	struct kernfs_node *kn;
	int level;
	struct cgroup *ancestors[1];
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
struct task_struct {
	int tgid;
	unsigned int policy;
	struct css_set *cgroups;
};
#pragma clang attribute pop

struct moved {
	__u32 tgid;
	__u32 inside; /* 1: it entered; 0: it left */
};
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} moves SEC(".maps");
PUBLISH(moves, moved);

static __always_inline bool inside(const struct task_struct *task)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp), *ancestor = 0;
	struct cgroup **ancestors = __builtin_preserve_access_index(&cgroup->ancestors[0]);
	int level = BPF_CORE_READ(cgroup, level);

	for (int i = 0; i < DEEPEST && i <= level; i++) {
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor), ancestors + i);
		if (BPF_CORE_READ(ancestor, kn, id) == scope_cgroup)
			return true;
	}
	return false;
}

static __always_inline void report(const struct task_struct *task)
{
	bool in = inside(task), has = BPF_CORE_READ(task, policy) == SCHED_EXT;
	struct moved *one;

	if (in == has)
		return;
	one = bpf_ringbuf_reserve(&moves, sizeof(*one), 0);
	if (!one) {
		__sync_fetch_and_add(&lost_ring_full, 1);
		return;
	}
	one->tgid = BPF_CORE_READ(task, tgid);
	one->inside = in;
	bpf_ringbuf_submit(one, 0);
}

/* After the move; for a whole process once, with its first thread. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(attached, struct cgroup *to, const char *path, struct task_struct *task, bool whole)
{
	report(task);
	return 0;
}

/* Before the child runs. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(forked, struct task_struct *parent, struct task_struct *child)
{
	report(child);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
