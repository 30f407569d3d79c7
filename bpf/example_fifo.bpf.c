/* SPDX-License-Identifier: GPL-2.0 */
/* A whole scheduler to start from: one queue for all CPUs, first come, first served.
 *
 * Only tasks of the SCHED_EXT policy are scheduled by it (SCX_OPS_SWITCH_PARTIAL); all others stay with the kernel's
 * own scheduler. notebooks/05-build-a-scheduler.ipynb loads it, watches its counters and changes it.
 */
#include "scheduler.h"

/* Longest time that a task runs before the next one gets its CPU, in nanoseconds. */
const volatile u64 slice_ns = SCX_SLICE_DEFAULT;

/* Read live from Python: loaded.globals["enqueued"][()]. */
u64 enqueued, started, waited_ns;

#define QUEUE 0

struct waiting {
	u64 since;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct waiting);
} waits SEC(".maps");

OPERATION(select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;

	return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
}

/* A task wants a CPU: to the end of the queue. */
OPERATION(enqueue, struct task_struct *p, u64 enq_flags)
{
	struct waiting *wait = bpf_task_storage_get(&waits, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (wait)
		wait->since = bpf_ktime_get_ns();
	__sync_fetch_and_add(&enqueued, 1);
	scx_bpf_dsq_insert(p, QUEUE, slice_ns, enq_flags);
	return 0;
}

/* A CPU wants a task: the first of the queue. */
OPERATION(dispatch, s32 cpu, struct task_struct *prev)
{
	scx_bpf_dsq_move_to_local(QUEUE);
	return 0;
}

OPERATION(running, struct task_struct *p)
{
	struct waiting *wait = bpf_task_storage_get(&waits, p, 0, 0);

	__sync_fetch_and_add(&started, 1);
	if (wait && wait->since) {
		__sync_fetch_and_add(&waited_ns, bpf_ktime_get_ns() - wait->since);
		wait->since = 0;
	}
	return 0;
}

OPERATION(init)
{
	return scx_bpf_create_dsq(QUEUE, -1);
}

OPERATION(exit, struct scx_exit_info *info)
{
	note_exit(info);
	return 0;
}

SEC(".struct_ops")
struct sched_ext_ops example_fifo = {
	.select_cpu = (void *)op_select_cpu,
	.enqueue = (void *)op_enqueue,
	.dispatch = (void *)op_dispatch,
	.running = (void *)op_running,
	.init = (void *)op_init,
	.exit = (void *)op_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.timeout_ms = 5000,
	.name = "example_fifo",
};

char LICENSE[] SEC("license") = "GPL";
