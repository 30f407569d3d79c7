/* The memory that a watched process and the recorder share: limits and counters, then a ring of records.
 *
 * Many threads write, one process reads. A writer claims a position by moving `head`, fills the record and publishes it
 * by its `sequence` (position + 1, release order); the reader takes records in order while the sequence is the one it
 * expects and frees them by moving `tail`. Nothing blocks: where the ring is full the hit is counted as lost.
 * Layouts are mirrored by workbench/native/watch_area.py.
 */
#ifndef WORKBENCH_WATCH_AREA_H
#define WORKBENCH_WATCH_AREA_H

#include <stdatomic.h>
#include <stdint.h>

#define WATCH_MAGIC 0x57424841u
#define WATCH_VERSION 1u
#define WATCH_PLACES 8
#define WATCH_FRAMES 32
#define WATCH_CODE 32
#define WATCH_HEADER 4096

#if defined(__x86_64__)
#define WATCH_REGISTERS 21 /* in the order of struct pt_regs */
#else
#define WATCH_REGISTERS 34 /* x0..x30 sp pc pstate */
#endif

enum { KNOWS_BEFORE = 1, KNOWS_AFTER = 2, KNOWS_CODE = 4, LATE = 8 };

struct watch_place {
	_Atomic uint64_t address; /* 0: free */
	uint64_t size;
	_Atomic uint64_t hits, recorded;
	uint64_t first;         /* what the recorder read when it armed the place, */
	uint32_t first_pid;     /* in this process, */
	_Atomic uint32_t round; /* at this arming (0: it could not) */
};

struct watch_header {
	uint32_t magic, version;
	uint32_t records; /* a power of two */
	uint32_t record_bytes;
	uint32_t token; /* upper bits of the events' signal data */
	uint32_t want_values, want_stacks;
	_Atomic uint32_t loads;         /* programs that mapped the area */
	_Atomic int64_t budget, window; /* hits that may still be recorded: in all, in this rate window */
	_Atomic uint64_t taken, lost_ring_full, lost_budget_spent, lost_rate_limited;
	_Atomic uint64_t head, tail;
	struct watch_place places[WATCH_PLACES];
};

struct watch_record {
	_Atomic uint64_t sequence;
	uint64_t time;
	uint32_t pid, tid;
	uint32_t cpu, flags;
	uint64_t address, size;
	uint64_t before, after;
	uint64_t registers[WATCH_REGISTERS];
	uint8_t code[WATCH_CODE];
	char comm[16];
	uint64_t frames; /* of `stack`, which begins with the caller: return addresses */
	uint64_t stack[WATCH_FRAMES];
};

#endif
