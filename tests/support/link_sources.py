"""C of the linker's tests: every kind of ELF relocation and map definition that clang emits for BPF."""

from __future__ import annotations

HEAD = """
#include "workbench.h"
char LICENSE[] SEC("license") = "GPL";
"""

# Static and global subprograms, calls in a chain, a shared one, callbacks, a function that nothing reaches.
CALLS = (
    HEAD
    + """
static __noinline int leaf(int a) { return a * bpf_get_prandom_u32(); }
static __noinline int middle(int a) { return leaf(a + 1) + leaf(a); }
__noinline int shared(int a) { return middle(a) ^ a; }
__noinline int unused(int a) { return shared(a) + 2; }
__attribute__((visibility("hidden"))) __noinline int hidden_one(int a) { return leaf(a) | 1; }
static long each(__u32 index, void *ctx) { *(__u64 *)ctx += leaf(index); return 0; }
static long other(__u32 index, void *ctx) { *(__u64 *)ctx ^= index; return 0; }

SEC("raw_tp/sys_enter") int first(void *ctx)
{
	__u64 sum = shared(3);

	bpf_loop(10, each, &sum, 0);
	bpf_loop(10, other, &sum, 0);
	return sum + hidden_one(4);
}
SEC("raw_tp/sys_enter") int second(void *ctx) { return shared(1) + shared(2); }
SEC("?raw_tp/sys_enter") int not_by_default(void *ctx) { return middle(1); }
"""
)

# Variables of all sections, static and global, tables of constants, strings, with addends.
VARIABLES = (
    HEAD
    + """
const volatile __u32 knob = 5;
const volatile bool flag = false;
const volatile __s16 small[3] = {1, -2, 3};
static const volatile __u64 hidden_table[4] = {10, 20, 30, 40};
static volatile __u64 hidden_counter;
__u64 counter;
__u64 weights[4] = {1, 2, 3, 4};
volatile int own SEC(".data.own") = 7;
const volatile int fixed SEC(".rodata.own") = 9;
volatile int zero SEC(".bss.own");

SEC("raw_tp/sys_enter") int uses(void *ctx)
{
	char text[] = "a text on the stack";

	counter += knob + hidden_table[2] + small[1] + flag;
	hidden_counter++;
	weights[3] += own + fixed;
	zero = counter;
	return bpf_trace_printk(text, sizeof(text)) + bpf_strncmp(text, 4, "abc");
}
"""
)

# Map definitions: types, sizes, flags, pinning, extra; arrays of programs and of maps with initial values.
MAPS = (
    HEAD
    + """
struct key { __u32 a; __u64 b; };
struct {
	__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 12); __type(key, struct key); __type(value, __u32);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} table SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 3); __uint(key_size, 12); __uint(value_size, 20);
} sizes SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 5000); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_USER_RINGBUF); __uint(max_entries, 4096); } user_ring SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER); __uint(max_entries, 100); __type(value, __u32); __uint(map_extra, 3);
} bloom SEC(".maps");
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64);
} one SEC(".maps"), two SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 3); __type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [0] = &two, [2] = &one } };
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 3); __type(key, __u64);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 9); __type(key, __u32); __type(value, __u16);
	});
} by_name SEC(".maps");
int later(void *ctx);
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4);
	__array(values, int (void *));
} jumps SEC(".maps") = { .values = { [1] = (void *)&later } };
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } perf SEC(".maps");

SEC("raw_tp/sys_enter") int later(void *ctx) { return 1; }
SEC("raw_tp/sys_enter") int first(void *ctx)
{
	struct key key = {};
	__u32 zero = 0, *found = bpf_map_lookup_elem(&table, &key);
	void *in = bpf_map_lookup_elem(&outer, &zero);

	if (in)
		in = bpf_map_lookup_elem(in, &zero);
	bpf_map_push_elem(&bloom, &zero, 0);
	bpf_ringbuf_output(&ring, &zero, sizeof(zero), 0);
	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &zero, sizeof(zero));
	bpf_map_lookup_elem(&one, &zero);
	bpf_tail_call(ctx, &jumps, 1);
	return found ? *found : !in;
}
"""
)

PINNED = (
    HEAD
    + """
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} kept SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); } perf SEC(".maps");
"""
)

# What only the kernel has. Weak ones are 0 or a call that must not be reached.
WEAK = (
    HEAD
    + """
extern const void absent_variable __ksym __attribute__((weak));
extern int absent_function(int a) __ksym __attribute__((weak));
extern int CONFIG_NO_SUCH_THING __kconfig __attribute__((weak));
SEC("raw_tp/sys_enter") int careful(void *ctx)
{
	int sum = CONFIG_NO_SUCH_THING;

	if (&absent_variable)
		sum++;
	if (absent_function)
		sum += absent_function(3);
	return sum;
}
"""
)

STRONG = {
    "CONFIG_HZ": "extern int CONFIG_HZ __kconfig;\n#define USE CONFIG_HZ",
    "LINUX_KERNEL_VERSION": "extern int LINUX_KERNEL_VERSION __kconfig;\n#define USE LINUX_KERNEL_VERSION",
    "bpf_prog_active": "extern const int bpf_prog_active __ksym;\n#define USE (long)&bpf_prog_active",
    "bpf_task_acquire": "extern int bpf_task_acquire(void *) __ksym;\n#define USE bpf_task_acquire(0)",
}
USES_STRONG = """
SEC("raw_tp/sys_enter") int needs(void *ctx) { return USE; }
SEC("raw_tp/sys_enter") int plain(void *ctx) { return 0; }
"""
