/* SPDX-License-Identifier: GPL-2.0 */
/* SchedCoz's observations: samples in the region (R1), who wakes whom (R3, R4), progress (R7). They see tasks of every
 * scheduler and change only those in scope.
 */
#ifndef SCHEDCOZ_OBSERVE_H
#define SCHEDCOZ_OBSERVE_H

#include "schedcoz_packets.h"
#include "schedcoz_state.h"

#include <linux/bpf_perf_event.h>

#define MAX_PIECES 8
#define MAX_FRAMES 32

/* Bits of a progress point's cookie, beside its number. */
#define LATENCY_BEGIN 256ULL
#define LATENCY_END 512ULL /* its number is the one after that of its begin */

/* Callers that are looked at where the instruction is out of scope, MAX_FRAMES - 1 at most; 0: only the instruction. */
const volatile u32 walk_frames = 0;
/* Only tasks in scope make progress. */
const volatile u32 only_scoped = 0;
/* The controller has given all tasks to the kernel's own scheduler for a while: their progress counts as well. */
u32 lent;

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

/* Addresses of one process that a sample can belong to: that of its innermost frame which is there, or in the region. A
 * process without an entry: all of them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct region);
} scopes SEC(".maps");

/* All samples of tasks in scope by where they belong to, 0 for none of the places in scope: their number, the
 * nanoseconds they stand for, and the number of those in experiments at 0 %.
 */
struct location {
	u64 address;
	u32 tgid, reserved;
};
struct located {
	u64 count, weight, plain;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct location);
	__type(value, struct located);
} locations SEC(".maps");

/* A process that is forked has the region where its parent has it; the controller knows of it only later. */
static __always_inline void inherit_region(const struct task_struct *p)
{
	u32 parent = bpf_get_current_task_btf()->tgid, child = p->tgid;
	struct region *region;

	if (child == parent)
		return;
	region = bpf_map_lookup_elem(&regions, &parent);
	if (region)
		bpf_map_update_elem(&regions, &child, region, BPF_ANY);
	region = bpf_map_lookup_elem(&scopes, &parent);
	if (region)
		bpf_map_update_elem(&scopes, &child, region, BPF_ANY);
}

/* R3 or R4: who wakes whom. Only a task's own context counts, and what a task sent; any other interrupt wakes on behalf of
 * nobody.
 */
SEC("tp_btf/sched_waking")
int BPF_PROG(waking, struct task_struct *p)
{
	struct task_state *state = state_of(p);
	struct schedcoz_task acting = {};

	if (state && (state->clock.flags & SCHEDCOZ_SCOPED) && acting_clock(&acting))
		schedcoz_waking(&state->clock, &acting, &experiment);
	return 0;
}

static __always_inline bool holds(const struct region *region, u64 address)
{
	for (int i = 0; i < MAX_PIECES; i++)
		if (address >= region->low[i] && address < region->high[i])
			return true;
	return false;
}

static __always_inline bool belongs(const struct region *region, const struct region *scope, u64 address)
{
	return !scope || holds(scope, address) || (region && holds(region, address));
}

/* Whether the instruction before this address is a call: the encodings that compilers write on x86-64. */
static __always_inline bool follows_call(u64 address)
{
	unsigned char code[6];

	if (bpf_probe_read_user(code, sizeof(code), (void *)(address - sizeof(code))))
		return false;
	return code[1] == 0xe8 || (code[0] == 0xff && code[1] == 0x15) || (code[3] == 0xff && (code[4] & 0x38) == 0x10) ||
	       (code[4] == 0xff && (code[5] & 0x38) == 0x10);
}

/* The address that a sample belongs to: as in Coz, the innermost frame in scope. What is called out of scope, the kernel
 * among it, is the caller's time. 0: there is none.
 */
static __always_inline u64 place(struct bpf_perf_event_data *ctx, const struct region *region, const struct region *scope)
{
	u64 address = PT_REGS_IP(&ctx->regs), top, frames[MAX_FRAMES];
	long size;
	u32 i;

	if ((s64)address > 0 && belongs(region, scope, address))
		return address;
	if (!walk_frames)
		return 0;
	/* A function that calls nothing mostly makes no frame: a walk along the frames would miss the one that called it. */
	if ((s64)address > 0 && !bpf_probe_read_user(&top, sizeof(top), (void *)PT_REGS_SP(&ctx->regs)) &&
	    belongs(region, scope, top - 1) && follows_call(top))
		return top - 1;
	size = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
	bpf_for(i, 0, MAX_FRAMES) {
		if (i > walk_frames || (i + 1) * 8 > size)
			break;
		/* A return address follows the call that it belongs to; the first is the instruction itself. */
		address = frames[i & (MAX_FRAMES - 1)] - (i != 0);
		if (belongs(region, scope, address))
			return address;
	}
	return 0;
}

static __always_inline void count_location(u64 address, u32 tgid, u64 weight)
{
	struct location key = {.address = address, .tgid = tgid};
	struct located *found = bpf_map_lookup_elem(&locations, &key), none = {};

	if (!found) {
		bpf_map_update_elem(&locations, &key, &none, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&locations, &key);
	}
	if (!found) {
		COUNT(unplaced);
		return;
	}
	__sync_fetch_and_add(&found->count, 1);
	__sync_fetch_and_add(&found->weight, weight);
	if (experiment.active && !experiment.speedup)
		__sync_fetch_and_add(&found->plain, 1);
}

/* One sample of a task in scope: where it belongs to, counted; whether that is the region. */
static __always_inline bool observe(struct bpf_perf_event_data *ctx, u64 weight)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct region *region = bpf_map_lookup_elem(&regions, &tgid), *scope = bpf_map_lookup_elem(&scopes, &tgid);
	u64 address = place(ctx, region, scope);
	bool hit = address && region && holds(region, address);

	COUNT(samples);
	if (weight > experiment.period)
		__sync_fetch_and_add(&counters.lost, weight - experiment.period);
	count_location(address, tgid, weight);
	if (hit) {
		COUNT(hits);
		__sync_fetch_and_add(&counters.weighted, weight);
	}
	return hit;
}

/* R1, on every CPU `1e9 / experiment.period` times a second. */
SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct task_struct *p = bpf_get_current_task_btf();
	u32 number = bpf_get_smp_processor_id();
	struct cpu_state *cpu = cpu_of(number);
	u64 now = bpf_ktime_get_ns(), before, charge;
	struct task_state *state;
	bool hit;

	state = bpf_task_storage_get(&tasks, p, 0, 0);
	if (state && cpu->clock.running && (state->clock.flags & SCHEDCOZ_SCOPED)) {
		hit = observe(ctx, schedcoz_weight(&cpu->clock, &experiment, now));
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
	/* A machine that stands still takes no samples. */
	if (cpu->sampled_in == experiment.number && now - cpu->clock.last_sample > counters.still)
		counters.still = now - cpu->clock.last_sample;
	cpu->sampled_in = experiment.active ? experiment.number : 0;
	cpu->clock.last_sample = now;
	arm_for_others(now, cpu->clock.running);
	/* Each CPU looks after its own task: the interrupt that stops another CPU's would cost the task that runs here. */
	if (experiment.active && cpu->clock.running &&
	    schedcoz_debt(cpu->clock.local, global_clock) > experiment.min_debt) {
		COUNT(kicks);
		scx_bpf_kick_cpu(number, SCX_KICK_PREEMPT);
	}
	return 0;
}

/* Of the points between which a latency lies: what is needed for how many are inside, and for how long. `left` comes last,
 * so that a reader who finds it equal to `entered` has the sum of all.
 */
static __always_inline void count_latency(struct progress_point *point, const struct progress_point *begin, u64 at)
{
	u64 entered = __sync_fetch_and_add(&point->entered, 1) + 1;
	s64 inside;

	__sync_fetch_and_add(&point->stamps, at);
	if (begin) {
		inside = begin->entered - entered;
		if (inside < point->lowest)
			point->lowest = inside;
	}
	__sync_fetch_and_add(&point->left, 1);
}

/* R7: a progress point was passed; the cookie has its number. */
SEC("uprobe.multi")
int progress(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx), now = bpf_ktime_get_ns(), at;
	u32 number = cookie & (MAX_POINTS - 1);
	struct progress_point *point = &points[number];
	struct task_state *state = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);

	if (!state || (only_scoped && !(state->clock.flags & SCHEDCOZ_SCOPED) && !(lent && state->known)))
		return 0;
	at = schedcoz_progress(&state->clock, &experiment, now);
	if (!__sync_fetch_and_add(&point->count, 1)) {
		point->first = at;
		point->first_time = now;
	}
	point->last = at;
	point->last_time = now;
	if (cookie & (LATENCY_BEGIN | LATENCY_END))
		count_latency(point, cookie & LATENCY_END ? &points[(number - 1) & (MAX_POINTS - 1)] : 0, at);
	return 0;
}

#endif
