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

#include "sched_simulator.h"

uint64_t sim_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

uint64_t sim_around(uint64_t mean, uint64_t thousandths, uint64_t draw)
{
	double unit = (double)(draw >> 11) / 9007199254740992.0; /* 2^53 */

	return (uint64_t)((double)mean * (1 + (2 * unit - 1) * (double)thousandths / 1000));
}

uint64_t sim_latency(struct wb_sim *sim, uint64_t mean)
{
	return mean ? sim_around(mean, sim->config.jitter, sim_mix(sim->noise++ ^ sim->config.seed << 20)) : 0;
}

static int earlier(const struct event *a, const struct event *b)
{
	return a->time != b->time ? a->time < b->time : a->sequence < b->sequence;
}

void sim_post(struct wb_sim *sim, uint64_t time, int32_t kind, int32_t subject, uint64_t generation)
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
	    !sim_valid(ops, op_count, object_count) || !(sim = calloc(1, sizeof(*sim))))
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
		sim_post(sim, sim_mix(config->seed ^ i) % 1000000, EV_SAMPLE, (int32_t)i, 0);
	}
	for (uint32_t i = 0; i < task_count; i++) {
		int64_t pc = starts[i] < 0 ? -1 - starts[i] : starts[i];
		int32_t id = (uint64_t)pc < op_count ? sim_spawn(sim, pc, NONE) : NONE;

		if (id == NONE) {
			wb_sim_free(sim);
			return NULL;
		}
		sim->tasks[id].unscoped = starts[i] < 0;
		sim_wake(sim, id, NONE);
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
			sim_settle(sim, &sim->cpus[i]);
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
	sim_release_payers(sim);
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
		sim_on_event(sim, &event);
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
