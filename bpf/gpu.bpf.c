/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Calls of GPU APIs: one pair of programs for all functions. The attach cookie holds the number of the API function
 * (low 16 bits; `apis` says where its arguments are) and the class of its first instruction, for the cost.
 *
 * What a call moved or allocated is decided when it returns, and only if it succeeded: handles are written by the
 * callee, and a failed call moves nothing. A call is joined with its return by the stack pointer, as in uprobe.bpf.c.
 *
 * Live allocations are kept by pointer, so that a free has its bytes. An allocation leaves the table when the free is
 * entered (after that the address may come back to another thread before the free returns) and comes back if the
 * free fails.
 */
#define MAX_COPY (16 * 1024)
#include "workbench.h"
#include "stack.h"
#include "window.h"

#define MAX_FIELDS 10
#define MAX_TEXT 512
#define SLOTS 4 /* hits that may preempt each other on one CPU */

enum source { NOWHERE, REGISTER, MEMORY };
enum { AT_RETURN = 1, BYTES = 2, POINTER = 4, CODE = 8, TEXT = 16 };
enum kind { OTHER, ALLOC, FREE, RETAIN, NAME };
enum result { RESULT_CODE, RESULT_HANDLE, RESULT_ADDRESS, RESULT_VOID };
enum { NESTED = 1, FREED = 2, SHARED = 4 };

struct field {
	__s32 offset; /* MEMORY: added to the register */
	__u16 base;   /* offset in struct pt_regs */
	__u8 source, shift, size, flags;
	__u16 inner; /* AT_RETURN: added to the address found at the entry */
};

struct api {
	struct field fields[MAX_FIELDS];
	__u32 count;
	__u16 scale; /* bytes per unit */
	__u8 kind, result, layer;
	__u8 reserved[7];
};

struct call {
	__u64 time, duration;
	__u64 bytes, pointer;
	__u32 pid, tid, cpu, api;
	__s32 code;
	__u32 flags;
	char comm[COMM_LENGTH];
	__u64 values[MAX_FIELDS];
	struct stack_head stack;
};

struct name {
	__u64 time, handle;
	__u32 pid, api;
	char text[MAX_TEXT];
};

struct frame {
	__u64 sp; /* at the return */
	__u32 tid, cookie;
};

struct allocation_key {
	__u64 pointer;
	__u32 pid, layer;
};

struct allocation {
	__u64 bytes, time;
	__u32 api, tid, references, reserved;
};

struct pending {
	__u64 time, ip;
	__u32 flags, reserved;
	struct allocation freed;
	__u64 values[MAX_FIELDS];
};

struct who {
	__u32 pid, cookie;
};

struct count {
	__u64 calls, errors, bytes, duration;
};

struct scratch {
	__u32 busy, reserved;
	struct call head;
	__u8 tail[8 + STACK_BODY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct api);
} apis SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct frame);
	__type(value, struct pending);
} pending SEC(".maps");

/* Stack pointer of the outermost call under way in each thread; 0 where there is none. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} outermost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct allocation_key);
	__type(value, struct allocation);
} live SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct who);
	__type(value, struct count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* SLOTS x possible CPUs where stacks are taken */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

RING(calls);
PUBLISH(calls, call);
RING(names);
PUBLISH(names, name);

/* False counts only, by function: no row per call, half the cost. */
const volatile bool want_events = true;
const volatile bool want_stacks = false;

__u64 lost_ring_full;
__u64 lost_names;
__u64 lost_map_full;
__u64 lost_counts_full;
__u64 lost_live_full;
__u64 lost_nested;
__u64 lost_no_entry;

#if defined(__TARGET_ARCH_x86)
struct pt_regs___gpu {
	unsigned long ax, ip, sp;
} __attribute__((preserve_access_index));
#define RESULT(ctx) (((struct pt_regs___gpu *)(ctx))->ax)
#define IP(ctx) (((struct pt_regs___gpu *)(ctx))->ip)
#define SP(ctx) (((struct pt_regs___gpu *)(ctx))->sp)
#define RETURN_ADDRESS 8 /* `ret` pops it: at the return the stack pointer is that much higher */
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs___gpu {
	__u64 regs[31];
	__u64 sp, pc;
} __attribute__((preserve_access_index));
#define RESULT(ctx) (((struct pt_regs___gpu *)(ctx))->regs[0])
#define IP(ctx) (((struct pt_regs___gpu *)(ctx))->pc)
#define SP(ctx) (((struct pt_regs___gpu *)(ctx))->sp)
#define RETURN_ADDRESS 0
#else
#error "the calling convention of this architecture is not described here"
#endif

/* Unreadable memory gives 0: OpenCL's optional arrays are null. */
static __always_inline __u64 read_user(__u64 from, __u8 size)
{
	__u64 value = 0;

	if (size == 4)
		bpf_probe_read_user(&value, 4, (void *)from);
	else
		bpf_probe_read_user(&value, 8, (void *)from);
	return value;
}

static __always_inline __u64 read_field(void *ctx, const struct field *f)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), ctx + f->base);
	if (f->source == MEMORY)
		return read_user(value + f->offset, f->flags & AT_RETURN ? 8 : f->size);
	value >>= f->shift & 63;
	return f->size == 4 && !(f->flags & AT_RETURN) ? (__u32)value : value;
}

static __always_inline void count(__u32 pid, __u32 cookie, bool failed, __u64 bytes, __u64 duration)
{
	struct who key = { .pid = pid, .cookie = cookie };
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
	__sync_fetch_and_add(&found->calls, 1);
	__sync_fetch_and_add(&found->errors, failed);
	__sync_fetch_and_add(&found->bytes, bytes);
	__sync_fetch_and_add(&found->duration, duration);
}

/* Take the allocation out of the table, or one reference off it. */
static __always_inline void begin_free(const struct api *api, __u64 who, __u64 pointer, struct pending *p)
{
	struct allocation_key key = { .pointer = pointer, .pid = who >> 32, .layer = api->layer };
	struct allocation *found = bpf_map_lookup_elem(&live, &key);

	if (!found)
		return;
	if (found->references > 1) {
		__sync_fetch_and_sub(&found->references, 1);
		p->flags |= SHARED;
		return;
	}
	p->freed = *found;
	if (!bpf_map_delete_elem(&live, &key))
		p->flags |= FREED;
}

static __always_inline void undo_free(const struct api *api, __u64 who, __u64 pointer, struct pending *p)
{
	struct allocation_key key = { .pointer = pointer, .pid = who >> 32, .layer = api->layer };
	struct allocation *found;

	if (p->flags & FREED)
		bpf_map_update_elem(&live, &key, &p->freed, BPF_NOEXIST);
	if (p->flags & SHARED && (found = bpf_map_lookup_elem(&live, &key)))
		__sync_fetch_and_add(&found->references, 1);
}

static __always_inline void retain(const struct api *api, __u64 who, __u64 pointer)
{
	struct allocation_key key = { .pointer = pointer, .pid = who >> 32, .layer = api->layer };
	struct allocation *found = bpf_map_lookup_elem(&live, &key);

	if (found)
		__sync_fetch_and_add(&found->references, 1);
}

static __always_inline void allocated(const struct api *api, __u32 id, __u64 who, __u64 pointer, __u64 bytes,
				      __u64 time)
{
	struct allocation_key key = { .pointer = pointer, .pid = who >> 32, .layer = api->layer };
	struct allocation value = { .bytes = bytes, .time = time, .api = id, .tid = who, .references = 1 };

	if (pointer && bpf_map_update_elem(&live, &key, &value, BPF_ANY))
		__sync_fetch_and_add(&lost_live_full, 1);
}

static __always_inline void send_name(__u32 id, __u64 who, __u64 handle, __u64 text, __u64 now)
{
	struct name *n = bpf_ringbuf_reserve(&names, sizeof(*n), 0);

	if (!n) {
		__sync_fetch_and_add(&lost_names, 1);
		return;
	}
	n->time = now;
	n->handle = handle;
	n->pid = who >> 32;
	n->api = id;
	n->text[0] = 0;
	if (text)
		bpf_probe_read_user_str(n->text, MAX_TEXT, (void *)text);
	bpf_ringbuf_submit(n, 0);
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

static __always_inline void emit(void *ctx, __u32 id, __u64 who, struct pending *p, __u64 now, __u64 bytes,
				 __u64 pointer, __s32 code)
{
	struct scratch *s = 0;
	struct call *c;

	if (want_stacks) {
		s = take_scratch();
		c = s ? &s->head : 0;
		if (!c)
			return;
	} else {
		c = bpf_ringbuf_reserve(&calls, sizeof(*c), 0);
		if (!c) {
			__sync_fetch_and_add(&lost_ring_full, 1);
			return;
		}
	}
	c->time = p->time;
	c->duration = now - p->time;
	c->bytes = bytes;
	c->pointer = pointer;
	c->pid = who >> 32;
	c->tid = who;
	c->cpu = bpf_get_smp_processor_id();
	c->api = id;
	c->code = code;
	c->flags = p->flags;
	bpf_get_current_comm(c->comm, COMM_LENGTH);
	__builtin_memcpy(c->values, p->values, sizeof(c->values));
	c->stack.copied = 0;
	c->stack.kernel_frames = c->stack.user_frames = 0;
	c->stack.ip = c->stack.sp = c->stack.fp = 0;
	if (!want_stacks) {
		bpf_ringbuf_submit(c, wake_flags(&calls));
		return;
	}
	{
		/* After the return the innermost frame is the caller: put the API function itself before it. */
		__u32 used = 8 + capture_stack(ctx, &c->stack, s->tail + 8);

		*(__u64 *)s->tail = p->ip;
		c->stack.kernel_frames = 1;
		if (c->stack.user_frames)
			((__u64 *)s->tail)[1] -= 1;
		c->stack.ip -= 1;
		if (used > sizeof(s->tail))
			used = sizeof(s->tail);
		if (bpf_ringbuf_output(&calls, c, sizeof(*c) + used, wake_flags(&calls)))
			__sync_fetch_and_add(&lost_ring_full, 1);
		__sync_lock_test_and_set(&s->busy, 0);
	}
}

static __always_inline int entered(void *ctx, bool sleepable)
{
	__u32 cookie = bpf_get_attach_cookie(ctx), id = cookie & 0xffff;
	__u64 who = bpf_get_current_pid_tgid(), pointer = 0, *outer;
	struct frame key = { .sp = SP(ctx) + RETURN_ADDRESS, .tid = who, .cookie = cookie };
	struct api *api = bpf_map_lookup_elem(&apis, &id);
	struct pending p = {};

	if (paused || !api)
		return 0;
	for (int i = 0; i < MAX_FIELDS; i++) {
		if (i >= api->count)
			break;
		p.values[i] = read_field(ctx, &api->fields[i]);
		if (api->fields[i].flags & POINTER)
			pointer = p.values[i];
		if (sleepable && api->fields[i].flags & TEXT) {
			char byte;

			bpf_copy_from_user(&byte, 1, (void *)p.values[i]);
		}
	}
	if (api->kind == FREE)
		begin_free(api, who, pointer, &p);
	outer = bpf_map_lookup_elem(&outermost, &key.tid);
	if (outer && *outer >= key.sp)
		p.flags |= NESTED;
	else if (outer)
		*outer = key.sp;
	else
		bpf_map_update_elem(&outermost, &key.tid, &key.sp, BPF_ANY);
	p.ip = IP(ctx);
	p.time = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&pending, &key, &p, BPF_ANY))
		__sync_fetch_and_add(&lost_map_full, 1);
	return 0;
}

SEC("uprobe.multi/enter")
int enter(void *ctx)
{
	return entered(ctx, false);
}

/* For functions that take a kernel's name, which nobody may have read yet: it is brought into memory first. */
SEC("uprobe.multi.s/enter_name")
int enter_name(void *ctx)
{
	return entered(ctx, true);
}

SEC("uprobe.multi/leave")
int leave(void *ctx)
{
	__u32 cookie = bpf_get_attach_cookie(ctx), id = cookie & 0xffff;
	__u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid(), result = RESULT(ctx);
	struct frame key = { .sp = SP(ctx), .tid = who, .cookie = cookie };
	struct pending *p = bpf_map_lookup_elem(&pending, &key);
	struct api *api = bpf_map_lookup_elem(&apis, &id);
	__u64 bytes = 0, pointer = 0, text = 0, *outer;
	bool failed, has_bytes = false, has_code = false;
	__s32 code = 0, written = 0;

	if (paused || !api)
		return 0;
	outer = bpf_map_lookup_elem(&outermost, &key.tid);
	if (outer && *outer == key.sp)
		*outer = 0;
	if (!p) {
		__sync_fetch_and_add(&lost_no_entry, 1);
		return 0;
	}
	bytes = api->scale;
	for (int i = 0; i < MAX_FIELDS; i++) {
		struct field *f = &api->fields[i];
		__u64 value;

		if (i >= api->count)
			break;
		value = p->values[i];
		if (f->flags & CODE) {
			has_code = value != 0;
			written = has_code ? read_user(value, 4) : 0;
			continue;
		}
		if (f->flags & AT_RETURN)
			p->values[i] = value = read_user(value + f->inner, f->size);
		if (f->flags & BYTES) {
			bytes *= value;
			has_bytes = true;
		}
		if (f->flags & POINTER)
			pointer = value;
		if (f->flags & TEXT)
			text = value;
	}
	if (api->result == RESULT_CODE)
		code = result;
	else if (api->result != RESULT_VOID && !result)
		code = has_code && written ? written : 1;
	if (api->result == RESULT_HANDLE)
		pointer = result;
	failed = code != 0;
	if (!has_bytes || failed)
		bytes = 0;
	switch (api->kind) {
	case ALLOC:
		if (failed)
			pointer = 0;
		else
			allocated(api, id, who, pointer, bytes, p->time);
		break;
	case FREE:
		if (failed)
			undo_free(api, who, pointer, p);
		else if (p->flags & FREED)
			bytes = p->freed.bytes;
		break;
	case RETAIN:
		if (!failed)
			retain(api, who, pointer);
		break;
	case NAME:
		if (!failed && want_events)
			send_name(id, who, pointer, text, now);
		break;
	}
	count(who >> 32, cookie, failed, bytes, now - p->time);
	if (want_events && api->kind != NAME)
		emit(ctx, id, who, p, now, bytes, pointer, code);
	bpf_map_delete_elem(&pending, &key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
