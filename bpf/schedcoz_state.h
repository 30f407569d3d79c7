/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of SchedCoz share: the experiment, the state of tasks and CPUs, counters, and what each part asks of
 * them. The rules are in schedcoz_rules.h.
 */
#ifndef SCHEDCOZ_STATE_H
#define SCHEDCOZ_STATE_H

#include "scheduler.h"

#include "schedcoz_rules.h"

#define MAX_CPUS 256
#define MAX_POINTS 16
#define READY 0x5c0001ULL
#define PAY 0x5c0002ULL
#define SCX_TASK_QUEUED 1
#define TIMER_MIN 10000ULL
#define TIMER_PINNED 2ULL /* BPF_F_TIMER_CPU_PIN, linux 6.7 */

/* Longest time on a CPU while others wait, nanoseconds of service. */
const volatile u64 slice_ns = 3000000;
/* A task that wakes takes the CPU of one that is further ahead in service than this; 0: never. */
const volatile u64 preempt_ns = 1000000;
const volatile u32 cpu_count = 1;

struct schedcoz_experiment experiment;
u64 global_clock;

/* `lost`: nanoseconds that samples stand for beyond a period each; `unplaced`: samples for which `locations` had no room. */
struct counters {
	u64 samples, hits, weighted, payments, paid, released, merges, kicks, woken, timer_wakes, held, refused, still, started, lost,
		unplaced;
};
struct counters counters;

/* The controller clears `count` and what follows up to `last_time` when an experiment begins. The rest is of the ends of
 * latency points, and is kept as long as the scheduler is loaded: passes begun, the sum of their clocks (modulo 2^64),
 * passes finished, and at the end of a latency the lowest number of those inside that was seen.
 */
struct progress_point {
	u64 count, first, last, first_time, last_time;
	u64 entered, stamps, left;
	s64 lowest;
};
struct progress_point points[MAX_POINTS];

struct task_state {
	struct schedcoz_task clock;
	u64 slice_left; /* service until the slice ends */
	u64 ran_at;
	u64 charged; /* since ran_at */
	u32 paying;  /* 1 while in PAY: who clears it releases the task */
	u32 stopped_on; /* CPU + 1 that it was stopped on while runnable; 0 after a sleep */
	u32 met_idle; /* there was a CPU with nothing to run when it got ready */
	u32 holds;	/* CPU + 1 that it keeps while it pays */
	u32 known;	/* it was in scope once */
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
	u32 sampled_in; /* the experiment of its last sample */
};
struct cpu_state cpus[MAX_CPUS];
u64 vtime_now;

u64 timer_at; /* when the timer will fire, if that is in the future */

struct pay_timer {
	struct bpf_timer timer;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pay_timer);
} timers SEC(".maps");

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

/* The same for one that is ready, or about to run (R3). */
static __always_inline bool owes_first(struct task_struct *p, struct task_state *state, bool free)
{
	return may_wait(p) && schedcoz_owes_first(&state->clock, &experiment, global_clock, free);
}

static __always_inline u64 cpu_due(const struct cpu_state *cpu, u64 now)
{
	u64 debt = schedcoz_cpu_debt(&cpu->clock, &experiment, global_clock, now);

	return debt > experiment.min_debt ? debt : 0;
}

/* While somebody pays the debt grows on, by up to the speed-up: looking again when what is due now has been paid would be a
 * series of ever shorter waits, each of which costs the others an interrupt. Who pays too much is credited (R2).
 */
static __always_inline u64 expected(u64 due)
{
	u32 speedup = experiment.speedup;

	return due * SCHEDCOZ_WHOLE / (SCHEDCOZ_WHOLE - (speedup < SCHEDCOZ_WHOLE / 2 ? speedup : SCHEDCOZ_WHOLE / 2));
}

static __always_inline void start_timer(struct pay_timer *timer, u64 delay)
{
	delay = delay > TIMER_MIN ? delay : TIMER_MIN;
	timer_at = bpf_ktime_get_ns() + delay;
	bpf_timer_start(&timer->timer, delay, TIMER_PINNED);
}

/* Somebody will have paid at `asked_at` and no CPU has set its timer for it yet; 0: nobody. */
u64 asked_at;

static __always_inline void arm_here(u64 now, u64 delay)
{
	u64 at = timer_at;
	u32 zero = 0;
	struct pay_timer *timer = bpf_map_lookup_elem(&timers, &zero);

	if (timer && (at <= now || at > now + delay))
		start_timer(timer, delay);
}

/* Whether a CPU other than `here` runs no task in scope. */
static __always_inline bool another_is_idle(u32 here)
{
	u32 i;

	bpf_for(i, 0, cpu_count)
		if (i != here && !cpu_of(i)->clock.running)
			return true;
	return false;
}

static __always_inline bool is_free(const struct cpu_state *cpu, u64 now)
{
	return !cpu->clock.running && !cpu->held && !cpu_due(cpu, now);
}

/* Whether one would take a task at once. */
static __always_inline bool another_is_free(u32 here, u64 now)
{
	u32 i;

	bpf_for(i, 0, cpu_count)
		if (i != here && is_free(cpu_of(i), now))
			return true;
	return false;
}

static __always_inline void kick_free(u64 now)
{
	u32 i;

	bpf_for(i, 0, cpu_count)
		if (is_free(cpu_of(i), now))
			scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
}

/* Look again after `delay`. The timer's interrupt would cost the task that it meets, and nothing credits that: where
 * another CPU has nothing to run, that one sets it, at its next sample.
 */
static __always_inline void arm(u64 delay)
{
	u64 now = bpf_ktime_get_ns(), at = asked_at;
	u32 here = bpf_get_smp_processor_id();

	if (!cpu_of(here)->clock.running || !another_is_idle(here))
		arm_here(now, delay);
	else if (!at || at > now + delay)
		asked_at = now + delay;
}

/* A sample's part of it. A CPU with a task in scope does it where no other has. */
static __always_inline void arm_for_others(u64 now, bool running)
{
	u64 at = asked_at;

	if (at && (!running || at < now) && __sync_bool_compare_and_swap(&asked_at, at, 0))
		arm_here(now, at > now ? at - now : 0);
}

#endif
