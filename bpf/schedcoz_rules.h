/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The rules of causal profiling inside the scheduler: pure integer functions, compiled into the scheduler
 * (schedcoz.bpf.c) and into the native simulator (workbench/native/sched_simulator.c), so that what the simulator
 * proves is what the kernel runs.
 *
 * The model. Every task in scope has a virtual clock, c = now - local. While a task runs inside the selected region
 * its `local` grows by speedup x time, so its clock advances as if the region were that much faster. `global` is the
 * largest `local` that any task has reached: a task with local < global is ahead of the slowest clock and owes the
 * difference. A task that owes more than `min_debt` is withheld from the CPU until it has paid; the time it is withheld
 * is added to its `local`. Payment only bounds how far clocks drift apart, so that locks and queues are taken in the
 * order that they would be; what makes the prediction exact is that a task which waits for another takes over the
 * clock of that other, and that progress is timed by the clock of the task that makes it:
 *
 *   R1  a sample of the task in the region: local += speedup x the time the sample stands for
 *   R2  the payment of a task that was stopped counts until it runs again, and with the cost of having been stopped
 *   R3  woken by a task in scope: the clock is the later one of its own at falling asleep and the waker's
 *       If a CPU is free it starts, whatever it took over: its waker has let go of something (a lock, say) that a task
 *       whose clock is behind would find free while this one is withheld. It is withheld once it runs, as any other
 *   R4  woken by a timer, an interrupt or a task out of scope: the clock ran on while it slept
 *   R5  a CPU is in use, on the clocks, until the clock of the task that left it last: a task starts on it no earlier
 *   R6  a child starts with its parent's clock
 *   R7  progress is stamped with the clock of the task that makes it
 *   R8  a CPU that is in use, on the clocks, by more than min_debt beyond the slowest clock is not given to a task in
 *       scope; a task that is withheld in its slice keeps its CPU; a task that waited for such a CPU starts when, on the
 *       clocks, it became free, and does not pay for the holding again
 *   R9  slices and service are counted on the virtual clock, else a slice would end where it does not in the program
 *       that really is faster
 *
 * What is withheld keeps its place: a queue in order of service must not treat a payer as a sleeper (one that saved up no
 * service). It did, and predicted 4 to 8 points for regions that gain nothing.
 *
 * What the rules cannot do, as seen in the simulator (tests/unit/sched/test_rules.py has these cases):
 *
 *   Order. Clocks are apart by up to min_debt, the time to stop a task and the cost of a stop. Within that, locks and
 *   queues are taken in the machine's order, not in that of the clocks, and a lock that is taken without waiting tells
 *   nobody: on the clocks two holders overlap. With a saturated lock held for 0.67 ms and 150 us to stop a task, 16 % of
 *   the holders overlapped by 0.1 ms: 1.9 points for a true zero with a min_debt of 100 us, 1.3 with 50, 0.7 with 25. Keep
 *   min_debt well below the time that locks are held.
 *
 *   Stop cost. Where the thread that makes progress is stopped for a region that gains nothing, waking late, stopping
 *   late, late timers and lost samples change a prediction by less than 0.5 points; each nanosecond that a stop costs and
 *   stop_cost does not credit is a loss: 150 us, twice in a round of 8.4 ms, are +3.6 %.
 *
 *   Stock. Full queues are drained first when their consumer gets faster, and items in them are progress that does not
 *   last: a queue of four, 45 rounds, 6 to 8 points too much gain. The beginning of an experiment must not be counted.
 *
 * R5, R8 and R9 are about machines with more tasks than CPUs; without them a prediction there is off by tens of points
 * (tests/unit/sched/test_rules.py switches them off one by one).
 *
 * All times are nanoseconds of one monotonic clock. Coz (Curtsinger and Berger, SOSP 2015) has R1, R4 and R6; its
 * interposed locks and joins are R3 here, and it has no counterpart of R5, R8 and R9.
 */
#ifndef SCHEDCOZ_RULES_H
#define SCHEDCOZ_RULES_H

typedef unsigned long long schedcoz_u64;
typedef unsigned int schedcoz_u32;

#define SCHEDCOZ_INLINE static inline __attribute__((always_inline, unused))

/* Speed-ups are given in thousandths. */
#define SCHEDCOZ_WHOLE 1000U

/* Flags of a task. */
#define SCHEDCOZ_SCOPED 1U	/* takes part in experiments */
#define SCHEDCOZ_BLOCKED 2U	/* asleep since sleep_at */
#define SCHEDCOZ_PAYING 4U	/* withheld since pay_start */
#define SCHEDCOZ_RELEASED 8U	/* has paid and has not run since */
#define SCHEDCOZ_WAKER 16U	/* waker_local is the clock of the scoped task that woke it */
#define SCHEDCOZ_STOPPED 32U	/* it was running when it was withheld */
#define SCHEDCOZ_HANDED 64U	/* R3: woken by a task in scope, and has not run since */

/* Rules that can be switched off, to show what each is for: bits of `without`. */
#define SCHEDCOZ_WITHOUT_WEIGHT 1U	/* R1: a sample counts one period, whatever was lost */
#define SCHEDCOZ_WITHOUT_CREDIT 2U	/* R2: a payment ends at the release */
#define SCHEDCOZ_WITHOUT_INHERITANCE 4U /* R3: clocks never take over a waker's unpaid debt */
#define SCHEDCOZ_WITHOUT_HAND_OFF 8U	/* R5 */
#define SCHEDCOZ_WITHOUT_HOLDING 16U	/* R8 */
#define SCHEDCOZ_WITHOUT_SERVICE 32U	/* R9 */
#define SCHEDCOZ_WITHOUT_START 64U	/* R3: a task that takes over a debt is withheld before it starts */

struct schedcoz_experiment {
	schedcoz_u64 base;     /* `global` when the experiment began: where every clock of it starts */
	schedcoz_u64 period;   /* nanoseconds between two samples of one CPU */
	schedcoz_u64 min_debt; /* nanoseconds that a task may owe before it is withheld */
	schedcoz_u64 stop_cost; /* nanoseconds that being stopped once costs a task, as measured */
	schedcoz_u32 number;   /* changes with every experiment */
	schedcoz_u32 active;
	schedcoz_u32 speedup;  /* thousandths, 0 to SCHEDCOZ_WHOLE */
	schedcoz_u32 without;
};

struct schedcoz_task {
	schedcoz_u64 local;
	schedcoz_u64 sleep_at;
	schedcoz_u64 pay_start;
	schedcoz_u64 ready_at;
	schedcoz_u64 waker_local;
	schedcoz_u32 flags;
	schedcoz_u32 experiment; /* the one that `local` belongs to */
};

struct schedcoz_cpu {
	schedcoz_u64 local;	 /* of the scoped task that runs here */
	schedcoz_u64 last_local; /* of the scoped task that left last */
	schedcoz_u64 stopped_at; /* when it left */
	schedcoz_u64 switched_in;
	schedcoz_u64 last_sample;
	schedcoz_u64 refused_at; /* R8: since when a task that is ready waits for it; 0: none does */
	schedcoz_u32 running;	 /* a scoped task runs here */
	schedcoz_u32 last_scoped; /* the task that left last was in scope */
	schedcoz_u32 experiment; /* the one that last_local belongs to */
	schedcoz_u32 withheld;	 /* R8: when that task left, the CPU was in use for longer on the clocks */
};

/* A task that has not been seen in this experiment starts it at the common clock. */
SCHEDCOZ_INLINE void schedcoz_enter(struct schedcoz_task *task, const struct schedcoz_experiment *e)
{
	if (task->experiment == e->number)
		return;
	task->experiment = e->number;
	task->local = e->base;
	task->flags &= ~(SCHEDCOZ_RELEASED | SCHEDCOZ_WAKER);
}

/* R1: how much time a sample stands for. The timer skips periods in which it could not fire; the time since the last
 * sample of the CPU then counts, as far as the task can have run in it.
 */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_weight(const struct schedcoz_cpu *cpu, const struct schedcoz_experiment *e,
					     schedcoz_u64 now)
{
	schedcoz_u64 gap = now - cpu->last_sample, on_cpu = now - cpu->switched_in + e->period, weight;

	if (!cpu->last_sample || gap <= e->period + e->period / 2 || (e->without & SCHEDCOZ_WITHOUT_WEIGHT))
		return e->period;
	weight = gap < on_cpu ? gap : on_cpu;
	return weight < e->period ? e->period : weight;
}

/* R1: the running task was sampled; the new `local` (the caller raises `global` to it). */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_sample(struct schedcoz_task *task, struct schedcoz_cpu *cpu,
					     const struct schedcoz_experiment *e, schedcoz_u64 now, int in_region)
{
	schedcoz_enter(task, e);
	if (in_region && e->active)
		task->local += schedcoz_weight(cpu, e, now) * e->speedup / SCHEDCOZ_WHOLE;
	cpu->local = task->local;
	return task->local;
}

/* R9: what a charge takes off the service that the task is counted to have had. */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_service(const struct schedcoz_experiment *e, schedcoz_u64 charge)
{
	return (e->without & SCHEDCOZ_WITHOUT_SERVICE) ? 0 : charge;
}

/* Nanoseconds that a clock is ahead of the slowest one. */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_debt(schedcoz_u64 local, schedcoz_u64 global)
{
	return global > local ? global - local : 0;
}

SCHEDCOZ_INLINE int schedcoz_owes(struct schedcoz_task *task, const struct schedcoz_experiment *e, schedcoz_u64 global)
{
	if (!e->active || !(task->flags & SCHEDCOZ_SCOPED))
		return 0;
	schedcoz_enter(task, e);
	return schedcoz_debt(task->local, global) > e->min_debt;
}

/* Whether a task that is ready, or about to run, has to be withheld first; `free`: there is a CPU for it (R3). */
SCHEDCOZ_INLINE int schedcoz_owes_first(struct schedcoz_task *task, const struct schedcoz_experiment *e,
					schedcoz_u64 global, int free)
{
	return !(free && (task->flags & SCHEDCOZ_HANDED)) && schedcoz_owes(task, e, global);
}

/* R2: the task is withheld from now on; `stopped` when it was running, and not about to wake up: then from the moment at
 * which it left its CPU.
 */
SCHEDCOZ_INLINE void schedcoz_park(struct schedcoz_task *task, schedcoz_u64 now, int stopped)
{
	task->flags = (task->flags | SCHEDCOZ_PAYING) & ~(SCHEDCOZ_RELEASED | SCHEDCOZ_STOPPED | SCHEDCOZ_HANDED);
	if (stopped)
		task->flags |= SCHEDCOZ_STOPPED;
	task->pay_start = stopped ? task->ready_at : now;
}

/* Nanoseconds that a withheld task still has to wait; 0 when it has paid. */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_due(const struct schedcoz_task *task, const struct schedcoz_experiment *e,
					  schedcoz_u64 global, schedcoz_u64 now)
{
	if (!e->active || task->experiment != e->number)
		return 0;
	return schedcoz_debt(task->local + (now - task->pay_start), global);
}

/* R2: the task has paid and may run. */
SCHEDCOZ_INLINE void schedcoz_release(struct schedcoz_task *task, schedcoz_u64 now)
{
	task->local += now - task->pay_start;
	task->flags = (task->flags & ~SCHEDCOZ_PAYING) | SCHEDCOZ_RELEASED;
	task->ready_at = now;
}

/* R8: nanoseconds by which the clock of the task that left this CPU last is ahead of the slowest one: until then, on the
 * clocks, the CPU is in use. The CPU may be given to a task in scope when this is at most `min_debt`.
 */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_cpu_debt(const struct schedcoz_cpu *cpu, const struct schedcoz_experiment *e,
					       schedcoz_u64 global, schedcoz_u64 now)
{
	if (!e->active || !cpu->last_scoped || cpu->experiment != e->number || (e->without & SCHEDCOZ_WITHOUT_HOLDING))
		return 0;
	return schedcoz_debt(cpu->last_local + (now - cpu->stopped_at), global);
}

/* R8: a task that is ready was not given the CPU. */
SCHEDCOZ_INLINE void schedcoz_refused(struct schedcoz_cpu *cpu, schedcoz_u64 now)
{
	if (!cpu->refused_at)
		cpu->refused_at = now;
}

/* The task falls asleep. */
SCHEDCOZ_INLINE void schedcoz_sleep(struct schedcoz_task *task, schedcoz_u64 now)
{
	task->flags = (task->flags | SCHEDCOZ_BLOCKED) & ~SCHEDCOZ_WAKER;
	task->sleep_at = now;
}

/* R3: a scoped task is about to wake this one. */
SCHEDCOZ_INLINE void schedcoz_waking(struct schedcoz_task *task, struct schedcoz_task *waker,
				     const struct schedcoz_experiment *e)
{
	schedcoz_enter(task, e);
	schedcoz_enter(waker, e);
	task->waker_local = waker->local;
	task->flags |= SCHEDCOZ_WAKER;
}

/* R3 and R4: the task becomes ready after a sleep, or for the first time. */
SCHEDCOZ_INLINE void schedcoz_ready(struct schedcoz_task *task, const struct schedcoz_experiment *e, schedcoz_u64 now)
{
	schedcoz_u32 handed = 0;

	schedcoz_enter(task, e);
	if ((task->flags & SCHEDCOZ_BLOCKED) && (task->flags & SCHEDCOZ_WAKER)) {
		schedcoz_u64 asleep = task->local + (now - task->sleep_at);
		schedcoz_u64 merged = asleep < task->waker_local ? asleep : task->waker_local;

		if (!(e->without & SCHEDCOZ_WITHOUT_INHERITANCE) || merged > task->local)
			task->local = merged;
		if (!(e->without & SCHEDCOZ_WITHOUT_START))
			handed = SCHEDCOZ_HANDED;
	}
	task->flags = (task->flags & ~(SCHEDCOZ_BLOCKED | SCHEDCOZ_WAKER | SCHEDCOZ_RELEASED | SCHEDCOZ_HANDED)) | handed;
	task->ready_at = now;
}

/* R2 and R5: the task begins to run on this CPU. Returns 1 when the task took over the CPU's clock (R5).
 *
 * A task that was ready before the CPU became free waited for it: its clock stood still meanwhile, and the time from
 * then on is the cost of the switch, which the faster program has too. One that became ready later met a free CPU and
 * waited for its own wake-up. One that found the CPU withheld, whether it was ready before or came later, begins when, on
 * the clocks, the CPU became free. What a payer that was stopped waits after its release it would not have waited at all (R2);
 * one that was withheld when it woke up would have had its wake-up in any case.
 */
SCHEDCOZ_INLINE int schedcoz_running(struct schedcoz_task *task, struct schedcoz_cpu *cpu,
				     const struct schedcoz_experiment *e, schedcoz_u64 now)
{
	schedcoz_u64 ready = task->ready_at, merged, left;
	int handed = 0;

	schedcoz_enter(task, e);
	if (!(e->without & SCHEDCOZ_WITHOUT_HAND_OFF) && cpu->last_scoped && cpu->experiment == e->number) {
		merged = task->local;
		left = cpu->last_local;
		if (ready < cpu->stopped_at) {
			merged += cpu->stopped_at - ready;
			ready = cpu->stopped_at;
			if (cpu->withheld) {
				merged += now - ready;
				left += now - ready;
				ready = now;
			}
		} else {
			left += now - cpu->stopped_at;
			if (cpu->refused_at) {
				ready = ready > cpu->refused_at ? ready : cpu->refused_at;
				merged += now - ready;
				ready = now;
			}
		}
		handed = left < merged;
		task->local = handed ? left : merged;
	}
	if ((task->flags & SCHEDCOZ_RELEASED) && (task->flags & SCHEDCOZ_STOPPED) &&
	    !(e->without & SCHEDCOZ_WITHOUT_CREDIT))
		task->local += now - ready + e->stop_cost;
	task->flags &= ~(SCHEDCOZ_RELEASED | SCHEDCOZ_STOPPED);
	cpu->local = task->local;
	cpu->switched_in = now;
	cpu->refused_at = 0;
	cpu->running = 1;
	return handed;
}

/* The scoped task leaves this CPU; `runnable` when it wants to run on. */
SCHEDCOZ_INLINE void schedcoz_stopping(struct schedcoz_task *task, struct schedcoz_cpu *cpu,
				       const struct schedcoz_experiment *e, schedcoz_u64 global, schedcoz_u64 now,
				       int runnable)
{
	schedcoz_enter(task, e);
	cpu->withheld = e->active && !(e->without & SCHEDCOZ_WITHOUT_HOLDING) &&
			schedcoz_debt(task->local, global) > e->min_debt;
	cpu->last_local = task->local;
	cpu->stopped_at = now;
	cpu->refused_at = 0;
	cpu->experiment = e->number;
	cpu->last_scoped = 1;
	cpu->running = 0;
	if (runnable)
		task->ready_at = now;
}

/* R6: the child's clock is the parent's. */
SCHEDCOZ_INLINE void schedcoz_fork(struct schedcoz_task *child, struct schedcoz_task *parent,
				   const struct schedcoz_experiment *e, schedcoz_u64 now)
{
	schedcoz_enter(parent, e);
	child->local = parent->local;
	child->experiment = parent->experiment;
	child->flags = parent->flags & SCHEDCOZ_SCOPED;
	child->ready_at = now;
}

/* R7: the moment of progress on the task's clock. */
SCHEDCOZ_INLINE schedcoz_u64 schedcoz_progress(struct schedcoz_task *task, const struct schedcoz_experiment *e,
					       schedcoz_u64 now)
{
	schedcoz_enter(task, e);
	return now - task->local;
}

#endif
