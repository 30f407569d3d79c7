/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Records and maps of uprobe.bpf.c: what it is told about sites, what it sends, what it counts. */
#pragma once
#include "workbench.h"
#include "stack.h"
#include "window.h"

#define MAX_ARGUMENTS 12
#define MAX_STRINGS 4
#define MAX_STRING 256
#define SLOTS 4 /* hits that may preempt each other on one CPU */
#define BUCKETS_PER_OCTAVE 4

enum event { ENTRY, RETURN, CALL, MARK };
enum source { NOWHERE, REGISTER, MEMORY, CONSTANT };
enum { FUNCTION_START = 1 };
enum { SIGNED = 1, STRING = 2, INDEXED = 4 };

struct argument {
	__s64 offset;     /* added to the address, or the constant */
	__u16 base, index; /* offsets in struct pt_regs */
	__u8 source, shift, size, flags;
};

struct site {
	struct argument arguments[MAX_ARGUMENTS];
	__u32 count, flags;
};

struct hit {
	__u64 time; /* of the entry where entry and return are joined */
	__u64 duration, result;
	__u32 pid, tid, cpu, site;
	__u32 event;
	__u32 unreadable; /* bit per argument whose memory could not be read */
	char comm[COMM_LENGTH];
};

struct frame {
	__u64 sp; /* at the return */
	__u32 tid, site;
};

struct entry {
	__u64 time, ip;
	__u32 unreadable, reserved;
	__u64 arguments[MAX_ARGUMENTS];
};

struct strings {
	char text[MAX_STRINGS * MAX_STRING];
};

struct who {
	__u32 pid, site;
};

struct count {
	__u64 hits, returns, duration;
};

struct bucket {
	__u32 pid, site, bucket, reserved;
};

struct latency {
	__u64 count, total;
};

struct scratch {
	__u32 busy, reserved;
	struct hit head;
	__u8 body[8 * MAX_ARGUMENTS + MAX_STRINGS * MAX_STRING + sizeof(struct stack_head) + 8 + STACK_BODY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct site);
} sites SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct frame);
	__type(value, struct entry);
} pending SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct frame);
	__type(value, struct strings);
} pending_strings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct strings);
} no_strings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct who);
	__type(value, struct count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct bucket);
	__type(value, struct latency);
} latencies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* SLOTS x possible CPUs where stacks are taken */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");
