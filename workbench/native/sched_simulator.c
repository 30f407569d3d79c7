/* A discrete-event simulator of N CPUs under the causal-profiling scheduler: the rules are the kernel's own
 * (bpf/schedcoz_rules.h), the mechanism around them is that of bpf/schedcoz.bpf.c (a ready queue in order of service, a
 * queue of payers with one timer, kicks), and the costs of the machine are injected: time to wake a CPU, to stop a task,
 * to lose a sample.
 *
 * A workload is a table of operations (struct wb_sim_op) and a start in it per task. Only RUN and SLEEP take time.
 * Events are ordered by time, then by age, and every random number comes from the seed: equal inputs give equal outputs.
 * The duration of a task's k-th RUN depends on the seed, the task and k alone, so that a run with a region really
 * shortened is the same run otherwise.
 */
#include <stdlib.h>
#include <string.h>

#include "../../bpf/schedcoz_rules.h"
#include "core.h"

enum { OP_END, OP_RUN, OP_LOCK, OP_UNLOCK, OP_BARRIER, OP_SEND, OP_RECEIVE, OP_SLEEP, OP_PROGRESS, OP_LOOP, OP_SPAWN,
       OP_JOIN, OP_CHOOSE };
enum { BLOCKED, READY, STARTING, RUNNING, PAYING, ENDED };
enum { EV_RUN_END, EV_SLICE, EV_SAMPLE, EV_WAKE, EV_PAY, EV_STOP, EV_START };
enum { STATUS_OK, STATUS_SPINS, STATUS_MEMORY, STATUS_BAD_WORKLOAD, STATUS_TOO_LONG };

#define NONE (-1)
#define SLOTS 4
#define POINTS 8
#define REGIONS 64
/* Operations that take no time between two that do: more is a workload that loops without doing anything. */
#define SPIN_LIMIT 10000

struct wb_sim_op {
	int64_t kind, a, b, c;
};

struct wb_sim_config {
	uint64_t seed;
	uint64_t slice;		/* ns a task runs before another that is ready gets the CPU */
	uint64_t wake_latency;	/* ns, mean: from ready to running on an idle CPU */
	uint64_t stop_latency;	/* ns, mean: from the decision to stop a running task to its stop */
	uint64_t stop_cost;	/* ns of CPU that a task loses when it was withheld (switches, cold caches) */
	uint64_t timer_latency; /* ns, mean: lateness of the timer that releases payers */
	uint64_t sample_cost;	/* ns of CPU per sample */
	uint64_t switch_cost;	/* ns between two tasks on a busy CPU */
	uint64_t preempt;	/* ns of service that a task woken up must be behind to take a CPU at once; 0: never */
	uint32_t lost;		/* samples that are lost, in thousandths */
	uint32_t jitter;	/* of the injected latencies, in thousandths of their mean */
	uint32_t cpus;
	uint32_t fifo;		/* 1: ready tasks run in order of arrival instead of service */
};

struct wb_sim_point {
	uint64_t count, first, last, first_time, last_time;
};

struct wb_sim_output {
	uint64_t now, global, samples, hits, lost, payments, paid, merges, kicks, region_time, events, busy;
	uint64_t max_debt; /* largest debt of a task that began to run */
	struct wb_sim_point points[POINTS];
};

struct task {
	struct schedcoz_task clock;
	uint64_t remaining, vtime, draws, sequence, slice_left;
	int64_t pc, loops[SLOTS];
	int32_t state, cpu, region, parent, children, next, identity, joining, stopped, unscoped;
};

struct cpu {
	struct schedcoz_cpu clock;
	uint64_t work_since, slice_end, generation;
	int32_t task; /* that runs or is about to */
	int32_t held; /* the payer that was stopped here: its CPU stays its own while it pays */
	int32_t stop_pending;
};

struct event {
	uint64_t time, sequence, generation;
	int32_t kind, subject;
};

struct object { /* a lock, a barrier or a channel, with the tasks that wait for it in order of arrival */
	int64_t value, limit;
	int32_t first, last, first_sender, last_sender;
};

struct wb_sim {
	struct wb_sim_config config;
	struct schedcoz_experiment experiment;
	struct wb_sim_output out;
	const struct wb_sim_op *ops;
	uint64_t sequence, noise, min_vtime, pay_generation;
	struct task *tasks;
	uint32_t task_count, task_room;
	struct cpu *cpus;
	struct object *objects;
	struct event *heap;
	uint64_t heap_count, heap_room;
	uint32_t scale[REGIONS];
	int32_t region, status;
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* A value within `thousandths` of `mean`, even. */
static uint64_t around(uint64_t mean, uint64_t thousandths, uint64_t draw)
{
	double unit = (double)(draw >> 11) / 9007199254740992.0; /* 2^53 */

	return (uint64_t)((double)mean * (1 + (2 * unit - 1) * (double)thousandths / 1000));
}

static uint64_t latency(struct wb_sim *sim, uint64_t mean)
{
	return mean ? around(mean, sim->config.jitter, mix(sim->noise++ ^ sim->config.seed << 20)) : 0;
}

static int earlier(const struct event *a, const struct event *b)
{
	return a->time != b->time ? a->time < b->time : a->sequence < b->sequence;
}

static void post(struct wb_sim *sim, uint64_t time, int32_t kind, int32_t subject, uint64_t generation)
{
	struct event event = {time, sim->sequence++, generation, kind, subject};
	uint64_t at = sim->heap_count;

	if (at == sim->heap_room) {
		uint64_t room = sim->heap_room ? 2 * sim->heap_room : 256;
		struct event *heap = realloc(sim->heap, room * sizeof(*heap));

		if (!heap) {
			sim->status = STATUS_MEMORY;
			return;
		}
		sim->heap = heap;
		sim->heap_room = room;
	}
	sim->heap_count++;
	for (; at && earlier(&event, &sim->heap[(at - 1) / 2]); at = (at - 1) / 2)
		sim->heap[at] = sim->heap[(at - 1) / 2];
	sim->heap[at] = event;
}

static struct event take(struct wb_sim *sim)
{
	struct event top = sim->heap[0], last = sim->heap[--sim->heap_count];
	uint64_t at = 0, child;

	while ((child = 2 * at + 1) < sim->heap_count) {
		if (child + 1 < sim->heap_count && earlier(&sim->heap[child + 1], &sim->heap[child]))
			child++;
		if (!earlier(&sim->heap[child], &last))
			break;
		sim->heap[at] = sim->heap[child];
		at = child;
	}
	sim->heap[at] = last;
	return top;
}

static void enqueue(struct wb_sim *sim, int32_t id);
static void dispatch(struct wb_sim *sim, int32_t cpu);
static void place(struct wb_sim *sim, int32_t id, int32_t number, uint64_t delay);
static void start(struct wb_sim *sim, int32_t number, uint64_t delay);

static void queue_task(struct wb_sim *sim, int32_t *first, int32_t *last, int32_t id)
{
	sim->tasks[id].next = NONE;
	if (*first == NONE)
		*first = id;
	else
		sim->tasks[*last].next = id;
	*last = id;
}

static int32_t unqueue(struct wb_sim *sim, int32_t *first)
{
	int32_t id = *first;

	if (id != NONE)
		*first = sim->tasks[id].next;
	return id;
}

/* `waker` is the running task that wakes, or NONE for a timer. */
static void wake(struct wb_sim *sim, int32_t id, int32_t waker)
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
	post(sim, sim->out.now + delay + latency(sim, sim->config.timer_latency), EV_PAY, 0, ++sim->pay_generation);
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

static void release_payers(struct wb_sim *sim)
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
		if (task->vtime + sim->config.slice < sim->min_vtime)
			task->vtime = sim->min_vtime - sim->config.slice;
		task->state = BLOCKED;
		back = NONE;
		for (uint32_t c = 0; c < sim->config.cpus; c++)
			if (sim->cpus[c].held == (int32_t)i) {
				sim->cpus[c].held = NONE;
				back = (int32_t)c;
			}
		/* Its CPU was kept for the rest of its slice; when that is over it queues like any other. */
		if (back != NONE && task->slice_left)
			place(sim, (int32_t)i, back, latency(sim, sim->config.wake_latency));
		else
			enqueue(sim, (int32_t)i);
		if (back != NONE)
			dispatch(sim, back);
	}
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task == NONE && sim->cpus[i].held == NONE && !cpu_due(sim, &sim->cpus[i]))
			start(sim, (int32_t)i, latency(sim, sim->config.wake_latency));
	arm(sim);
}

/* The work done by the task on `cpu` until now. */
static void settle(struct wb_sim *sim, struct cpu *cpu)
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

static void schedule_end(struct wb_sim *sim, int32_t number)
{
	struct cpu *cpu = &sim->cpus[number];
	uint64_t from = cpu->work_since > sim->out.now ? cpu->work_since : sim->out.now;

	post(sim, from + sim->tasks[cpu->task].remaining, EV_RUN_END, number, ++cpu->generation);
}

/* The task leaves its CPU; the caller says what becomes of it. */
static void leave(struct wb_sim *sim, int32_t number, int runnable)
{
	struct cpu *cpu = &sim->cpus[number];
	struct task *task = &sim->tasks[cpu->task];

	settle(sim, cpu);
	cpu->generation++;
	if (task->unscoped) {
		cpu->clock.last_scoped = 0;
		cpu->clock.stopped_at = sim->out.now;
		task->clock.ready_at = sim->out.now;
	} else {
		schedcoz_stopping(&task->clock, &cpu->clock, &sim->experiment, sim->out.now, runnable);
	}
	cpu->task = NONE;
	task->cpu = NONE;
	task->state = BLOCKED;
}

static void block(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task;

	leave(sim, number, 0);
	schedcoz_sleep(&sim->tasks[id].clock, sim->out.now);
}

static uint64_t draw(struct wb_sim *sim, struct task *task)
{
	return mix(sim->config.seed ^ mix((uint64_t)task->identity << 32 ^ task->draws++));
}

static int32_t spawn(struct wb_sim *sim, int64_t pc, int32_t parent);

/* Carry out what takes no time, until the running task has work to do or has left its CPU. */
static void advance(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task, other;

	for (int spins = 0; spins < SPIN_LIMIT; spins++) {
		struct task *task = &sim->tasks[id];
		const struct wb_sim_op *op = &sim->ops[task->pc];
		struct object *object = op->kind >= OP_LOCK && op->kind <= OP_RECEIVE ? &sim->objects[op->a] : NULL;

		switch (op->kind) {
		case OP_RUN:
			task->region = (int32_t)op->a;
			task->remaining = around((uint64_t)op->b, (uint64_t)op->c, draw(sim, task));
			task->remaining = task->remaining * sim->scale[op->a] / 1000;
			task->pc++;
			if (!task->remaining)
				break;
			schedule_end(sim, number);
			return;
		case OP_LOCK:
			if (object->value) {
				queue_task(sim, &object->first, &object->last, id);
				block(sim, number);
				return;
			}
			object->value = 1;
			task->pc++;
			break;
		case OP_UNLOCK:
			object->value = 0;
			task->pc++;
			if ((other = unqueue(sim, &object->first)) != NONE)
				wake(sim, other, id);
			break;
		case OP_BARRIER:
			task->pc++;
			if (++object->value < object->limit) {
				queue_task(sim, &object->first, &object->last, id);
				block(sim, number);
				return;
			}
			object->value = 0;
			while ((other = unqueue(sim, &object->first)) != NONE)
				wake(sim, other, id);
			break;
		case OP_SEND:
			if (object->value >= object->limit) {
				queue_task(sim, &object->first_sender, &object->last_sender, id);
				block(sim, number);
				return;
			}
			object->value++;
			task->pc++;
			if ((other = unqueue(sim, &object->first)) != NONE)
				wake(sim, other, id);
			break;
		case OP_RECEIVE:
			if (!object->value) {
				queue_task(sim, &object->first, &object->last, id);
				block(sim, number);
				return;
			}
			object->value--;
			task->pc++;
			if ((other = unqueue(sim, &object->first_sender)) != NONE)
				wake(sim, other, id);
			break;
		case OP_SLEEP:
			task->pc++;
			post(sim, sim->out.now + around((uint64_t)op->a, (uint64_t)op->b, draw(sim, task)), EV_WAKE, id, 0);
			block(sim, number);
			return;
		case OP_PROGRESS: {
			struct wb_sim_point *point = &sim->out.points[op->a];
			uint64_t at = schedcoz_progress(&task->clock, &sim->experiment, sim->out.now);

			if (!point->count++) {
				point->first = at;
				point->first_time = sim->out.now;
			}
			point->last = at;
			point->last_time = sim->out.now;
			task->pc++;
			break;
		}
		case OP_LOOP: /* a: where to, b: how often (0: for ever), c: which counter */
			task->pc++;
			if (!op->b || ++task->loops[op->c] < op->b)
				task->pc = op->a;
			else
				task->loops[op->c] = 0;
			break;
		case OP_CHOOSE: /* a: where to, b: with what probability in thousandths */
			task->pc = draw(sim, task) % 1000 < (uint64_t)op->b ? op->a : task->pc + 1;
			break;
		case OP_SPAWN:
			task->pc++;
			if ((other = spawn(sim, op->a, id)) == NONE)
				return;
			wake(sim, other, NONE);
			break;
		case OP_JOIN:
			if (task->children) {
				task->joining = 1;
				block(sim, number);
				return;
			}
			task->pc++;
			break;
		default: /* OP_END */
			other = task->parent;
			if (other != NONE && !--sim->tasks[other].children && sim->tasks[other].joining) {
				sim->tasks[other].joining = 0;
				wake(sim, other, id);
			}
			leave(sim, number, 0);
			sim->tasks[id].state = ENDED;
			return;
		}
		if (sim->cpus[number].task != id)
			return;
	}
	sim->status = STATUS_SPINS;
}

static int32_t spawn(struct wb_sim *sim, int64_t pc, int32_t parent)
{
	struct task *task;
	uint32_t id;

	for (id = 0; id < sim->task_count && sim->tasks[id].state != ENDED; id++)
		;
	if (id == sim->task_room) {
		sim->status = STATUS_BAD_WORKLOAD;
		return NONE;
	}
	task = &sim->tasks[id];
	memset(task, 0, sizeof(*task));
	task->pc = pc;
	task->cpu = task->next = NONE;
	task->parent = parent;
	task->identity = (int32_t)id;
	task->vtime = sim->min_vtime;
	if (parent == NONE) {
		task->clock.flags = SCHEDCOZ_SCOPED;
	} else {
		struct task *from = &sim->tasks[parent];

		from->children++;
		task->unscoped = from->unscoped;
		/* What a child draws depends on its parent's draws, not on the slot that happened to be free. */
		task->identity = (int32_t)(mix((uint64_t)from->identity << 32 ^ from->draws++) & 0x7fffffff);
		schedcoz_fork(&task->clock, &from->clock, &sim->experiment, sim->out.now);
	}
	if (id == sim->task_count)
		sim->task_count++;
	return (int32_t)id;
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
	post(sim, sim->out.now + delay, EV_START, number, ++sim->cpus[number].generation);
}

static void start(struct wb_sim *sim, int32_t number, uint64_t delay)
{
	int32_t id = pick(sim);

	if (id != NONE) {
		sim->tasks[id].slice_left = sim->config.slice;
		place(sim, id, number, delay);
	}
}

/* The CPU has just lost its task. */
static void dispatch(struct wb_sim *sim, int32_t number)
{
	if (sim->cpus[number].task != NONE || sim->cpus[number].held != NONE)
		return;
	if (cpu_due(sim, &sim->cpus[number]))
		arm(sim);
	else
		start(sim, number, sim->config.switch_cost);
}

/* The moment on the virtual clock at which the CPU became free. */
static int64_t free_at(const struct cpu *cpu)
{
	return (int64_t)(cpu->clock.stopped_at - cpu->clock.last_local);
}

static void enqueue(struct wb_sim *sim, int32_t id)
{
	struct task *task = &sim->tasks[id];
	int32_t victim = NONE, best = NONE, due = 0;

	if (!task->unscoped && schedcoz_owes(&task->clock, &sim->experiment, sim->out.global)) {
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
		if (cpu_due(sim, &sim->cpus[i]))
			due = 1;
		else if (best == NONE || free_at(&sim->cpus[i]) < free_at(&sim->cpus[best]))
			best = (int32_t)i;
	}
	if (best != NONE) {
		start(sim, best, latency(sim, sim->config.wake_latency));
		return;
	}
	if (due)
		arm(sim);
	if (!sim->config.preempt)
		return;
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task != NONE && sim->tasks[sim->cpus[i].task].state == RUNNING) {
			settle(sim, &sim->cpus[i]);
			if (victim == NONE || sim->tasks[sim->cpus[i].task].vtime > sim->tasks[sim->cpus[victim].task].vtime)
				victim = (int32_t)i;
		}
	/* The CPU that is in `advance` (it is waking this task) is not taken from under it: the slice ends there at once. */
	if (victim != NONE && sim->tasks[sim->cpus[victim].task].vtime > task->vtime + sim->config.preempt) {
		sim->cpus[victim].slice_end = sim->out.now;
		post(sim, sim->out.now, EV_SLICE, victim, sim->cpus[victim].generation);
	}
}

static void on_start(struct wb_sim *sim, int32_t number)
{
	struct cpu *cpu = &sim->cpus[number];
	struct task *task = &sim->tasks[cpu->task];
	uint64_t lost = 0, debt;

	task->state = RUNNING;
	if (task->vtime > sim->min_vtime)
		sim->min_vtime = task->vtime;
	if (task->unscoped) {
		cpu->clock.running = 0;
	} else {
		if ((task->clock.flags & SCHEDCOZ_RELEASED) && (task->clock.flags & SCHEDCOZ_STOPPED))
			lost = sim->config.stop_cost;
		sim->out.merges += (uint64_t)schedcoz_running(&task->clock, &cpu->clock, &sim->experiment, sim->out.now);
		if (sim->experiment.active) {
			debt = schedcoz_debt(task->clock.local, sim->out.global);
			sim->out.max_debt = debt > sim->out.max_debt ? debt : sim->out.max_debt;
		}
	}
	cpu->work_since = sim->out.now + lost;
	cpu->slice_end = cpu->work_since + task->slice_left;
	cpu->stop_pending = 0;
	if (!task->unscoped && schedcoz_owes(&task->clock, &sim->experiment, sim->out.global)) {
		cpu->stop_pending = 1;
		post(sim, sim->out.now + latency(sim, sim->config.stop_latency), EV_STOP, number, cpu->generation);
	}
	if (task->remaining)
		schedule_end(sim, number);
	else
		advance(sim, number);
	if (cpu->task == NONE)
		dispatch(sim, number);
	else
		post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
}

static void stop(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task;

	sim->tasks[id].slice_left = sim->cpus[number].slice_end > sim->out.now ? sim->cpus[number].slice_end - sim->out.now : 0;
	leave(sim, number, 1);
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

	post(sim, sim->out.now + sim->experiment.period, EV_SAMPLE, number, 0);
	if (mix(sim->noise++ ^ sim->config.seed << 20) % 1000 < sim->config.lost) {
		sim->out.lost++;
		return;
	}
	if (task && task->state == RUNNING && !task->unscoped) {
		settle(sim, cpu);
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
			post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
		}
		if (sim->experiment.active && local > sim->out.global)
			sim->out.global = local;
		if (sim->config.sample_cost) {
			cpu->work_since += sim->config.sample_cost;
			schedule_end(sim, number);
			post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
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
		post(sim, sim->out.now + latency(sim, sim->config.stop_latency), EV_STOP, (int32_t)i, 0);
	}
}

static void on_event(struct wb_sim *sim, const struct event *event)
{
	int32_t number = event->subject;
	struct cpu *cpu = &sim->cpus[number];

	switch (event->kind) {
	case EV_RUN_END:
		if (event->generation != cpu->generation || cpu->task == NONE)
			return;
		settle(sim, cpu);
		advance(sim, number);
		if (cpu->task == NONE)
			dispatch(sim, number);
		else
			post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
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
			post(sim, cpu->slice_end, EV_SLICE, number, cpu->generation);
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
	case EV_SAMPLE:
		on_sample(sim, number);
		return;
	case EV_WAKE:
		wake(sim, number, NONE);
		return;
	default: /* EV_PAY */
		if (event->generation == sim->pay_generation)
			release_payers(sim);
	}
}

static int valid(const struct wb_sim_op *ops, uint64_t count, uint32_t objects)
{
	for (uint64_t i = 0; i < count; i++) {
		const struct wb_sim_op *op = &ops[i];
		uint64_t a = (uint64_t)op->a;

		switch (op->kind) {
		case OP_END:
			break;
		case OP_RUN:
			if (a >= REGIONS || op->b < 0 || op->b > 1000000000000 || op->c < 0 || op->c > 1000)
				return 0;
			break;
		case OP_LOCK: case OP_UNLOCK: case OP_BARRIER: case OP_SEND: case OP_RECEIVE:
			if (a >= objects)
				return 0;
			break;
		case OP_SLEEP:
			if (op->a < 0 || op->a > 1000000000000 || op->b < 0 || op->b > 1000)
				return 0;
			break;
		case OP_PROGRESS:
			if (a >= POINTS)
				return 0;
			break;
		case OP_LOOP:
			if (a >= count || op->b < 0 || (uint64_t)op->c >= SLOTS)
				return 0;
			break;
		case OP_CHOOSE:
			if (a >= count || op->b < 0 || op->b > 1000)
				return 0;
			break;
		case OP_SPAWN:
			if (a >= count)
				return 0;
			break;
		case OP_JOIN:
			break;
		default:
			return 0;
		}
	}
	/* The last operation must not run off the end. */
	return count && (ops[count - 1].kind == OP_END || (ops[count - 1].kind == OP_LOOP && !ops[count - 1].b));
}

WB_EXPORT void wb_sim_free(struct wb_sim *sim)
{
	if (!sim)
		return;
	free(sim->tasks);
	free(sim->cpus);
	free(sim->objects);
	free(sim->heap);
	free(sim);
}

/* `ops` stays the caller's and must outlive the simulation. `limits` has the limit of every object (parties of a
 * barrier, room of a channel); `starts` the first operation of every task, negative (-1 - pc) for one out of scope.
 * Returns NULL when memory is short or the workload has an operation that does not exist.
 */
WB_EXPORT struct wb_sim *wb_sim_new(const struct wb_sim_config *config, const struct wb_sim_op *ops, uint64_t op_count,
				    const int64_t *starts, uint32_t task_count, uint32_t task_room, const int64_t *limits,
				    uint32_t object_count)
{
	struct wb_sim *sim;

	if (!config->cpus || config->cpus > 1024 || task_room < task_count || task_room > 65536 ||
	    !valid(ops, op_count, object_count) || !(sim = calloc(1, sizeof(*sim))))
		return NULL;
	sim->config = *config;
	sim->ops = ops;
	sim->task_room = task_room;
	sim->region = NONE;
	sim->experiment.period = 1000000;
	sim->tasks = calloc(task_room, sizeof(*sim->tasks));
	sim->cpus = calloc(config->cpus, sizeof(*sim->cpus));
	sim->objects = calloc((size_t)object_count + 1, sizeof(*sim->objects));
	if (!sim->tasks || !sim->cpus || !sim->objects) {
		wb_sim_free(sim);
		return NULL;
	}
	for (uint32_t i = 0; i < REGIONS; i++)
		sim->scale[i] = 1000;
	for (uint32_t i = 0; i < object_count; i++)
		sim->objects[i] = (struct object){0, limits[i], NONE, NONE, NONE, NONE};
	for (uint32_t i = 0; i < config->cpus; i++) {
		sim->cpus[i].task = sim->cpus[i].held = NONE;
		post(sim, mix(config->seed ^ i) % 1000000, EV_SAMPLE, (int32_t)i, 0);
	}
	for (uint32_t i = 0; i < task_count; i++) {
		int64_t pc = starts[i] < 0 ? -1 - starts[i] : starts[i];
		int32_t id = (uint64_t)pc < op_count ? spawn(sim, pc, NONE) : NONE;

		if (id == NONE) {
			wb_sim_free(sim);
			return NULL;
		}
		sim->tasks[id].unscoped = starts[i] < 0;
		wake(sim, id, NONE);
	}
	return sim;
}

/* Begin an experiment: clocks restart at the common one, counts at zero. `scale` is what really remains of the time of
 * the region, in thousandths.
 */
WB_EXPORT void wb_sim_begin(struct wb_sim *sim, const struct schedcoz_experiment *experiment, int32_t region,
			    uint32_t scale)
{
	uint32_t number = sim->experiment.number + 1;
	uint64_t now = sim->out.now, global = sim->out.global;

	for (uint32_t i = 0; i < sim->config.cpus; i++)
		if (sim->cpus[i].task != NONE && sim->tasks[sim->cpus[i].task].state == RUNNING)
			settle(sim, &sim->cpus[i]);
	sim->experiment = *experiment;
	sim->experiment.number = number;
	sim->experiment.base = global;
	memset(&sim->out, 0, sizeof(sim->out));
	sim->out.now = now;
	sim->out.global = global;
	for (uint32_t i = 0; i < sim->config.cpus; i++)
		sim->cpus[i].clock.local = global;
	sim->region = region;
	for (uint32_t i = 0; i < REGIONS; i++)
		sim->scale[i] = 1000;
	if (region >= 0 && region < REGIONS)
		sim->scale[region] = scale;
	release_payers(sim);
}

/* Run until `duration` ns have passed or `point` has counted `hits`. Returns a status; 0 is good. */
WB_EXPORT int32_t wb_sim_run(struct wb_sim *sim, uint64_t duration, int32_t point, uint64_t hits, uint64_t max_events)
{
	uint64_t until = sim->out.now + duration;
	const struct wb_sim_point *watched = point >= 0 && point < POINTS ? &sim->out.points[point] : NULL;

	while (!sim->status && sim->heap_count && sim->heap[0].time <= until) {
		struct event event = take(sim);

		sim->out.now = event.time;
		if (sim->out.events++ == max_events)
			return STATUS_TOO_LONG;
		on_event(sim, &event);
		if (watched && watched->count >= hits)
			return sim->status;
	}
	if (!sim->status && sim->out.now < until)
		sim->out.now = until;
	return sim->status;
}

WB_EXPORT void wb_sim_read(const struct wb_sim *sim, struct wb_sim_output *out)
{
	*out = sim->out;
}

/* Sizes of the structures, for the caller that mirrors them. */
WB_EXPORT uint64_t wb_sim_size(uint32_t which)
{
	const uint64_t sizes[] = {sizeof(struct wb_sim_config), sizeof(struct wb_sim_op),
				  sizeof(struct schedcoz_experiment), sizeof(struct wb_sim_output)};

	return which < sizeof(sizes) / sizeof(sizes[0]) ? sizes[which] : 0;
}
