/* SPDX-License-Identifier: GPL-2.0 */
/* SchedCoz's queues: giving those that have paid back to the CPUs (R2), and finding a CPU for a task that is ready (R8). */
#ifndef SCHEDCOZ_QUEUES_H
#define SCHEDCOZ_QUEUES_H

#include "schedcoz_state.h"

/* Give those that have paid back to the CPUs. Returns the nanoseconds until the next one has; 0: nobody pays. */
static __always_inline u64 release_payers(void)
{
	u64 now = bpf_ktime_get_ns(), soonest = 0, due;
	struct bpf_iter_scx_dsq it;
	struct task_state *state;
	struct task_struct *p;
	u32 cpu;

	bpf_iter_scx_dsq_new(&it, PAY, 0);
	while ((p = bpf_iter_scx_dsq_next(&it))) {
		state = state_of(p);
		if (!state)
			continue;
		due = schedcoz_due(&state->clock, &experiment, global_clock, now);
		if (due) {
			due = expected(due);
			if (!soonest || due < soonest)
				soonest = due;
			continue;
		}
		if (!__sync_bool_compare_and_swap(&state->paying, 1, 0))
			continue;
		__sync_fetch_and_add(&counters.paid, now - state->clock.pay_start);
		COUNT(released);
		schedcoz_release(&state->clock, now);
		cpu = state->holds;
		state->holds = 0;
		scx_bpf_dsq_move_set_slice(&it, state->slice_left ?: slice_ns);
		if (cpu) {
			__sync_fetch_and_sub(&cpu_of(cpu - 1)->held, 1);
			scx_bpf_dsq_move(&it, p, SCX_DSQ_LOCAL_ON | (cpu - 1), 0);
			scx_bpf_kick_cpu(cpu - 1, SCX_KICK_IDLE);
		} else {
			state->met_idle = another_is_free(MAX_CPUS, now);
			scx_bpf_dsq_move_set_vtime(&it, p->scx.dsq_vtime);
			scx_bpf_dsq_move_vtime(&it, p, READY, 0);
			/* The CPU that looks may be kept for another, or take only the first. */
			if (state->met_idle)
				kick_free(now);
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return soonest;
}

static int on_timer(void *map, u32 *key, struct pay_timer *timer)
{
	u64 soonest, now, due;
	bool waiting;
	u32 i;

	bpf_rcu_read_lock();
	soonest = release_payers();
	bpf_rcu_read_unlock();
	now = bpf_ktime_get_ns();
	waiting = scx_bpf_dsq_nr_queued(READY) > 0;
	if (waiting)
		bpf_for(i, 0, cpu_count) {
			due = cpu_due(cpu_of(i), now);
			if (due && (!soonest || due < soonest))
				soonest = due;
			if (!due && !cpu_of(i)->held)
				scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
		}
	if (soonest)
		arm(soonest);
	return 0;
}

/* R3: whether a task that becomes ready has a CPU that nobody uses, on the clocks either. */
static __always_inline bool has_free_cpu(struct task_struct *p, u64 now)
{
	u32 i;

	bpf_for(i, 0, cpu_count)
		if (bpf_cpumask_test_cpu(i, p->cpus_ptr) && is_free(cpu_of(i), now))
			return true;
	return false;
}

/* Wake a CPU for a task that waits in READY; or stop one whose task is far ahead in service. Whether a CPU was idle. */
static __always_inline bool find_cpu(struct task_struct *p, u64 now, bool woken)
{
	u64 furthest = 0, due_soonest = 0;
	s32 best = -1, victim = -1;
	u32 i;

	bpf_for(i, 0, cpu_count) {
		struct cpu_state *cpu = cpu_of(i);
		u64 due;

		if (!bpf_cpumask_test_cpu(i, p->cpus_ptr))
			continue;
		if (cpu->clock.running) {
			u64 ahead = cpu->vtime + (now - cpu->ran_at);

			if (ahead > furthest) {
				furthest = ahead;
				victim = i;
			}
			continue;
		}
		if (cpu->held)
			continue;
		due = cpu_due(cpu, now);
		if (due) {
			schedcoz_refused(&cpu->clock, now);
			if (!due_soonest || due < due_soonest)
				due_soonest = due;
			continue;
		}
		/* An idle CPU may be missed just as it goes idle: a kick looks again. */
		scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
		best = i;
	}
	if (best >= 0)
		return true;
	if (due_soonest)
		arm(due_soonest);
	if (woken && preempt_ns && victim >= 0 && furthest > p->scx.dsq_vtime + preempt_ns)
		scx_bpf_kick_cpu(victim, SCX_KICK_PREEMPT);
	return false;
}

#endif
