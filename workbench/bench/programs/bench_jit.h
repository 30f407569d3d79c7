/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The same C for BPF and for the native compiler: `workbench bench jit` compiles each file here for both.
 *
 * A program is PROGRAM(name) { ... }: it reads `input`, may write `output`, and returns a number that both must agree
 * on. Natively a map is a handle that the benchmark sets, and a helper a call through the runtime's own table.
 */
#ifndef BENCH_JIT_H
#define BENCH_JIT_H

#ifdef __bpf__

#include "workbench.h"

#define PROGRAM(name) SEC("syscall") long name(void *ctx)
#define SHARED
#define MAP(name_, type_, key_, value_, entries_) \
	struct {                                  \
		__uint(type, type_);              \
		__uint(max_entries, entries_);    \
		__type(key, key_);                \
		__type(value, value_);            \
	} name_ SEC(".maps")

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#else

#include <linux/types.h>
#include <stdbool.h>

#define EXPORT __attribute__((visibility("default")))
#define PROGRAM(name) EXPORT long name(void *ctx)
#define SHARED static
#define __noinline /* a native compiler may inline: it chooses as it would for any C */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define bpf_htons(x) __builtin_bswap16(x)

/* Helpers by number, as the run's table has them: wb_helper_NAME(run, r1..r5). */
typedef __u64 (*helper)(void *run, __u64, __u64, __u64, __u64, __u64);
static void *bench_run;
static const helper *bench_helpers;

EXPORT void bench_set(void *run, const helper *helpers)
{
	bench_run = run;
	bench_helpers = helpers;
}

#define MAP(name_, type_, key_, value_, entries_)           \
	static void *name_;                                 \
	EXPORT void bench_map_##name_(void *map)            \
	{                                                   \
		name_ = map;                                \
	}
#define CALL(number, a, b, c, d) bench_helpers[number](bench_run, (__u64)(a), (__u64)(b), (__u64)(c), (__u64)(d), 0)
#define bpf_map_lookup_elem(map, key) ((void *)CALL(1, *(map), key, 0, 0))
#define bpf_map_update_elem(map, key, value, flags) ((long)CALL(2, *(map), key, value, flags))

static __always_inline long bpf_loop(__u32 rounds, void *callback, void *ctx, __u64 flags)
{
	long (*function)(__u64, void *) = (long (*)(__u64, void *))callback;

	for (__u32 i = 0; i < rounds; i++)
		if (function(i, ctx))
			return i + 1;
	return rounds;
}

#endif

#define INPUT_BYTES 4096

#ifdef __bpf__
unsigned char input[INPUT_BYTES];
unsigned char output[INPUT_BYTES];
#else
static unsigned char input[INPUT_BYTES] __attribute__((aligned(64)));
static unsigned char output[INPUT_BYTES] __attribute__((aligned(64)));

EXPORT void *bench_input(void)
{
	return input;
}

/* Runs `function` n times: the loop that both sides are timed with. */
EXPORT __u64 bench_repeat(__u64 (*function)(void *, void *), void *ctx, void *run, __u64 n)
{
	__u64 result = 0;

	while (n--) {
		result = function(ctx, run);
		__asm__ volatile("" ::: "memory");
	}
	return result;
}
#endif

#endif
