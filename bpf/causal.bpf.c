/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Causal experiments without the scheduler: in the threads of one process, by the userspace runtime alone (bpf_delay).
 *
 * The rules are those of schedcoz_rules.h, as far as a process can know what they ask for:
 *
 *   R1  a sample of the thread's CPU time in the region: local += speedup x the time that it stands for
 *   R2  a thread that owes more than min_debt sleeps where it is found: at a sample, before it wakes another thread, when
 *       it was woken, at progress, before it ends. The time that it really slept counts.
 *   R3  who was woken by another thread (futex(2), or the end of a thread that is joined) takes over that thread's clock
 *   R4  who slept for any other reason pays what accrued meanwhile
 *   R6  a new thread starts with the clock of the one that made it
 *   R7  progress is stamped with the clock of the thread that makes it
 *
 * R5, R8 and R9 are about CPUs that are shared, which only a scheduler sees.
 *
 * Nothing grows and nobody pays once `alive_until` has passed, which the controller moves on while it lives.
 */
#include "workbench.h"

#include <bpf/bpf_tracing.h>
#include <linux/bpf_perf_event.h>

#include "schedcoz_rules.h"

typedef __u64 u64;
typedef __u32 u32;

#define MAX_POINTS 16
#define MAX_PIECES 8
#define THREADS 4096
#define WORDS 4096
#define SLICE 4000000ULL /* ns: a sleeper looks again after this time whether it still has to */
#define SLICES 64
#define FRAMES 8

static u64 (*const bpf_delay)(u64 nanoseconds) = (void *)500;

/* Frames of the stack that are compared with the region; 0: only the instruction itself. */
const volatile u32 walk_frames = 0;

struct schedcoz_experiment experiment;
u64 global_clock;
u64 alive_until; /* ns of CLOCK_MONOTONIC */

struct counters {
	u64 samples, hits, weighted, payments, paid, woken, others;
};
struct counters counters;

struct progress_point {
	u64 count, first, last, first_time, last_time;
};
struct progress_point points[MAX_POINTS];

struct region {
	u64 low[MAX_PIECES], high[MAX_PIECES];
};
struct region region;

struct thread {
	struct schedcoz_task clock;
	u64 waits_on;
	u32 known, sampled;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

/* The clock of the thread that did something last: woke the sleepers at an address, ended, made a thread. Two addresses
 * may share one; what is stored last is then believed of both.
 */
struct event {
	u64 what, at, local;
	u32 number, reserved;
};
struct event words[WORDS], born[THREADS];
struct event ended, making;

/* Records of tracepoints of system calls. */
struct entered {
	u64 common;
	long number;
	u64 arguments[6];
};
struct left {
	u64 common;
	long number, result;
};

#define COUNT(name_) __sync_fetch_and_add(&counters.name_, 1)

static __always_inline bool runs(u64 now)
{
	return *(volatile u32 *)&experiment.active && now < *(volatile u64 *)&alive_until;
}

static __always_inline u64 common_clock(void)
{
	return *(volatile u64 *)&global_clock;
}

static __always_inline void raise_global(u64 local)
{
	u64 seen = common_clock();

	for (int tries = 0; tries < 8 && local > seen; tries++) {
		u64 before = __sync_val_compare_and_swap(&global_clock, seen, local);

		if (before == seen)
			break;
		seen = before;
	}
}

static __always_inline void note(struct event *event, u64 what, const struct thread *thread, u64 now)
{
	event->what = what;
	event->local = thread->clock.local;
	event->number = experiment.number;
	event->at = now;
}

static __always_inline struct event *word(u64 address)
{
	return &words[((address >> 2) * 0x9e3779b97f4a7c15ULL >> 52) & (WORDS - 1)];
}

/* R6: of a thread that is seen for the first time, the clock at its birth; of one that was there before, the common one. */
static __always_inline void begin(struct thread *thread)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	const struct event *birth = &born[tid & (THREADS - 1)];

	if (birth->what != tid)
		birth = &making;
	if (birth->number == experiment.number) {
		thread->clock.experiment = birth->number;
		thread->clock.local = birth->local;
	}
	thread->known = 1;
}

static __always_inline struct thread *this_thread(void)
{
	struct thread *thread;

	thread = bpf_task_storage_get(&threads, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return 0;
	if (!thread->known)
		begin(thread);
	schedcoz_enter(&thread->clock, &experiment);
	return thread;
}

/* This thread, if an experiment is going on. */
static __always_inline struct thread *taking_part(u64 now)
{
	return runs(now) ? this_thread() : 0;
}

/* R2. Where a payment ends because the experiment did, the next one begins with a clock of its own. */
static __always_inline void pay(struct thread *thread)
{
	u64 now = bpf_ktime_get_ns(), owed, slept;
	u32 number = experiment.number;

	if (!runs(now) || schedcoz_debt(thread->clock.local, common_clock()) <= experiment.min_debt)
		return;
	COUNT(payments);
	for (int i = 0; i < SLICES; i++) {
		owed = schedcoz_debt(thread->clock.local, common_clock());
		if (!owed)
			return;
		slept = bpf_delay(owed < SLICE ? owed : SLICE);
		if (*(volatile u32 *)&experiment.number != number || !runs(bpf_ktime_get_ns()))
			return;
		thread->clock.local += slept;
		__sync_fetch_and_add(&counters.paid, slept);
	}
}

static __always_inline bool holds(u64 address)
{
	for (int i = 0; i < MAX_PIECES; i++)
		if (address >= region.low[i] && address < region.high[i])
			return true;
	return false;
}

static __always_inline bool in_region(struct bpf_perf_event_data *ctx)
{
	u64 frames[FRAMES];
	long size;

	if (holds(PT_REGS_IP(&ctx->regs)))
		return true;
	if (!walk_frames)
		return false;
	size = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
	for (int i = 0; i < FRAMES; i++)
		/* A return address follows the call that it belongs to. */
		if (i < walk_frames && (i + 1) * 8 <= size && holds(frames[i] - 1))
			return true;
	return false;
}

/* R1, for `charge` ns. A clock is behind the common one's when its thread slept longer than it had to, or was woken by one
 * that did. That stays its credit: were it passed on to all, each sleep that is too long would be the cause of others.
 */
static __always_inline void charge(struct thread *thread, u64 charge)
{
	u64 credit = schedcoz_debt(common_clock(), thread->clock.local);

	thread->clock.local += charge;
	raise_global(thread->clock.local - credit);
}

/* R1: how much CPU time a sample stands for. A driver that lets periods pass says so in `sample_period`. And a thread is
 * sampled a whole period after its birth for the first time, but on average only half a period before its end for the last
 * time: the first sample stands for that half as well, else threads that live for a few periods seem to do less than they do.
 */
static __always_inline u64 weight(struct thread *thread, u64 period)
{
	bool first = !thread->sampled;

	thread->sampled = 1;
	return first && !(experiment.without & SCHEDCOZ_WITHOUT_WEIGHT) ? period + period / 2 : period;
}

/* `sample_period` ns of the thread's CPU time have passed. */
SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct thread *thread;
	u64 stands_for;

	thread = taking_part(bpf_ktime_get_ns());
	if (!thread)
		return 0;
	COUNT(samples);
	stands_for = weight(thread, ctx->sample_period);
	if (in_region(ctx)) {
		COUNT(hits);
		__sync_fetch_and_add(&counters.weighted, stands_for);
		charge(thread, stands_for * experiment.speedup / SCHEDCOZ_WHOLE);
	}
	pay(thread);
	return 0;
}

/* R7: a progress point was passed; the cookie is its number. */
SEC("uprobe")
int progress(struct pt_regs *ctx)
{
	u64 number = bpf_get_attach_cookie(ctx), now = bpf_ktime_get_ns(), at;
	struct progress_point *point = &points[number & (MAX_POINTS - 1)];
	struct thread *thread;

	thread = taking_part(now);
	if (!thread)
		return 0;
	at = schedcoz_progress(&thread->clock, &experiment, now);
	if (!__sync_fetch_and_add(&point->count, 1)) {
		point->first = at;
		point->first_time = now;
	}
	point->last = at;
	point->last_time = now;
	pay(thread);
	return 0;
}

/* A function that may let others go on is entered: first what is due is paid, so that they meet in the order in which
 * they would.
 */
SEC("uprobe")
int releases(struct pt_regs *ctx)
{
	struct thread *thread;

	if (runs(bpf_ktime_get_ns()) && (thread = this_thread()))
		pay(thread);
	return 0;
}

#define BIT(command_) (1ULL << (command_))
#define WAITS (BIT(0) | BIT(6) | BIT(9) | BIT(11) | BIT(13)) /* WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2 */
#define WAKES (BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(7) | BIT(10) | BIT(12)) /* WAKE ..., UNLOCK_PI, WAKE_BITSET ... */
#define TWO_WORDS (BIT(3) | BIT(4) | BIT(5) | BIT(12)) /* REQUEUE, CMP_REQUEUE, WAKE_OP, CMP_REQUEUE_PI */

SEC("tracepoint/syscalls/sys_enter_futex")
int futex_entered(struct entered *ctx)
{
	u64 address = ctx->arguments[0], command, now = bpf_ktime_get_ns();
	struct thread *thread;

	thread = taking_part(now);
	if (!thread)
		return 0;
	command = BIT(ctx->arguments[1] & 63); /* without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME */
	if (command & WAITS) {
		thread->waits_on = address;
		schedcoz_sleep(&thread->clock, now);
	} else if (command & WAKES) {
		pay(thread);
		now = bpf_ktime_get_ns();
		note(word(address), address, thread, now);
		if (command & TWO_WORDS)
			note(word(ctx->arguments[4]), ctx->arguments[4], thread, now);
	}
	return 0;
}

/* R3 or R4: who woke this thread, if anybody did. A thread that ends wakes its joiner without a call. */
SEC("tracepoint/syscalls/sys_exit_futex")
int futex_left(struct left *ctx)
{
	u64 now = bpf_ktime_get_ns();
	const struct event *event;
	struct thread *thread;
	bool woken;

	thread = taking_part(now);
	if (!thread || !(thread->clock.flags & SCHEDCOZ_BLOCKED))
		return 0;
	event = word(thread->waits_on);
	woken = event->what == thread->waits_on && event->at >= thread->clock.sleep_at;
	if (!woken && !ctx->result) {
		event = &ended;
		woken = event->at >= thread->clock.sleep_at;
	}
	if (woken && event->number == experiment.number) {
		thread->clock.waker_local = event->local;
		thread->clock.flags |= SCHEDCOZ_WAKER;
		COUNT(woken);
	} else {
		COUNT(others);
	}
	schedcoz_ready(&thread->clock, &experiment, now);
	pay(thread);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_exit")
int thread_ends(struct entered *ctx)
{
	struct thread *thread;

	thread = taking_part(bpf_ktime_get_ns());
	if (!thread)
		return 0;
	pay(thread);
	note(&ended, 1, thread, bpf_ktime_get_ns());
	return 0;
}

/* A thread is about to be made. It may run before its maker knows its number. */
static __always_inline int makes(void)
{
	struct thread *thread;

	thread = taking_part(bpf_ktime_get_ns());
	if (!thread)
		return 0;
	pay(thread);
	note(&making, 1, thread, bpf_ktime_get_ns());
	return 0;
}

static __always_inline int made(const struct left *ctx)
{
	struct thread *thread;

	if (ctx->result <= 0)
		return 0;
	thread = taking_part(bpf_ktime_get_ns());
	if (thread)
		note(&born[ctx->result & (THREADS - 1)], ctx->result, thread, bpf_ktime_get_ns());
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_clone")
int clone_entered(struct entered *ctx)
{
	return makes();
}

SEC("tracepoint/syscalls/sys_enter_clone3")
int clone3_entered(struct entered *ctx)
{
	return makes();
}

SEC("tracepoint/syscalls/sys_exit_clone")
int clone_left(struct left *ctx)
{
	return made(ctx);
}

SEC("tracepoint/syscalls/sys_exit_clone3")
int clone3_left(struct left *ctx)
{
	return made(ctx);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
