/* The simulator's scheduler: what bpf/schedcoz.bpf.c does with the kernel's, done with simulated CPUs. A ready queue in
 * order of service, a queue of payers with one timer, kicks that take their time, and the rules of
 * bpf/schedcoz_rules.h at the same places.
 */
#include "sched_simulator.h"

static void enqueue(struct wb_sim *sim, int32_t id);
static void dispatch(struct wb_sim *sim, int32_t cpu);
static void place(struct wb_sim *sim, int32_t id, int32_t number, uint64_t delay);
static void start_idle(struct wb_sim *sim, int32_t number);

void sim_wake(struct wb_sim *sim, int32_t id, int32_t waker)
{
	struct task *task = &sim->tasks[id];

	if (waker != NONE && !sim->tasks[waker].unscoped)
		schedcoz_waking(&task->clock, &sim->tasks[waker].clock, &sim->experiment);
	schedcoz_ready(&task->clock, &sim->experiment, sim->out.now);
	/* Sleepers may not save up service: at most a slice is kept. */
	if (task->vtime + sim->config.slice < sim->min_vtime)
		task->vtime = sim->min_vtime - sim->config.slice;
	enqueue(sim, id);
}

static void pay_timer(struct wb_sim *sim, uint64_t delay)
{
	sim_post(sim, sim->out.now + delay + sim_latency(sim, sim->config.timer_latency), EV_PAY, 0, ++sim->pay_generation);
}

/* How long a CPU must not be given to a task, because on the clocks it is still in use. */
static uint64_t cpu_due(const struct wb_sim *sim, const struct cpu *cpu)
{
	uint64_t debt = schedcoz_cpu_debt(&cpu->clock, &sim->experiment, sim->out.global, sim->out.now);

	return debt > sim->experiment.min_debt ? debt : 0;
}

static void arm(struct wb_sim *sim)
{
	uint64_t soonest = UINT64_MAX;

	for (uint32_t i = 0; i < sim->task_count; i++)
		if (sim->tasks[i].state == PAYING) {
			uint64_t due = schedcoz_due(&sim->tasks[i].clock, &sim->experiment, sim->out.global, sim->out.now);

			soonest = due < soonest ? due : soonest;
		}
	for (uint32_t i = 0; i < sim->config.cpus; i++) {
		uint64_t due = cpu_due(sim, &sim->cpus[i]);

		if (sim->cpus[i].task == NONE && due)
			soonest = due < soonest ? due : soonest;
	}
	if (soonest != UINT64_MAX)
		pay_timer(sim, soonest);
}

void sim_release_payers(struct wb_sim *sim)
{
	uint32_t count = sim->task_count;

	for (uint32_t i = 0; i < count; i++) {
		struct task *task = &sim->tasks[i];
		int32_t back;

		if (task->state != PAYING ||
		    schedcoz_due(&task->clock, &sim->experiment, sim->out.global, sim->out.now))
			continue;
		sim->out.paid += sim->out.now - task->clock.pay_start;
		schedcoz_release(&task->clock, sim->out.now);
		task->state = BLOCKED;
		back = NONE;
		for (uint32_t c = 0; c < sim->config.cpus; c++)
			if (sim->cpus[c].held == (int32_t)i) {
				sim->cpus[c].held = NONE;
				back = (int32_t)c;
			}
		/* Its CPU was kept for the rest of its slice; when that is over it queues like any other. */
		if (back != NONE && task->slice_left)
			place(sim, (int32_t)i, back, sim_latency(sim, sim->config.wake_latency));
		else
			enqueue(sim, (int32_t)i);
		if (back != NONE)
			dispatch(sim, back);
	}
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task == NONE && sim->cpus[i].held == NONE && !cpu_due(sim, &sim->cpus[i]))
			start_idle(sim, (int32_t)i);
	arm(sim);
}

void sim_settle(struct wb_sim *sim, struct cpu *cpu)
{
	struct task *task = &sim->tasks[cpu->task];
	uint64_t done;

	if (sim->out.now <= cpu->work_since)
		return;
	done = sim->out.now - cpu->work_since;
	done = done < task->remaining ? done : task->remaining;
	task->remaining -= done;
	if (task->region == sim->region && sim->experiment.active)
		sim->out.region_time += done;
	task->vtime += sim->out.now - cpu->work_since;
	sim->out.busy += sim->out.now - cpu->work_since;
	cpu->work_since = sim->out.now;
}

void sim_schedule_end(struct wb_sim *sim, int32_t number)
{
	struct cpu *cpu = &sim->cpus[number];
	uint64_t from = cpu->work_since > sim->out.now ? cpu->work_since : sim->out.now;

	sim_post(sim, from + sim->tasks[cpu->task].remaining, EV_RUN_END, number, ++cpu->generation);
}

void sim_leave(struct wb_sim *sim, int32_t number, int runnable)
{
	struct cpu *cpu = &sim->cpus[number];
	struct task *task = &sim->tasks[cpu->task];

	sim_settle(sim, cpu);
	task->lost = cpu->work_since > sim->out.now ? cpu->work_since - sim->out.now : 0;
	cpu->generation++;
	if (task->unscoped) {
		cpu->clock.last_scoped = 0;
		cpu->clock.stopped_at = sim->out.now;
		task->clock.ready_at = sim->out.now;
	} else {
		schedcoz_stopping(&task->clock, &cpu->clock, &sim->experiment, sim->out.global, sim->out.now, runnable);
	}
	cpu->task = NONE;
	task->cpu = NONE;
	task->state = BLOCKED;
}

void sim_block(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task;

	sim_leave(sim, number, 0);
	schedcoz_sleep(&sim->tasks[id].clock, sim->out.now);
}

static int32_t pick(struct wb_sim *sim)
{
	int32_t best = NONE;

	for (uint32_t i = 0; i < sim->task_count; i++) {
		const struct task *task = &sim->tasks[i], *other = best == NONE ? NULL : &sim->tasks[best];

		if (task->state != READY)
			continue;
		if (!other || (!sim->config.fifo && task->vtime != other->vtime ? task->vtime < other->vtime
										: task->sequence < other->sequence))
			best = (int32_t)i;
	}
	return best;
}

static void place(struct wb_sim *sim, int32_t id, int32_t number, uint64_t delay)
{
	sim->cpus[number].task = id;
	sim->tasks[id].cpu = number;
	sim->tasks[id].state = STARTING;
	sim_post(sim, sim->out.now + delay, EV_START, number, ++sim->cpus[number].generation);
}

static void start(struct wb_sim *sim, int32_t number, uint64_t delay)
{
	int32_t id = pick(sim);

	if (id != NONE) {
		sim->tasks[id].slice_left = sim->config.slice;
		place(sim, id, number, delay);
	}
}

/* Wake an idle CPU for the task that is first. */
static void start_idle(struct wb_sim *sim, int32_t number)
{
	uint64_t delay = sim_latency(sim, sim->config.wake_latency);

	if (!sim->config.race)
		start(sim, number, delay);
	else if (pick(sim) != NONE)
		sim_post(sim, sim->out.now + delay, EV_KICK, number, 0);
}

/* The CPU has just lost its task. */
static void dispatch(struct wb_sim *sim, int32_t number)
{
	if (sim->cpus[number].task != NONE || sim->cpus[number].held != NONE)
		return;
	if (cpu_due(sim, &sim->cpus[number])) {
		if (pick(sim) != NONE)
			schedcoz_refused(&sim->cpus[number].clock, sim->out.now);
		arm(sim);
	} else {
		start(sim, number, sim->config.switch_cost);
	}
}

/* The moment on the virtual clock at which the CPU became free. */
static int64_t free_at(const struct cpu *cpu)
{
	return (int64_t)(cpu->clock.stopped_at - cpu->clock.last_local);
}

/* R3: whether there is a CPU that nobody uses, on the clocks either. */
static int has_free_cpu(const struct wb_sim *sim)
{
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task == NONE && sim->cpus[i].held == NONE && !cpu_due(sim, &sim->cpus[i]))
			return 1;
	return 0;
}

static void enqueue(struct wb_sim *sim, int32_t id)
{
	struct task *task = &sim->tasks[id];
	int32_t victim = NONE, best = NONE, due = 0;

	if (!task->unscoped && schedcoz_owes_first(&task->clock, &sim->experiment, sim->out.global, has_free_cpu(sim))) {
		schedcoz_park(&task->clock, sim->out.now, task->stopped);
		task->stopped = 0;
		task->state = PAYING;
		sim->out.payments++;
		arm(sim);
		return;
	}
	task->stopped = 0;
	task->state = READY;
	task->sequence = sim->sequence++;
	for (uint32_t i = 0; i < sim->config.cpus; i++) {
		if (sim->cpus[i].task != NONE || sim->cpus[i].held != NONE)
			continue;
		if (cpu_due(sim, &sim->cpus[i])) {
			schedcoz_refused(&sim->cpus[i].clock, sim->out.now);
			due = 1;
		} else if (best == NONE || free_at(&sim->cpus[i]) < free_at(&sim->cpus[best])) {
			best = (int32_t)i;
		}
	}
	if (best != NONE) {
		start_idle(sim, best);
		return;
	}
	if (due)
		arm(sim);
	if (!sim->config.preempt)
		return;
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task != NONE && sim->tasks[sim->cpus[i].task].state == RUNNING) {
			sim_settle(sim, &sim->cpus[i]);
			if (victim == NONE || sim->tasks[sim->cpus[i].task].vtime > sim->tasks[sim->cpus[victim].task].vtime)
				victim = (int32_t)i;
		}
	/* The CPU that is in `advance` (it is waking this task) is not taken from under it: the slice ends there at once. */
	if (victim != NONE && sim->tasks[sim->cpus[victim].task].vtime > task->vtime + sim->config.preempt) {
		sim->cpus[victim].slice_end = sim->out.now;
		sim_post(sim, sim->out.now, EV_SLICE, victim, sim->cpus[victim].generation);
	}
}

static void on_start(struct wb_sim *sim, int32_t number)
{
	struct cpu *cpu = &sim->cpus[number];
	struct task *task = &sim->tasks[cpu->task];
	uint64_t lost = task->lost, debt;

	task->state = RUNNING;
	if (task->vtime > sim->min_vtime)
		sim->min_vtime = task->vtime;
	if (task->unscoped) {
		cpu->clock.running = 0;
	} else {
		if ((task->clock.flags & SCHEDCOZ_RELEASED) && (task->clock.flags & SCHEDCOZ_STOPPED))
			lost += sim->config.stop_cost;
		sim->out.merges += (uint64_t)schedcoz_running(&task->clock, &cpu->clock, &sim->experiment, sim->out.now);
		if (sim->experiment.active) {
			debt = schedcoz_debt(task->clock.local, sim->out.global);
			sim->out.max_debt = debt > sim->out.max_debt ? debt : sim->out.max_debt;
		}
	}
	cpu->work_since = sim->out.now + lost;
	cpu->slice_end = cpu->work_since + task->slice_left;
	cpu->stop_pending = 0;
	task->clock.flags &= ~SCHEDCOZ_HANDED;
	if (!task->unscoped && schedcoz_owes(&task->clock, &sim->experiment, sim->out.global)) {
		cpu->stop_pending = 1;
		sim_post(sim, sim->out.now + sim_latency(sim, sim->config.stop_latency), EV_STOP, number, cpu->generation);
	}
	if (task->remaining)
		sim_schedule_end(sim, number);
	else
		sim_advance(sim, number);
	if (cpu->task == NONE)
		dispatch(sim, number);
	else
		sim_post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
}

static void stop(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task;

	sim->tasks[id].slice_left = sim->cpus[number].slice_end > sim->out.now ? sim->cpus[number].slice_end - sim->out.now : 0;
	sim_leave(sim, number, 1);
	sim->tasks[id].stopped = 1;
	if (!(sim->experiment.without & SCHEDCOZ_WITHOUT_HOLDING) &&
	    schedcoz_owes(&sim->tasks[id].clock, &sim->experiment, sim->out.global))
		sim->cpus[number].held = id;
	enqueue(sim, id);
	dispatch(sim, number);
}

static void on_sample(struct wb_sim *sim, int32_t number)
{
	struct cpu *cpu = &sim->cpus[number];
	struct task *task = cpu->task == NONE ? NULL : &sim->tasks[cpu->task];
	uint64_t local, charge;
	int hit;

	sim_post(sim, sim->out.now + sim->experiment.period, EV_SAMPLE, number, 0);
	if (sim_mix(sim->noise++ ^ sim->config.seed << 20) % 1000 < sim->config.lost) {
		sim->out.lost++;
		return;
	}
	if (task && task->state == RUNNING && !task->unscoped) {
		sim_settle(sim, cpu);
		hit = task->region == sim->region && sim->out.now >= cpu->work_since && task->remaining;
		sim->out.samples++;
		sim->out.hits += (uint64_t)hit;
		local = task->clock.local;
		charge = schedcoz_sample(&task->clock, &cpu->clock, &sim->experiment, sim->out.now, hit) - local;
		local += charge;
		charge = schedcoz_service(&sim->experiment, charge);
		task->vtime -= charge < task->vtime ? charge : task->vtime;
		if (charge) {
			cpu->slice_end += charge;
			sim_post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
		}
		if (sim->experiment.active && local > sim->out.global)
			sim->out.global = local;
		if (sim->config.sample_cost) {
			cpu->work_since += sim->config.sample_cost;
			sim_schedule_end(sim, number);
			sim_post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
		}
	}
	cpu->clock.last_sample = sim->out.now;
	for (uint32_t i = 0; sim->experiment.active && i < sim->config.cpus; i++) {
		struct cpu *other = &sim->cpus[i];

		if ((int32_t)i == number || other->task == NONE || sim->tasks[other->task].state != RUNNING ||
		    sim->tasks[other->task].unscoped || other->stop_pending ||
		    schedcoz_debt(other->clock.local, sim->out.global) <= sim->experiment.min_debt)
			continue;
		other->stop_pending = 1;
		sim->out.kicks++;
		sim_post(sim, sim->out.now + sim_latency(sim, sim->config.stop_latency), EV_STOP, (int32_t)i, 0);
	}
}

void sim_on_event(struct wb_sim *sim, const struct event *event)
{
	int32_t number = event->subject;
	struct cpu *cpu = &sim->cpus[number];

	switch (event->kind) {
	case EV_RUN_END:
		if (event->generation != cpu->generation || cpu->task == NONE)
			return;
		sim_settle(sim, cpu);
		sim_advance(sim, number);
		if (cpu->task == NONE)
			dispatch(sim, number);
		else
			sim_post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
		return;
	case EV_SLICE:
		if (event->generation != cpu->generation || cpu->task == NONE || sim->tasks[cpu->task].state != RUNNING)
			return;
		if (sim->out.now < cpu->slice_end) /* it was made longer since */
			return;
		if (pick(sim) != NONE) {
			stop(sim, number);
		} else {
			cpu->slice_end = sim->out.now + sim->config.slice;
			sim_post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
		}
		return;
	case EV_STOP: /* whoever runs there now */
		cpu->stop_pending = 0;
		if (cpu->task == NONE || sim->tasks[cpu->task].state != RUNNING || sim->tasks[cpu->task].unscoped)
			return;
		if (schedcoz_owes(&sim->tasks[cpu->task].clock, &sim->experiment, sim->out.global))
			stop(sim, number);
		return;
	case EV_START:
		if (event->generation == cpu->generation)
			on_start(sim, number);
		return;
	case EV_KICK:
		dispatch(sim, number);
		return;
	case EV_SAMPLE:
		on_sample(sim, number);
		return;
	case EV_WAKE:
		sim_wake(sim, number, NONE);
		return;
	default: /* EV_PAY */
		if (event->generation == sim->pay_generation)
			sim_release_payers(sim);
	}
}
