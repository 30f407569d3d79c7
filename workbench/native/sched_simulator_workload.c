/* What the simulator's tasks do: the operations of a workload, the locks, barriers and channels that tasks share, and
 * children.
 */
#include <string.h>

#include "sched_simulator.h"

/* Operations that take no time between two that do: more is a workload that loops without doing anything. */
#define SPIN_LIMIT 10000

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

static uint64_t draw(struct wb_sim *sim, struct task *task)
{
	return sim_mix(sim->config.seed ^ sim_mix((uint64_t)task->identity << 32 ^ task->draws++));
}

void sim_advance(struct wb_sim *sim, int32_t number)
{
	int32_t id = sim->cpus[number].task, other;

	for (int spins = 0; spins < SPIN_LIMIT; spins++) {
		struct task *task = &sim->tasks[id];
		const struct wb_sim_op *op = &sim->ops[task->pc];
		struct object *object = op->kind >= OP_LOCK && op->kind <= OP_RECEIVE ? &sim->objects[op->a] : NULL;

		switch (op->kind) {
		case OP_RUN:
			task->region = (int32_t)op->a;
			task->remaining = sim_around((uint64_t)op->b, (uint64_t)op->c, draw(sim, task));
			task->remaining = task->remaining * sim->scale[op->a] / 1000;
			task->pc++;
			if (!task->remaining)
				break;
			sim_schedule_end(sim, number);
			return;
		case OP_LOCK:
			if (object->value) {
				queue_task(sim, &object->first, &object->last, id);
				sim_block(sim, number);
				return;
			}
			object->value = 1;
			task->pc++;
			break;
		case OP_UNLOCK:
			object->value = 0;
			task->pc++;
			if ((other = unqueue(sim, &object->first)) != NONE)
				sim_wake(sim, other, id);
			break;
		case OP_BARRIER:
			task->pc++;
			if (++object->value < object->limit) {
				queue_task(sim, &object->first, &object->last, id);
				sim_block(sim, number);
				return;
			}
			object->value = 0;
			while ((other = unqueue(sim, &object->first)) != NONE)
				sim_wake(sim, other, id);
			break;
		case OP_SEND:
			if (object->value >= object->limit) {
				queue_task(sim, &object->first_sender, &object->last_sender, id);
				sim_block(sim, number);
				return;
			}
			object->value++;
			task->pc++;
			if ((other = unqueue(sim, &object->first)) != NONE)
				sim_wake(sim, other, id);
			break;
		case OP_RECEIVE:
			if (!object->value) {
				queue_task(sim, &object->first, &object->last, id);
				sim_block(sim, number);
				return;
			}
			object->value--;
			task->pc++;
			if ((other = unqueue(sim, &object->first_sender)) != NONE)
				sim_wake(sim, other, id);
			break;
		case OP_SLEEP:
			task->pc++;
			sim_post(sim, sim->out.now + sim_around((uint64_t)op->a, (uint64_t)op->b, draw(sim, task)), EV_WAKE, id, 0);
			sim_block(sim, number);
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
			if ((other = sim_spawn(sim, op->a, id)) == NONE)
				return;
			sim_wake(sim, other, NONE);
			break;
		case OP_JOIN:
			if (task->children) {
				task->joining = 1;
				sim_block(sim, number);
				return;
			}
			task->pc++;
			break;
		default: /* OP_END */
			other = task->parent;
			if (other != NONE && !--sim->tasks[other].children && sim->tasks[other].joining) {
				sim->tasks[other].joining = 0;
				sim_wake(sim, other, id);
			}
			sim_leave(sim, number, 0);
			sim->tasks[id].state = ENDED;
			return;
		}
		if (sim->cpus[number].task != id)
			return;
	}
	sim->status = STATUS_SPINS;
}

int32_t sim_spawn(struct wb_sim *sim, int64_t pc, int32_t parent)
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
		task->identity = (int32_t)(sim_mix((uint64_t)from->identity << 32 ^ from->draws++) & 0x7fffffff);
		schedcoz_fork(&task->clock, &from->clock, &sim->experiment, sim->out.now);
	}
	if (id == sim->task_count)
		sim->task_count++;
	return (int32_t)id;
}

int sim_valid(const struct wb_sim_op *ops, uint64_t count, uint32_t objects)
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
