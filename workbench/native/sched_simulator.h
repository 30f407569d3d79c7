/* What the files of the simulator share: sched_simulator.c (events and the interface to Python),
 * sched_simulator_scheduler.c (CPUs, the rules, who pays) and sched_simulator_workload.c (what tasks do).
 */
#ifndef WORKBENCH_SCHED_SIMULATOR_H
#define WORKBENCH_SCHED_SIMULATOR_H

#include "../../bpf/schedcoz_rules.h"
#include "core.h"

enum { OP_END, OP_RUN, OP_LOCK, OP_UNLOCK, OP_BARRIER, OP_SEND, OP_RECEIVE, OP_SLEEP, OP_PROGRESS, OP_LOOP, OP_SPAWN,
       OP_JOIN, OP_CHOOSE };
enum { BLOCKED, READY, STARTING, RUNNING, PAYING, ENDED };
enum { EV_RUN_END, EV_SLICE, EV_SAMPLE, EV_WAKE, EV_PAY, EV_STOP, EV_START, EV_KICK };
enum { STATUS_OK, STATUS_SPINS, STATUS_MEMORY, STATUS_BAD_WORKLOAD, STATUS_TOO_LONG };

#define NONE (-1)
#define SLOTS 4
#define POINTS 8
#define REGIONS 64

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
	uint32_t race;		/* 1: a task that is ready waits for whichever CPU comes first, one woken for it or another */
	uint32_t reserved;
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
	uint64_t lost; /* of a stop's cost, what was not paid for yet when it was stopped again */
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

/* Events and random numbers. */
uint64_t sim_mix(uint64_t x);
/* A value within `thousandths` of `mean`, even. */
uint64_t sim_around(uint64_t mean, uint64_t thousandths, uint64_t draw);
/* An injected latency: `mean` with the machine's jitter. */
uint64_t sim_latency(struct wb_sim *sim, uint64_t mean);
void sim_post(struct wb_sim *sim, uint64_t time, int32_t kind, int32_t subject, uint64_t generation);

/* The scheduler. */
void sim_on_event(struct wb_sim *sim, const struct event *event);
/* `waker` is the running task that wakes, or NONE for a timer. */
void sim_wake(struct wb_sim *sim, int32_t id, int32_t waker);
/* Count the work done by the task on `cpu` until now. */
void sim_settle(struct wb_sim *sim, struct cpu *cpu);
/* Post the end of what the task on the CPU has left to do. */
void sim_schedule_end(struct wb_sim *sim, int32_t number);
/* The task leaves its CPU; the caller says what becomes of it. */
void sim_leave(struct wb_sim *sim, int32_t number, int runnable);
void sim_block(struct wb_sim *sim, int32_t number);
void sim_release_payers(struct wb_sim *sim);

/* The workload. */
int sim_valid(const struct wb_sim_op *ops, uint64_t count, uint32_t objects);
/* Carry out what takes no time, until the running task has work to do or has left its CPU. */
void sim_advance(struct wb_sim *sim, int32_t number);
int32_t sim_spawn(struct wb_sim *sim, int64_t pc, int32_t parent);

#endif
