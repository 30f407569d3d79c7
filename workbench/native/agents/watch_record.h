/* One hit of a watchpoint to one record, in the signal handler of the thread that made the access: what the two agents
 * share. Everything here is async-signal-safe: system calls and atomics. It never reads foreign memory by a plain load
 * (another thread may have unmapped it): process_vm_readv fails where a load would crash.
 */
#ifndef WORKBENCH_WATCH_RECORD_H
#define WORKBENCH_WATCH_RECORD_H

#include <stdbool.h>
#include <stddef.h>

#include "../runtime/system.h"
#include "watch_area.h"

#define WATCH_AREAS 8
#define WATCH_GET_NAME 16         /* PR_GET_NAME */
#define TRAP_PERF_CODE 6          /* TRAP_PERF of asm-generic/siginfo.h, Linux >= 5.13 */
#define PERF_ADDRESS_OFFSET 16    /* si_addr of siginfo_t on 64-bit; */
#define PERF_DATA_OFFSET 24       /* si_perf_data, */
#define PERF_FLAGS_OFFSET 36      /* si_perf_type, si_perf_flags */
#define PERF_FLAG_ASYNC 1u        /* the signal was blocked when the access was made */

/* Nanoseconds of CLOCK_MONOTONIC; each agent has its own way. */
static uint64_t watch_time(void);

static _Atomic(struct watch_header *) areas[WATCH_AREAS];
static _Atomic uint32_t inside[WATCH_AREAS]; /* handlers that use an area right now */

/* The value seen last, of this process: a forked child goes on with a copy of what its parent saw. */
static struct {
	_Atomic uint64_t address, value;
	_Atomic uint32_t round;
} seen[WATCH_AREAS][WATCH_PLACES];

static bool read_memory(uint64_t address, void *to, size_t bytes)
{
	struct {
		uint64_t base, length;
	} local = { (uint64_t)to, bytes }, remote = { address, bytes };

	return wb_system_call(SYS_process_vm_readv, wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0), (int64_t)&local, 1,
			      (int64_t)&remote, 1, 0) == (int64_t)bytes;
}

/* `context` is the kernel's struct ucontext (arch/x86/include/uapi/asm/sigcontext.h, arch/arm64/...). */
static uint64_t copy_registers(const void *context, uint64_t *to, uint64_t *frame)
{
#if defined(__x86_64__)
	/* r8-r15 di si bp bx dx ax cx sp ip flags cs */
	static const uint8_t order[] = { 7, 6, 5, 4, 10, 11, 3, 2, 1, 0, 13, 14, 12, 9, 8 };
	const uint64_t *from = (const uint64_t *)((const char *)context + 40);

	for (size_t i = 0; i < sizeof(order); i++)
		to[i] = from[order[i]];
	to[15] = 0;
	to[16] = from[16];
	to[17] = from[18] & 0xffff;
	to[18] = from[17];
	to[19] = from[15];
	to[20] = 0;
	*frame = from[10];
	return to[16];
#else
	const uint64_t *from = (const uint64_t *)((const char *)context + 176) + 1; /* after fault_address */

	for (int i = 0; i < 34; i++)
		to[i] = from[i]; /* regs, sp, pc, pstate */
	*frame = to[29];
	return to[32];
#endif
}

/* Return addresses by the chain of frame pointers; it has to climb, or it is none. */
static uint64_t walk(uint64_t frame, uint64_t *to)
{
	uint64_t count = 0, pair[2];

	while (count < WATCH_FRAMES && frame && frame % 8 == 0 && read_memory(frame, pair, sizeof(pair)) && pair[1]) {
		to[count++] = pair[1];
		if (pair[0] <= frame || pair[0] - frame > (1u << 24))
			break;
		frame = pair[0];
	}
	return count;
}

static bool allowed(struct watch_header *area)
{
	if (atomic_fetch_sub(&area->budget, 1) <= 0) {
		atomic_fetch_add(&area->lost_budget_spent, 1);
		return false;
	}
	if (atomic_fetch_sub(&area->window, 1) <= 0) {
		atomic_fetch_add(&area->budget, 1);
		atomic_fetch_add(&area->lost_rate_limited, 1);
		return false;
	}
	return true;
}

static struct watch_record *claim(struct watch_header *area, uint64_t *position)
{
	uint64_t at = atomic_load(&area->head);

	do {
		if (at - atomic_load_explicit(&area->tail, memory_order_acquire) >= area->records) {
			atomic_fetch_add(&area->lost_ring_full, 1);
			return NULL;
		}
	} while (!atomic_compare_exchange_weak(&area->head, &at, at + 1));
	*position = at;
	return (struct watch_record *)((char *)area + WATCH_HEADER) + (at & (area->records - 1));
}

static void read_value(struct watch_header *area, int number, int which, struct watch_record *record)
{
	struct watch_place *place = &area->places[which];
	uint32_t round = atomic_load(&place->round);
	uint64_t now = 0;
	bool known = false;

	if (atomic_load(&seen[number][which].address) == record->address && atomic_load(&seen[number][which].round) == round) {
		record->before = atomic_load(&seen[number][which].value);
		known = true;
	} else if (round && place->first_pid == record->pid) {
		record->before = place->first;
		known = true;
	}
	if (record->size <= 8 && read_memory(record->address, &now, record->size)) {
#if defined(__x86_64__)
		record->after = now;
		record->flags |= KNOWS_AFTER;
#else
		record->before = now; /* the trap comes before the access */
		known = true;
#endif
		atomic_store(&seen[number][which].value, now);
		atomic_store(&seen[number][which].round, round);
		atomic_store(&seen[number][which].address, record->address);
	}
	if (known)
		record->flags |= KNOWS_BEFORE;
}

static void record_hit(int number, struct watch_header *area, uint64_t address, uint32_t late, const void *context)
{
	struct watch_record *record;
	uint64_t position, frame, ip;
	uint32_t cpu = 0;
	int which = 0;

	atomic_fetch_add(&area->taken, 1);
	while (which < WATCH_PLACES && atomic_load(&area->places[which].address) != address)
		which++;
	if (which == WATCH_PLACES)
		return;
	atomic_fetch_add(&area->places[which].hits, 1);
	if (!allowed(area))
		return;
	record = claim(area, &position);
	if (!record)
		return;
	wb_system_call(SYS_getcpu, (int64_t)&cpu, 0, 0, 0, 0, 0);
	record->time = watch_time();
	record->pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
	record->tid = (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
	record->cpu = cpu;
	record->flags = late ? LATE : 0;
	record->address = address;
	record->size = area->places[which].size;
	record->before = record->after = 0;
	__builtin_memset(record->comm, 0, sizeof(record->comm));
	wb_system_call(SYS_prctl, WATCH_GET_NAME, (int64_t)record->comm, 0, 0, 0, 0);
	ip = copy_registers(context, record->registers, &frame);
	__builtin_memset(record->code, 0, sizeof(record->code));
	if (read_memory(ip - WATCH_CODE / 2, record->code, WATCH_CODE))
		record->flags |= KNOWS_CODE;
	if (area->want_values)
		read_value(area, number, which, record);
	record->frames = area->want_stacks ? walk(frame, record->stack) : 0;
	atomic_store_explicit(&record->sequence, position + 1, memory_order_release);
	atomic_fetch_add(&area->places[which].recorded, 1);
}

/* The hit belongs to an area here, and is recorded. */
static bool take_hit(uint64_t data, uint64_t address, uint32_t flags, const void *context)
{
	for (int i = 0; i < WATCH_AREAS; i++) {
		struct watch_header *area;
		bool mine;

		/* Counted before the load: whoever takes the area away afterwards sees the count, or we see no area. */
		atomic_fetch_add(&inside[i], 1);
		area = atomic_load(&areas[i]);
		mine = area && area->token == data >> 8;
		if (mine)
			record_hit(i, area, address, flags & PERF_FLAG_ASYNC, context);
		atomic_fetch_sub(&inside[i], 1);
		if (mine)
			return true;
	}
	return false;
}

/* Whether `bytes` of memory are an area of ours. */
static bool is_area(const struct watch_header *area, uint64_t bytes)
{
	return bytes >= WATCH_HEADER && area->magic == WATCH_MAGIC && area->version == WATCH_VERSION &&
	       area->record_bytes == sizeof(struct watch_record) && area->records &&
	       !(area->records & (area->records - 1)) &&
	       (bytes - WATCH_HEADER) / sizeof(struct watch_record) >= area->records;
}

#endif
