/* SPDX-License-Identifier: GPL-2.0 */
/* SchedCoz: causal profiling inside the scheduler. The rules (R1 to R9) are in schedcoz_rules.h; this file is the
 * mechanism that carries them out with sched_ext.
 *
 * Tasks that are ready wait in READY, in order of the service they had (weighted, on the virtual clock: R9). A task
 * that owes is moved to PAY, in order of when it will have paid; one timer, and every dispatch, moves those that have
 * paid back. A running debtor is stopped by a kick, after which the core enqueues it and it is parked. A payer that was
 * stopped in its slice keeps its CPU (`held`), and a CPU that on the clocks is still in use gets no task (R8).
 *
 * The scope is the tasks of the SCHED_EXT policy, or with `scope_cgroup` those of one cgroup; all others are scheduled
 * beside them from a queue of their own and never wait for a payment.
 *
 * The controller writes `experiment` (its `number` last but one, `active` last) and reads counters and points.
 */
#include "scheduler.h"

#include <linux/bpf_perf_event.h>

#include "schedcoz_rules.h"

#define MAX_CPUS 256
#define MAX_POINTS 16
#define MAX_PIECES 8
#define READY 0x5c0001ULL
#define PAY 0x5c0002ULL
#define OTHERS 0x5c0003ULL
#define SCX_TASK_QUEUED 1
#define TIMER_MIN 10000ULL

/* Longest time on a CPU while others wait, nanoseconds of service. */
const volatile u64 slice_ns = 3000000;
/* A task that wakes takes the CPU of one that is further ahead in service than this; 0: never. */
const volatile u64 preempt_ns = 1000000;
/* Bits of the preemption count that say "not in a task's own context"; they moved in Linux 7.3, the loader knows. */
const volatile u32 interrupt_mask = 0x00ffff00;
/* 0: the scope is the SCHED_EXT policy. Else the id of a cgroup. */
const volatile u64 scope_cgroup = 0;
const volatile u32 cpu_count = 1;
/* Frames of the user stack that are compared with the region; 0: only the instruction itself. */
const volatile u32 walk_frames = 0;

struct schedcoz_experiment experiment;
u64 global_clock;

struct counters {
	u64 samples, hits, weighted, payments, paid, released, merges, kicks, woken, timer_wakes, held, refused, started;
};
struct counters counters;

struct progress_point {
	u64 count, first, last, first_time, last_time;
};
struct progress_point points[MAX_POINTS];

/* Addresses of the selected region in one process: of a source line, several pieces. Those that are not used are empty. */
struct region {
	u64 low[MAX_PIECES], high[MAX_PIECES];
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct region);
} regions SEC(".maps");

struct task_state {
	struct schedcoz_task clock;
	u64 slice_left; /* service until the slice ends */
	u64 ran_at;
	u64 charged; /* since ran_at */
	u32 paying;  /* 1 while in PAY: who clears it releases the task */
	u32 stopped_on; /* CPU + 1 that it was stopped on while runnable; 0 after a sleep */
	u32 holds;	/* CPU + 1 that it keeps while it pays */
	u32 reserved;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

struct cpu_state {
	struct schedcoz_cpu clock;
	u64 vtime; /* service of the task that runs here, when it began to */
	u64 ran_at;
	u32 held; /* payers that keep this CPU */
	u32 turn; /* whose turn it is where tasks in and out of scope share it */
};
struct cpu_state cpus[MAX_CPUS];
u64 vtime_now;

struct pay_timer {
	struct bpf_timer timer;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pay_timer);
} timers SEC(".maps");

extern const int __preempt_count __ksym;

#define COUNT(name_) __sync_fetch_and_add(&counters.name_, 1)

static __always_inline struct task_state *state_of(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, 0, 0);
}

static __always_inline struct cpu_state *cpu_of(u32 cpu)
{
	return &cpus[cpu & (MAX_CPUS - 1)];
}

static __always_inline void raise_global(u64 local)
{
	u64 seen = global_clock;

	for (int tries = 0; tries < 8 && local > seen; tries++) {
		u64 before = __sync_val_compare_and_swap(&global_clock, seen, local);

		if (before == seen)
			break;
		seen = before;
	}
}

/* Tasks that the core must be free to run are never withheld: stopping one that exits would lock it up, one that may not
 * migrate may hold what others need. The current task always counts as such inside a BPF program.
 */
static __always_inline bool may_wait(const struct task_struct *p)
{
	return !(p->flags & (PF_EXITING | PF_KTHREAD)) &&
	       p->migration_disabled <= ((u64)p == bpf_get_current_task());
}

static __always_inline bool owes(struct task_struct *p, struct task_state *state)
{
	return may_wait(p) && schedcoz_owes(&state->clock, &experiment, global_clock);
}

static __always_inline u64 cpu_due(const struct cpu_state *cpu, u64 now)
{
	u64 debt = schedcoz_cpu_debt(&cpu->clock, &experiment, global_clock, now);

	return debt > experiment.min_debt ? debt : 0;
}

static __always_inline void arm(u64 delay)
{
	u32 zero = 0;
	struct pay_timer *timer = bpf_map_lookup_elem(&timers, &zero);

	if (timer)
		bpf_timer_start(&timer->timer, delay > TIMER_MIN ? delay : TIMER_MIN, 0);
}

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
			scx_bpf_dsq_move_set_vtime(&it, p->scx.dsq_vtime);
			scx_bpf_dsq_move_vtime(&it, p, READY, 0);
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
		bpf_timer_start(&timer->timer, soonest > TIMER_MIN ? soonest : TIMER_MIN, 0);
	return 0;
}

/* Wake a CPU for a task that waits in READY; or stop one whose task is far ahead in service. */
static __always_inline void find_cpu(struct task_struct *p, u64 now, bool woken)
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
			if (!due_soonest || due < due_soonest)
				due_soonest = due;
			continue;
		}
		/* An idle CPU may be missed just as it goes idle: a kick looks again. */
		scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
		best = i;
	}
	if (best >= 0)
		return;
	if (due_soonest)
		arm(due_soonest);
	if (woken && preempt_ns && victim >= 0 && furthest > p->scx.dsq_vtime + preempt_ns)
		scx_bpf_kick_cpu(victim, SCX_KICK_PREEMPT);
}

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
		scx_bpf_dsq_insert(p, OTHERS, slice_ns, enq_flags);
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
	if (p->scx.dsq_vtime + slice_ns < vtime_now)
		p->scx.dsq_vtime = vtime_now - slice_ns;
	slice = state->slice_left ?: slice_ns;
	if (owes(p, state)) {
		schedcoz_park(&state->clock, now, cpu != 0);
		COUNT(payments);
		if (cpu && state->slice_left && !(experiment.without & SCHEDCOZ_WITHOUT_HOLDING)) {
			state->holds = cpu;
			__sync_fetch_and_add(&cpu_of(cpu - 1)->held, 1);
			COUNT(held);
		}
		state->paying = 1;
		due = schedcoz_due(&state->clock, &experiment, global_clock, now);
		scx_bpf_dsq_insert_vtime(p, PAY, slice, now + due, enq_flags);
		arm(due);
		return 0;
	}
	scx_bpf_dsq_insert_vtime(p, READY, slice, p->scx.dsq_vtime, enq_flags);
	find_cpu(p, now, woken);
	return 0;
}

OPERATION(dispatch, s32 number, struct task_struct *prev)
{
	struct cpu_state *cpu = cpu_of(number);
	u64 now = bpf_ktime_get_ns(), due = 0;
	struct task_state *state;

	release_payers();
	if (cpu->turn++ & 1 && scx_bpf_dsq_move_to_local(OTHERS))
		return 0;
	if (!cpu->held) {
		due = cpu_due(cpu, now);
		if (!due && scx_bpf_dsq_move_to_local(READY))
			return 0;
	}
	if (scx_bpf_dsq_move_to_local(OTHERS))
		return 0;
	if (prev && (BPF_CORE_READ(prev, scx.flags) & SCX_TASK_QUEUED)) {
		state = state_of(prev);
		/* Nobody else wants the CPU: the slice begins anew, unless the task has to be withheld. */
		if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED) || !owes(prev, state)) {
			prev->scx.slice = slice_ns;
			if (state)
				state->slice_left = slice_ns;
		}
		return 0;
	}
	if (due && scx_bpf_dsq_nr_queued(READY) > 0)
		arm(due);
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
	if (owes(p, state))
		scx_bpf_kick_cpu(number, SCX_KICK_PREEMPT);
	return 0;
}

OPERATION(stopping, struct task_struct *p, bool runnable)
{
	u32 number = bpf_get_smp_processor_id();
	struct cpu_state *cpu = cpu_of(number);
	struct task_state *state = state_of(p);
	u64 now = bpf_ktime_get_ns(), service, weight;

	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED)) {
		cpu->clock.last_scoped = 0;
		return 0;
	}
	service = now - state->ran_at;
	service = service > state->charged ? service - state->charged : 0;
	weight = p->scx.weight ?: 100;
	p->scx.dsq_vtime += service * 100 / weight;
	state->slice_left = runnable && state->slice_left > service ? state->slice_left - service : 0;
	state->stopped_on = runnable ? number + 1 : 0;
	schedcoz_stopping(&state->clock, &cpu->clock, &experiment, now, runnable);
	return 0;
}

static __always_inline bool in_scope(const struct cgroup *cgroup)
{
	return scope_cgroup && cgroup && BPF_CORE_READ(cgroup, kn, id) == scope_cgroup;
}

/* A process that is forked has the region where its parent has it; the controller knows of it only later. */
static __always_inline void inherit_region(const struct task_struct *p)
{
	u32 parent = bpf_get_current_task_btf()->tgid, child = p->tgid;
	struct region *region = child == parent ? 0 : bpf_map_lookup_elem(&regions, &parent);

	if (region)
		bpf_map_update_elem(&regions, &child, region, BPF_ANY);
}

OPERATION(init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_state *state = bpf_task_storage_get(&tasks, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE), *parent;

	if (!state)
		return -12; /* -ENOMEM */
	if (args->fork) {
		parent = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);
		if (parent)
			schedcoz_fork(&state->clock, &parent->clock, &experiment, bpf_ktime_get_ns());
		inherit_region(p);
	}
	if (scope_cgroup && in_scope(args->cgroup))
		state->clock.flags |= SCHEDCOZ_SCOPED;
	return 0;
}

OPERATION(enable, struct task_struct *p)
{
	struct task_state *state = state_of(p);

	if (state && !scope_cgroup)
		state->clock.flags |= SCHEDCOZ_SCOPED;
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

OPERATION(cgroup_move, struct task_struct *p, struct cgroup *from, struct cgroup *to)
{
	struct task_state *state = state_of(p);

	if (!state || !scope_cgroup)
		return 0;
	if (in_scope(to))
		state->clock.flags |= SCHEDCOZ_SCOPED;
	else
		state->clock.flags &= ~SCHEDCOZ_SCOPED;
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
	if (!error)
		error = scx_bpf_create_dsq(OTHERS, -1);
	return error;
}

OPERATION(exit, struct scx_exit_info *info)
{
	note_exit(info);
	return 0;
}

/* R3 or R4: who wakes whom. Only a task's own context counts; an interrupt wakes on behalf of nobody. */
SEC("tp_btf/sched_waking")
int BPF_PROG(waking, struct task_struct *p)
{
	const int *count = bpf_this_cpu_ptr(&__preempt_count);
	struct task_state *state, *waker;

	if ((u32)*count & interrupt_mask)
		return 0;
	waker = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);
	state = state_of(p);
	if (state && waker && (waker->clock.flags & SCHEDCOZ_SCOPED) && (state->clock.flags & SCHEDCOZ_SCOPED))
		schedcoz_waking(&state->clock, &waker->clock, &experiment);
	return 0;
}

static __always_inline bool holds(const struct region *region, u64 address)
{
	for (int i = 0; i < MAX_PIECES; i++)
		if (address >= region->low[i] && address < region->high[i])
			return true;
	return false;
}

static __always_inline bool in_region(struct bpf_perf_event_data *ctx)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct region *region = bpf_map_lookup_elem(&regions, &tgid);
	u64 frames[8];
	long size;

	if (!region)
		return false;
	if (holds(region, PT_REGS_IP(&ctx->regs)))
		return true;
	if (!walk_frames)
		return false;
	size = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
	for (int i = 0; i < 8; i++)
		/* A return address follows the call that it belongs to. */
		if (i < walk_frames && (i + 1) * 8 <= size && holds(region, frames[i] - 1))
			return true;
	return false;
}

/* R1, on every CPU `1e9 / experiment.period` times a second. */
SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	u32 number = bpf_get_smp_processor_id(), i;
	struct cpu_state *cpu = cpu_of(number);
	u64 now = bpf_ktime_get_ns(), before, charge;
	struct task_state *state;
	bool hit;

	state = bpf_task_storage_get(&tasks, p, 0, 0);
	if (state && cpu->clock.running && (state->clock.flags & SCHEDCOZ_SCOPED)) {
		hit = in_region(ctx);
		COUNT(samples);
		if (hit) {
			COUNT(hits);
			__sync_fetch_and_add(&counters.weighted, schedcoz_weight(&cpu->clock, &experiment, now));
		}
		schedcoz_enter(&state->clock, &experiment);
		before = state->clock.local;
		charge = schedcoz_sample(&state->clock, &cpu->clock, &experiment, now, hit) - before;
		if (charge) {
			raise_global(state->clock.local);
			charge = schedcoz_service(&experiment, charge);
			state->charged += charge;
			scx_bpf_task_set_slice(p, p->scx.slice + charge);
		}
	}
	cpu->clock.last_sample = now;
	if (!experiment.active)
		return 0;
	bpf_for(i, 0, cpu_count) {
		struct cpu_state *other = cpu_of(i);

		if (i != number && other->clock.running &&
		    schedcoz_debt(other->clock.local, global_clock) > experiment.min_debt) {
			COUNT(kicks);
			scx_bpf_kick_cpu(i, SCX_KICK_PREEMPT);
		}
	}
	return 0;
}

/* R7: a progress point was passed; the cookie is its number. */
SEC("uprobe.multi")
int progress(struct pt_regs *ctx)
{
	u64 number = bpf_get_attach_cookie(ctx), now = bpf_ktime_get_ns(), at;
	struct progress_point *point = &points[number & (MAX_POINTS - 1)];
	struct task_state *state = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);

	if (!state)
		return 0;
	at = schedcoz_progress(&state->clock, &experiment, now);
	if (!__sync_fetch_and_add(&point->count, 1)) {
		point->first = at;
		point->first_time = now;
	}
	point->last = at;
	point->last_time = now;
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
	.cgroup_move = (void *)op_cgroup_move,
	.cpu_online = (void *)op_cpu_online,
	.cpu_offline = (void *)op_cpu_offline,
	.init = (void *)op_init,
	.exit = (void *)op_exit,
	.flags = SCX_OPS_SWITCH_PARTIAL | SCX_OPS_ENQ_LAST,
	.timeout_ms = 5000,
	.name = "schedcoz",
};

char LICENSE[] SEC("license") = "GPL";
