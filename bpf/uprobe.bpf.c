/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Uprobes, return probes and USDT marks: one pair of programs for all sites, the site's number in the attach cookie.
 *
 * A call is joined with its return by the stack pointer: what it is at the return is known at the entry and differs
 * between the frames of a recursion, so no depth has to be counted and a longjmp leaves nothing wrong behind.
 *
 * Record: struct hit, then __u64 arguments[argument_slots], then char strings[string_slots][string_bytes], then, where
 * stacks are taken, struct stack_head and its tail (stack.h). Without stacks all records are equally long.
 */
#include "uprobe.h"

/* Which processes count: all where the hook itself is limited to one, else those that scope.h keeps. */
const volatile bool limit_scope = false;
/* The thread that reads the hits: a probe on what it calls itself (malloc) would feed on its own records. */
const volatile __u32 left_out = 0;
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} targets SEC(".maps");

RING(hits);
PUBLISH(hits, hit);
PUBLISH(stack, stack_head);

/* False counts only: a tenth of the cost of an event. */
const volatile bool want_events = true;
/* Entries wait for their return and give one row together. */
const volatile bool join = false;
const volatile bool want_latency = false;
const volatile bool want_stacks = false;
const volatile __u32 argument_slots = 0;
const volatile __u32 string_slots = 0;
const volatile __u32 string_bytes = 64;

__u64 lost_ring_full;
__u64 lost_map_full;
__u64 lost_counts_full;
__u64 lost_nested;
__u64 lost_no_entry;

struct task_struct___uprobe {
	int tgid;
} __attribute__((preserve_access_index));

#if defined(__TARGET_ARCH_x86)
struct pt_regs___uprobe {
	unsigned long ax, ip, sp;
} __attribute__((preserve_access_index));
#define RESULT(ctx) (((struct pt_regs___uprobe *)(ctx))->ax)
#define IP(ctx) (((struct pt_regs___uprobe *)(ctx))->ip)
#define SP(ctx) (((struct pt_regs___uprobe *)(ctx))->sp)
#define RETURN_ADDRESS 8 /* `ret` pops it: at the return the stack pointer is that much higher */
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs___uprobe {
	__u64 regs[31];
	__u64 sp, pc;
} __attribute__((preserve_access_index));
#define RESULT(ctx) (((struct pt_regs___uprobe *)(ctx))->regs[0])
#define IP(ctx) (((struct pt_regs___uprobe *)(ctx))->pc)
#define SP(ctx) (((struct pt_regs___uprobe *)(ctx))->sp)
#define RETURN_ADDRESS 0
#else
#error "the calling convention of this architecture is not described here"
#endif

static __always_inline long read_caller(void *ctx, __u64 *caller)
{
#if RETURN_ADDRESS
	return bpf_probe_read_user(caller, 8, (void *)SP(ctx));
#else
	*caller = ((struct pt_regs___uprobe *)ctx)->regs[30];
	return 0;
#endif
}

static __always_inline __u64 register_at(void *ctx, __u16 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), ctx + offset);
	return value;
}

static __always_inline bool in_scope(__u64 who)
{
	__u32 tgid = who >> 32;

	return !paused && (__u32)who != left_out && (!limit_scope || bpf_map_lookup_elem(&targets, &tgid));
}

static __always_inline void count(__u32 pid, __u32 site, bool is_return, __u64 duration)
{
	struct who key = { .pid = pid, .site = site };
	struct count *found = bpf_map_lookup_elem(&counts, &key);

	if (!found) {
		struct count zero = {};

		bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&counts, &key);
		if (!found) {
			__sync_fetch_and_add(&lost_counts_full, 1);
			return;
		}
	}
	/* Atomic although per CPU: a probe of another thread may preempt this one. */
	__sync_fetch_and_add(is_return ? &found->returns : &found->hits, 1);
	if (duration)
		__sync_fetch_and_add(&found->duration, duration);
}

/* Four buckets per power of two: 0-3 exact, then the two bits after the highest. */
static __always_inline __u32 bucket_of(__u64 value)
{
	__u32 high = 0;
	__u64 rest = value;

	if (value < 4)
		return value;
	for (int step = 32; step; step >>= 1)
		if (rest >> step) {
			rest >>= step;
			high += step;
		}
	return BUCKETS_PER_OCTAVE * (high - 1) + ((value >> (high - 2)) & 3);
}

static __always_inline void count_latency(__u32 pid, __u32 site, __u64 duration)
{
	struct bucket key = { .pid = pid, .site = site, .bucket = bucket_of(duration) };
	struct latency *found = bpf_map_lookup_elem(&latencies, &key);

	if (!found) {
		struct latency zero = {};

		bpf_map_update_elem(&latencies, &key, &zero, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&latencies, &key);
		if (!found) {
			__sync_fetch_and_add(&lost_counts_full, 1);
			return;
		}
	}
	__sync_fetch_and_add(&found->count, 1);
	__sync_fetch_and_add(&found->total, duration);
}

/* Value of an argument, widened to 64 bits; false where its memory cannot be read. */
static __always_inline bool read_argument(void *ctx, const struct argument *a, __u64 *out)
{
	__u64 value = 0;
	__u32 bits;
	long failed = 0;

	if (a->source == CONSTANT) {
		*out = a->offset;
		return true;
	}
	value = register_at(ctx, a->base);
	if (a->source == MEMORY) {
		void *from;

		if (a->flags & INDEXED)
			value += register_at(ctx, a->index) << (a->shift & 3);
		from = (void *)(value + a->offset);
		value = 0;
		if (a->size == 1)
			failed = bpf_probe_read_user(&value, 1, from);
		else if (a->size == 2)
			failed = bpf_probe_read_user(&value, 2, from);
		else if (a->size == 4)
			failed = bpf_probe_read_user(&value, 4, from);
		else
			failed = bpf_probe_read_user(&value, 8, from);
	}
	bits = (64 - 8 * a->size) & 63;
	value <<= bits;
	*out = a->flags & SIGNED ? (__u64)((__s64)value >> bits) : value >> bits;
	return !failed;
}

/* Bring in the pages of the strings: what was never read by the process (a literal, say) is not in memory yet. */
static __always_inline void touch_strings(void *ctx, const struct site *site)
{
	for (int i = 0; i < MAX_ARGUMENTS; i++) {
		__u64 at = 0;
		char byte;

		if (i >= argument_slots)
			break;
		if (!(site->arguments[i].flags & STRING) || !read_argument(ctx, &site->arguments[i], &at) || !at)
			continue;
		bpf_copy_from_user(&byte, 1, (void *)at);
		if ((at & 4095) + string_bytes > 4096)
			bpf_copy_from_user(&byte, 1, (void *)(at + string_bytes - 1));
	}
}

/* Arguments of the hit into `values`, strings into `text`; returns the mask of what could not be read. */
static __always_inline __u32 read_arguments(void *ctx, const struct site *site, __u64 *values, char *text)
{
	__u32 unreadable = 0, used = 0;

	for (int i = 0; i < MAX_ARGUMENTS; i++) {
		const struct argument *a = &site->arguments[i];
		__u64 value = 0;

		if (i >= argument_slots)
			break;
		if (a->source != NOWHERE && !read_argument(ctx, a, &value))
			unreadable |= 1u << i;
		values[i] = value;
		if (!text || !string_slots || !(a->flags & STRING) || used >= string_slots || used >= MAX_STRINGS)
			continue;
		if (value && bpf_probe_read_user_str(text + used * string_bytes, string_bytes, (void *)value) < 0)
			unreadable |= 1u << i;
		used++;
	}
	return unreadable;
}

static __always_inline void fill(struct hit *h, __u32 site, __u64 who, __u32 event, __u64 time)
{
	h->time = time;
	h->duration = -1;
	h->result = 0;
	h->pid = who >> 32;
	h->tid = who;
	h->cpu = bpf_get_smp_processor_id();
	h->site = site;
	h->event = event;
	h->unreadable = 0;
	bpf_get_current_comm(h->comm, COMM_LENGTH);
}

/* A scratch area that no other hit uses; programs on uprobes can preempt each other. */
static __always_inline struct scratch *take_scratch(void)
{
	__u32 first = bpf_get_smp_processor_id() * SLOTS;

	for (int i = 0; i < SLOTS; i++) {
		__u32 at = first + i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &at);

		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	__sync_fetch_and_add(&lost_nested, 1);
	return 0;
}

static __always_inline void zero_text(char *text)
{
	for (int i = 0; i < MAX_STRINGS; i++) {
		if (i >= string_slots)
			break;
		text[i * string_bytes] = 0;
	}
}

/* At a function's first instruction the frame pointer is still the caller's: its chain lacks the caller itself, whose
 * return address is on top of the stack or in the link register. Newer kernels know that for some prologues. */
static __always_inline __u32 add_caller(void *ctx, struct stack_head *stack, __u8 *tail, __u32 used)
{
	__u64 caller = 0;
	long n;

	if (stack->user_frames < 1 || read_caller(ctx, &caller))
		return used;
	if (stack->user_frames > 1 && ((__u64 *)tail)[1] == caller)
		return used;
	n = bpf_get_stack(ctx, tail + 8, FRAME_BYTES - 8, BPF_F_USER_STACK);
	if (n < 8)
		return used;
	((__u64 *)tail)[0] = IP(ctx);
	((__u64 *)tail)[1] = caller;
	stack->user_frames = n / 8 + 1;
	return n + 8;
}

/* Send one hit. `entered` is what the entry of a joined call left, with its strings in `text`. */
static __always_inline void emit(void *ctx, __u32 id, const struct site *site, __u64 who, __u32 event,
				 struct entry *entered, struct strings *texts, __u64 now)
{
	const __u32 text_at = 8 * argument_slots;
	const __u32 stack_at = text_at + string_slots * string_bytes;
	struct scratch *s = 0;
	struct hit *h;
	__u8 *body;

	if (want_stacks) {
		s = take_scratch();
		if (!s)
			return;
		h = &s->head;
		body = s->body;
	} else {
		h = bpf_ringbuf_reserve(&hits, sizeof(*h) + stack_at, 0);
		if (!h) {
			__sync_fetch_and_add(&lost_ring_full, 1);
			return;
		}
		body = (__u8 *)(h + 1);
	}
	fill(h, id, who, event, entered ? entered->time : now);
	if (event == RETURN || event == CALL)
		h->result = RESULT(ctx);
	if (entered) {
		h->duration = now - entered->time;
		h->unreadable = entered->unreadable;
		for (int i = 0; i < MAX_ARGUMENTS; i++) {
			if (i >= argument_slots)
				break;
			((__u64 *)body)[i] = entered->arguments[i];
		}
		if (string_slots) {
			if (texts)
				bpf_probe_read_kernel(body + text_at, string_slots * string_bytes, texts->text);
			else
				zero_text((char *)body + text_at);
		}
	} else if (event == RETURN) {
		for (int i = 0; i < MAX_ARGUMENTS; i++) {
			if (i >= argument_slots)
				break;
			((__u64 *)body)[i] = 0;
		}
	} else {
		if (string_slots)
			zero_text((char *)body + text_at);
		h->unreadable = read_arguments(ctx, site, (__u64 *)body, (char *)body + text_at);
	}
	if (!want_stacks) {
		bpf_ringbuf_submit(h, wake_flags(&hits));
		return;
	}
	{
		struct stack_head *stack = (void *)(body + stack_at);
		__u8 *tail = body + stack_at + sizeof(*stack);
		__u32 used;

		if (event == RETURN || event == CALL) {
			/* After the return the innermost frame is the caller: put the function itself before it. */
			used = capture_stack(ctx, stack, tail + 8);
			if (entered) {
				*(__u64 *)tail = entered->ip;
				stack->kernel_frames = 1;
			} else {
				*(__u64 *)tail = IP(ctx) - 1;
				stack->kernel_frames = 1;
			}
			if (stack->user_frames)
				((__u64 *)tail)[1] -= 1;
			stack->ip -= 1;
			used += 8;
		} else {
			used = capture_stack(ctx, stack, tail);
			if (event == ENTRY && site && (site->flags & FUNCTION_START) && !stack->copied)
				used = add_caller(ctx, stack, tail, used);
		}
		if (used > STACK_BODY + 8)
			used = STACK_BODY + 8;
		if (bpf_ringbuf_output(&hits, h, sizeof(*h) + stack_at + sizeof(*stack) + used, wake_flags(&hits)))
			__sync_fetch_and_add(&lost_ring_full, 1);
		__sync_lock_test_and_set(&s->busy, 0);
	}
}

static __always_inline int entered(void *ctx, __u32 event, bool sleepable)
{
	__u32 id = bpf_get_attach_cookie(ctx), zero = 0;
	__u64 who = bpf_get_current_pid_tgid();
	struct site *site;

	if (!in_scope(who))
		return 0;
	count(who >> 32, id, false, 0);
	if (!want_events && !join)
		return 0;
	site = bpf_map_lookup_elem(&sites, &id);
	if (!site)
		return 0;
	if (sleepable && string_slots)
		touch_strings(ctx, site);
	if (join) {
		struct frame key = { .sp = SP(ctx) + RETURN_ADDRESS, .tid = who, .site = id };
		struct entry e = {};
		struct strings *text = 0, *empty;

		e.ip = IP(ctx);
		if (string_slots && (empty = bpf_map_lookup_elem(&no_strings, &zero))) {
			bpf_map_update_elem(&pending_strings, &key, empty, BPF_ANY);
			text = bpf_map_lookup_elem(&pending_strings, &key);
		}
		if (text)
			e.unreadable = read_arguments(ctx, site, e.arguments, text->text);
		else
			e.unreadable = read_arguments(ctx, site, e.arguments, 0);
		e.time = bpf_ktime_get_ns();
		if (bpf_map_update_elem(&pending, &key, &e, BPF_ANY))
			__sync_fetch_and_add(&lost_map_full, 1);
		return 0;
	}
	emit(ctx, id, site, who, event, 0, 0, bpf_ktime_get_ns());
	return 0;
}

SEC("uprobe.multi/enter")
int enter(void *ctx)
{
	return entered(ctx, ENTRY, false);
}

SEC("uprobe.multi.s/enter_strings")
int enter_strings(void *ctx)
{
	return entered(ctx, ENTRY, true);
}

SEC("uprobe.multi/mark")
int mark(void *ctx)
{
	return entered(ctx, MARK, false);
}

SEC("uprobe.multi.s/mark_strings")
int mark_strings(void *ctx)
{
	return entered(ctx, MARK, true);
}

SEC("uprobe.multi/leave")
int leave(void *ctx)
{
	__u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid(), duration = 0;
	__u32 id = bpf_get_attach_cookie(ctx);
	struct frame key = { .sp = SP(ctx), .tid = who, .site = id };
	struct entry *e = 0;

	if (!in_scope(who))
		return 0;
	if (join) {
		e = bpf_map_lookup_elem(&pending, &key);
		if (!e) {
			__sync_fetch_and_add(&lost_no_entry, 1);
			return 0;
		}
		duration = now - e->time;
		if (want_latency)
			count_latency(who >> 32, id, duration);
	}
	count(who >> 32, id, true, duration);
	if (want_events) {
		struct strings *text = join && string_slots ? bpf_map_lookup_elem(&pending_strings, &key) : 0;

		emit(ctx, id, 0, who, join ? CALL : RETURN, e, text, now);
	}
	if (join) {
		bpf_map_delete_elem(&pending, &key);
		if (string_slots)
			bpf_map_delete_elem(&pending_strings, &key);
	}
	return 0;
}

/* Children of a target, before they first run (only where limit_scope is set). Arguments: (parent, child) tasks. */
SEC("raw_tp/sched_process_fork")
int follow_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___uprobe *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	__u32 from = 0, to = 0;
	__u8 one = 1;

	bpf_probe_read_kernel(&from, sizeof(from), __builtin_preserve_access_index(&parent->tgid));
	bpf_probe_read_kernel(&to, sizeof(to), __builtin_preserve_access_index(&child->tgid));
	if (from != to && bpf_map_lookup_elem(&targets, &from))
		bpf_map_update_elem(&targets, &to, &one, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
