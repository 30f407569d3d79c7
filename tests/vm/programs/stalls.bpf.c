/* SPDX-License-Identifier: GPL-2.0 */
/* A scheduler that never runs a task it was given: the kernel's watchdog has to take it away. */
#include "scheduler.h"

u64 enqueued;

/* Without it, the kernel's default would run a task on an idle CPU at once. */
OPERATION(select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	return prev_cpu;
}

OPERATION(enqueue, struct task_struct *p, u64 enq_flags)
{
	__sync_fetch_and_add(&enqueued, 1);
	scx_bpf_dsq_insert(p, 7, SCX_SLICE_DEFAULT, enq_flags);
	return 0;
}

OPERATION(dispatch, s32 cpu, struct task_struct *prev)
{
	return 0;
}

OPERATION(init)
{
	return scx_bpf_create_dsq(7, -1);
}

OPERATION(exit, struct scx_exit_info *info)
{
	note_exit(info);
	return 0;
}

SEC(".struct_ops")
struct sched_ext_ops stalls = {
	.select_cpu = (void *)op_select_cpu,
	.enqueue = (void *)op_enqueue,
	.dispatch = (void *)op_dispatch,
	.init = (void *)op_init,
	.exit = (void *)op_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.timeout_ms = 1000,
	.name = "stalls",
};

char LICENSE[] SEC("license") = "GPL";
