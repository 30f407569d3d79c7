/* SPDX-License-Identifier: GPL-2.0 */
/* SchedCoz's observations: samples in the region (R1), who wakes whom (R3, R4), progress (R7). They see tasks of every
 * scheduler and change only those in scope.
 */
#ifndef SCHEDCOZ_OBSERVE_H
#define SCHEDCOZ_OBSERVE_H

#include "schedcoz_state.h"

#include <linux/bpf_perf_event.h>

#define MAX_PIECES 8

/* Bits of the preemption count that say "not in a task's own context"; they moved in Linux 7.3, the loader knows. */
const volatile u32 interrupt_mask = 0x00ffff00;
/* Frames of the user stack that are compared with the region; 0: only the instruction itself. */
const volatile u32 walk_frames = 0;

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

extern const int __preempt_count __ksym;

/* A process that is forked has the region where its parent has it; the controller knows of it only later. */
static __always_inline void inherit_region(const struct task_struct *p)
{
	u32 parent = bpf_get_current_task_btf()->tgid, child = p->tgid;
	struct region *region = child == parent ? 0 : bpf_map_lookup_elem(&regions, &parent);

	if (region)
		bpf_map_update_elem(&regions, &child, region, BPF_ANY);
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

#endif
