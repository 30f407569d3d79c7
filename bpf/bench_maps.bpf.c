/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Maps of `workbench bench maps`: one operation an iteration on a key drawn at random, `count` iterations a run. */
#include "workbench.h"

struct value {
	__u64 words[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct value);
	__uint(max_entries, 11250);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1024);
} row SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1024);
} row_percpu SEC(".maps");

__u64 keys = 10000;
__u64 count = 1000000;
__u64 sum;

struct state {
	__u64 random, keys, sum;
	struct value value;
};

static __always_inline __u64 draw(struct state *s)
{
	__u64 x = s->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	s->random = x;
	return (x & 0xffffffff) * s->keys >> 32;
}

/* Other keys in every run and every process. */
static __always_inline __u64 start(void)
{
	return bpf_ktime_get_ns() * 0x9e3779b97f4a7c15ull | 1;
}

static long one_nothing(__u32 i, struct state *s)
{
	s->sum += draw(s);
	return 0;
}

static long one_lookup(__u32 i, struct state *s)
{
	__u64 key = draw(s);
	struct value *value = bpf_map_lookup_elem(&entries, &key);

	if (value)
		s->sum += value->words[0];
	return 0;
}

static long one_miss(__u32 i, struct state *s)
{
	__u64 key = draw(s) + s->keys;
	struct value *value = bpf_map_lookup_elem(&entries, &key);

	if (value)
		s->sum += value->words[0];
	return 0;
}

static long one_update(__u32 i, struct state *s)
{
	__u64 key = draw(s);

	s->value.words[0] = key;
	s->sum += bpf_map_update_elem(&entries, &key, &s->value, BPF_ANY);
	return 0;
}

static long one_insert_delete(__u32 i, struct state *s)
{
	__u64 key = draw(s) + s->keys;

	s->sum += bpf_map_update_elem(&entries, &key, &s->value, BPF_ANY);
	s->sum += bpf_map_delete_elem(&entries, &key);
	return 0;
}

static long one_array(__u32 i, struct state *s)
{
	__u32 key = draw(s) & 1023;
	__u64 *value = bpf_map_lookup_elem(&row, &key);

	if (value)
		++*value;
	return 0;
}

static long one_percpu_array(__u32 i, struct state *s)
{
	__u32 key = draw(s) & 1023;
	__u64 *value = bpf_map_lookup_elem(&row_percpu, &key);

	if (value)
		++*value;
	return 0;
}

#define PROGRAM(name)                                                   \
	SEC("xdp")                                                      \
	int name(void *ctx)                                             \
	{                                                               \
		struct state s = { .random = start(), .keys = keys };   \
									\
		bpf_loop(count, one_##name, &s, 0);                     \
		sum += s.sum;                                           \
		return 0;                                               \
	}

PROGRAM(nothing)
PROGRAM(lookup)
PROGRAM(miss)
PROGRAM(update)
PROGRAM(insert_delete)
PROGRAM(array)
PROGRAM(percpu_array)

char LICENSE[] SEC("license") = "Dual MIT/GPL";
