/* SPDX-License-Identifier: GPL-2.0 */
/* SchedCoz: causal profiling inside the scheduler. The rules (R1 to R9) are in schedcoz_rules.h; this file holds the
 * mechanism that carries them out with sched_ext.
 *
 * Tasks that are ready wait in READY, in order of the service they had (weighted, on the virtual clock: R9). A task
 * that owes is moved to PAY, in order of when it will have paid; one timer, and every dispatch, moves those that have
 * paid back. A running debtor is stopped by a kick, after which the core enqueues it and it is parked. A payer that was
 * stopped in its slice keeps its CPU (`held`), and a CPU that on the clocks is still in use gets no task (R8).
 *
 * The scope is the tasks of the SCHED_EXT policy; who is in it is the controller's business (cgroups too).
 *
 * The controller writes `experiment` (its `number` last but one, `active` last) and reads counters and points.
 */
#include "schedcoz_observe.h"
#include "schedcoz_queues.h"
#include "schedcoz_state.h"

OPERATION(select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool is_idle = false;

	return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
}

OPERATION(enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_state *state = state_of(p);
	u64 now = bpf_ktime_get_ns(), due, slice;
	bool woken;
	u32 cpu;

	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_GLOBAL, slice_ns, enq_flags);
		scx_bpf_kick_cpu(scx_bpf_task_cpu(p), SCX_KICK_IDLE);
		return 0;
	}
	/* Taken out of PAY by the core (a change of affinity, say) and put back. */
	if (state->clock.flags & SCHEDCOZ_PAYING && __sync_bool_compare_and_swap(&state->paying, 1, 0)) {
		schedcoz_release(&state->clock, now);
		if (state->holds)
			__sync_fetch_and_sub(&cpu_of(state->holds - 1)->held, 1);
		state->holds = 0;
	}
	cpu = state->stopped_on;
	woken = !cpu;
	state->stopped_on = 0;
	/* Sleepers may not save up service: at most a slice is kept. One that was stopped keeps its place, else every payment
	 * would put it further back.
	 */
	if (woken && p->scx.dsq_vtime + slice_ns < vtime_now)
		p->scx.dsq_vtime = vtime_now - slice_ns;
	slice = state->slice_left ?: slice_ns;
	if (owes_first(p, state, has_free_cpu(p, now))) {
		schedcoz_park(&state->clock, now, cpu != 0);
		COUNT(payments);
		if (cpu && state->slice_left && !(experiment.without & SCHEDCOZ_WITHOUT_HOLDING)) {
			state->holds = cpu;
			__sync_fetch_and_add(&cpu_of(cpu - 1)->held, 1);
			COUNT(held);
		}
		state->paying = 1;
		due = expected(schedcoz_due(&state->clock, &experiment, global_clock, now));
		scx_bpf_dsq_insert_vtime(p, PAY, slice, now + due, enq_flags);
		arm(due);
		return 0;
	}
	scx_bpf_dsq_insert_vtime(p, READY, slice, p->scx.dsq_vtime, enq_flags);
	/* Whose slice has ended finds the CPU that it leaves free. */
	state->met_idle = find_cpu(p, now, woken) && woken;
	return 0;
}

OPERATION(dispatch, s32 number, struct task_struct *prev)
{
	struct cpu_state *cpu = cpu_of(number);
	u64 now = bpf_ktime_get_ns(), due = 0;
	bool wants_more = prev && (BPF_CORE_READ(prev, scx.flags) & SCX_TASK_QUEUED), in_debt;
	struct task_state *state = wants_more ? state_of(prev) : 0;

	/* Who is released while another CPU has nothing to run is that one's: here it would only displace `prev`. */
	if (!wants_more || !another_is_free(number, now))
		release_payers();
	/* It leaves the CPU now and keeps it while it pays (R8), but the core enqueues it only after this. */
	in_debt = state && (state->clock.flags & SCHEDCOZ_SCOPED) && owes(prev, state);
	if (!cpu->held && !in_debt) {
		due = cpu_due(cpu, now);
		if (!due && scx_bpf_dsq_move_to_local(READY))
			return 0;
	}
	if (wants_more) {
		/* Nobody else wants the CPU: the slice begins anew, unless the task has to be withheld. */
		if (!in_debt) {
			prev->scx.slice = slice_ns;
			if (state)
				state->slice_left = slice_ns;
		}
		return 0;
	}
	if ((due || cpu->held) && scx_bpf_dsq_nr_queued(READY) > 0) {
		COUNT(refused);
		if (due) {
			schedcoz_refused(&cpu->clock, now);
			arm(due);
		}
	}
	return 0;
}

OPERATION(tick, struct task_struct *p)
{
	struct task_state *state = state_of(p);

	if (state && (state->clock.flags & SCHEDCOZ_SCOPED) && owes(p, state))
		p->scx.slice = 0;
	return 0;
}

OPERATION(runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_state *state = state_of(p);

	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED))
		return 0;
	if (state->clock.flags & SCHEDCOZ_BLOCKED) {
		if (state->clock.flags & SCHEDCOZ_WAKER)
			COUNT(woken);
		else
			COUNT(timer_wakes);
		state->slice_left = 0;
		state->stopped_on = 0;
	}
	schedcoz_ready(&state->clock, &experiment, bpf_ktime_get_ns());
	return 0;
}

OPERATION(quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_state *state = state_of(p);

	if (state && (deq_flags & SCX_DEQ_SLEEP))
		schedcoz_sleep(&state->clock, bpf_ktime_get_ns());
	return 0;
}

OPERATION(running, struct task_struct *p)
{
	u32 number = bpf_get_smp_processor_id();
	struct cpu_state *cpu = cpu_of(number);
	struct task_state *state = state_of(p);
	u64 now = bpf_ktime_get_ns();

	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED)) {
		cpu->clock.running = 0;
		return 0;
	}
	/* R5 is about tasks that waited for a CPU. This one could have had another, and waited for its own wake-up. */
	if (state->met_idle && state->clock.ready_at < cpu->clock.stopped_at && another_is_free(number, now))
		cpu->clock.last_scoped = 0;
	state->met_idle = 0;
	if (schedcoz_running(&state->clock, &cpu->clock, &experiment, now))
		COUNT(merges);
	COUNT(started);
	state->ran_at = now;
	state->charged = 0;
	if (!state->slice_left)
		state->slice_left = slice_ns;
	cpu->vtime = p->scx.dsq_vtime;
	cpu->ran_at = now;
	if (vtime_now < p->scx.dsq_vtime)
		vtime_now = p->scx.dsq_vtime;
	if (owes_first(p, state, true))
		scx_bpf_kick_cpu(number, SCX_KICK_PREEMPT);
	state->clock.flags &= ~SCHEDCOZ_HANDED;
	return 0;
}

OPERATION(stopping, struct task_struct *p, bool runnable)
{
	u32 number = bpf_get_smp_processor_id();
	struct cpu_state *cpu = cpu_of(number);
	struct task_state *state = state_of(p);
	u64 now = bpf_ktime_get_ns(), service, weight;

	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED)) {
		/* It may have been in scope until now. */
		cpu->clock.last_scoped = cpu->clock.running = 0;
		return 0;
	}
	service = now - state->ran_at;
	service = service > state->charged ? service - state->charged : 0;
	weight = p->scx.weight ?: 100;
	p->scx.dsq_vtime += service * 100 / weight;
	state->slice_left = runnable && state->slice_left > service ? state->slice_left - service : 0;
	state->stopped_on = runnable ? number + 1 : 0;
	schedcoz_stopping(&state->clock, &cpu->clock, &experiment, global_clock, now, runnable);
	return 0;
}

OPERATION(init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_state *state = bpf_task_storage_get(&tasks, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE), *parent;

	if (!state)
		return -12; /* -ENOMEM */
	if (args->fork) {
		parent = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);
		if (parent) {
			schedcoz_fork(&state->clock, &parent->clock, &experiment, bpf_ktime_get_ns());
			state->known = parent->known;
		}
		inherit_region(p);
	}
	return 0;
}

OPERATION(enable, struct task_struct *p)
{
	struct task_state *state = state_of(p);

	if (state) {
		state->clock.flags |= SCHEDCOZ_SCOPED;
		state->known = 1;
	}
	p->scx.dsq_vtime = vtime_now;
	return 0;
}

OPERATION(disable, struct task_struct *p)
{
	struct task_state *state = state_of(p);

	if (!state)
		return 0;
	if (__sync_bool_compare_and_swap(&state->paying, 1, 0) && state->holds)
		__sync_fetch_and_sub(&cpu_of(state->holds - 1)->held, 1);
	state->holds = 0;
	state->clock.flags = 0;
	return 0;
}

/* Without these two a CPU that goes off line would end the scheduler. */
OPERATION(cpu_online, s32 cpu)
{
	return 0;
}

OPERATION(cpu_offline, s32 cpu)
{
	return 0;
}

OPERATION(init)
{
	struct pay_timer *timer;
	u32 zero = 0;
	s32 error;

	timer = bpf_map_lookup_elem(&timers, &zero);
	if (!timer)
		return -3; /* -ESRCH */
	bpf_timer_init(&timer->timer, &timers, 1 /* CLOCK_MONOTONIC */);
	bpf_timer_set_callback(&timer->timer, on_timer);
	error = scx_bpf_create_dsq(READY, -1);
	if (!error)
		error = scx_bpf_create_dsq(PAY, -1);
	return error;
}

OPERATION(exit, struct scx_exit_info *info)
{
	note_exit(info);
	return 0;
}

SEC(".struct_ops")
struct sched_ext_ops schedcoz = {
	.select_cpu = (void *)op_select_cpu,
	.enqueue = (void *)op_enqueue,
	.dispatch = (void *)op_dispatch,
	.tick = (void *)op_tick,
	.runnable = (void *)op_runnable,
	.quiescent = (void *)op_quiescent,
	.running = (void *)op_running,
	.stopping = (void *)op_stopping,
	.init_task = (void *)op_init_task,
	.enable = (void *)op_enable,
	.disable = (void *)op_disable,
	.cpu_online = (void *)op_cpu_online,
	.cpu_offline = (void *)op_cpu_offline,
	.init = (void *)op_init,
	.exit = (void *)op_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL | SCX_OPS_ENQ_LAST,
	.timeout_ms = 5000,
	.name = "schedcoz",
};

char LICENSE[] SEC("license") = "GPL";
