/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Maps: the native side calls the same map functions through the same table. */
#include "bench_jit.h"

#ifndef __bpf__
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
#endif

MAP(counters, BPF_MAP_TYPE_ARRAY, __u32, __u64, 256);
MAP(cpu_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 256);
MAP(flows, BPF_MAP_TYPE_HASH, __u64, __u64, 1024);

/* 64 lookups in an array, each counted. */
PROGRAM(array_count)
{
	__u64 sum = 0;

	for (int i = 0; i < 64; i++) {
		__u32 key = input[i];
		__u64 *value = bpf_map_lookup_elem(&counters, &key);

		if (value) {
			*value = *value + 1;
			sum += key;
		}
	}
	return sum;
}

/* The same per CPU. */
PROGRAM(percpu_count)
{
	__u64 sum = 0;

	for (int i = 0; i < 64; i++) {
		__u32 key = input[i];
		__u64 *value = bpf_map_lookup_elem(&cpu_counters, &key);

		if (value) {
			*value = *value + 1;
			sum += key;
		}
	}
	return sum;
}

/* 64 lookups in a hash map, half of them found; those are counted. */
PROGRAM(hash_count)
{
	__u64 sum = 0;

	for (int i = 0; i < 64; i++) {
		__u64 key = input[i];
		__u64 *value = bpf_map_lookup_elem(&flows, &key);

		if (value) {
			*value = *value + 1;
			sum += key;
		}
	}
	return sum;
}

/* 16 updates of a hash map with new values. */
PROGRAM(hash_update)
{
	long errors = 0;

	for (int i = 0; i < 16; i++) {
		__u64 key = input[i] & ~1ull, value = i;

		errors += bpf_map_update_elem(&flows, &key, &value, 0) != 0;
	}
	return errors;
}
