/* Receives watchpoint hits in the watched process itself, as SIGTRAP: no BPF and no privilege is needed.
 *
 * The recorder opens breakpoint events with `sigtrap` on the threads of this process; every hit interrupts the thread
 * that made the access, and the handler below writes a record to memory shared with the recorder. Loaded by LD_PRELOAD
 * (areas are then named by environment variables WORKBENCH_WATCH_...) or by dlopen and `wb_watch_map`.
 *
 * Everything the handler calls is async-signal-safe: system calls, atomics and the vDSO clock. It never reads foreign
 * memory by a plain load (another thread may have unmapped it): process_vm_readv fails where a load would crash.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "watch_area.h"

#define EXPORT __attribute__((visibility("default")))
#define AREAS 8
#define TRAP_PERF_CODE 6          /* TRAP_PERF of asm-generic/siginfo.h, Linux >= 5.13 */
#define PERF_DATA_OFFSET 24       /* si_perf_data, si_perf_type, si_perf_flags of siginfo_t on 64-bit */
#define PERF_FLAGS_OFFSET 36
#define PERF_FLAG_ASYNC 1u        /* the signal was blocked when the access was made */
#define VARIABLE "WORKBENCH_WATCH_"

extern char **environ;

static _Atomic(struct watch_header *) areas[AREAS];
static uint64_t lengths[AREAS];
static _Atomic uint32_t inside[AREAS]; /* handlers that use an area right now */
static struct sigaction previous;
static bool installed;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

/* The value seen last, of this process: a forked child goes on with a copy of what its parent saw. */
static struct {
	_Atomic uint64_t address, value;
	_Atomic uint32_t round;
} seen[AREAS][WATCH_PLACES];

static bool read_memory(uint64_t address, void *to, size_t bytes)
{
	struct iovec local = { to, bytes }, remote = { (void *)(uintptr_t)address, bytes };

	return syscall(SYS_process_vm_readv, syscall(SYS_getpid), &local, 1, &remote, 1, 0) == (long)bytes;
}

static uint64_t copy_registers(const ucontext_t *context, uint64_t *to, uint64_t *frame)
{
#if defined(__x86_64__)
	static const uint8_t order[] = { REG_R15, REG_R14, REG_R13, REG_R12, REG_RBP, REG_RBX, REG_R11, REG_R10,
					 REG_R9,  REG_R8,  REG_RAX, REG_RCX, REG_RDX, REG_RSI, REG_RDI };
	const greg_t *from = context->uc_mcontext.gregs;

	for (size_t i = 0; i < sizeof(order); i++)
		to[i] = (uint64_t)from[order[i]];
	to[15] = 0;
	to[16] = (uint64_t)from[REG_RIP];
	to[17] = (uint64_t)from[REG_CSGSFS] & 0xffff;
	to[18] = (uint64_t)from[REG_EFL];
	to[19] = (uint64_t)from[REG_RSP];
	to[20] = 0;
	*frame = (uint64_t)from[REG_RBP];
	return to[16];
#else
	for (int i = 0; i < 31; i++)
		to[i] = context->uc_mcontext.regs[i];
	to[31] = context->uc_mcontext.sp;
	to[32] = context->uc_mcontext.pc;
	to[33] = context->uc_mcontext.pstate;
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

static void record_hit(int number, struct watch_header *area, uint64_t address, uint32_t late, const ucontext_t *context)
{
	struct watch_record *record;
	uint64_t position, frame, ip;
	struct timespec now;
	unsigned int cpu = 0;
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
	clock_gettime(CLOCK_MONOTONIC, &now);
	syscall(SYS_getcpu, &cpu, NULL, NULL);
	record->time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	record->pid = (uint32_t)syscall(SYS_getpid);
	record->tid = (uint32_t)syscall(SYS_gettid);
	record->cpu = cpu;
	record->flags = late ? LATE : 0;
	record->address = address;
	record->size = area->places[which].size;
	record->before = record->after = 0;
	memset(record->comm, 0, sizeof(record->comm));
	prctl(PR_GET_NAME, record->comm, 0, 0, 0);
	ip = copy_registers(context, record->registers, &frame);
	memset(record->code, 0, sizeof(record->code));
	if (read_memory(ip - WATCH_CODE / 2, record->code, WATCH_CODE))
		record->flags |= KNOWS_CODE;
	if (area->want_values)
		read_value(area, number, which, record);
	record->frames = area->want_stacks ? walk(frame, record->stack) : 0;
	atomic_store_explicit(&record->sequence, position + 1, memory_order_release);
	atomic_fetch_add(&area->places[which].recorded, 1);
}

static void hand_on(int number, siginfo_t *info, void *context)
{
	if (previous.sa_flags & SA_SIGINFO) {
		if (previous.sa_sigaction)
			previous.sa_sigaction(number, info, context);
	} else if (previous.sa_handler == SIG_DFL) {
		signal(number, SIG_DFL); /* the trap ends the process as it would have without us */
		raise(number);
	} else if (previous.sa_handler != SIG_IGN) {
		previous.sa_handler(number);
	}
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	uint64_t data;
	uint32_t flags;

	if (info->si_code != TRAP_PERF_CODE) {
		hand_on(number, info, context);
		errno = saved;
		return;
	}
	memcpy(&data, (char *)info + PERF_DATA_OFFSET, sizeof(data));
	memcpy(&flags, (char *)info + PERF_FLAGS_OFFSET, sizeof(flags));
	for (int i = 0; i < AREAS; i++) {
		struct watch_header *area;
		bool mine;

		/* Counted before the load: whoever takes the area away afterwards sees the count, or we see no area. */
		atomic_fetch_add(&inside[i], 1);
		area = atomic_load(&areas[i]);
		mine = area && area->token == data >> 8;
		if (mine)
			record_hit(i, area, (uint64_t)(uintptr_t)info->si_addr, flags & PERF_FLAG_ASYNC, context);
		atomic_fetch_sub(&inside[i], 1);
		if (mine)
			break;
	}
	errno = saved;
}

static int install(void)
{
	struct sigaction action;

	if (installed)
		return 0;
	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_trap;
	action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
	sigfillset(&action.sa_mask); /* no other handler in between: it could touch watched memory */
	if (sigaction(SIGTRAP, &action, &previous))
		return -errno;
	installed = true;
	return 0;
}

static void uninstall(void)
{
	struct sigaction current;

	if (!installed || sigaction(SIGTRAP, NULL, &current))
		return;
	if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_trap && !sigaction(SIGTRAP, &previous, NULL))
		installed = false;
}

/* Map the area at `path` and begin to receive its hits; its number, or a negative errno. */
EXPORT int wb_watch_map(const char *path)
{
	struct watch_header *area;
	struct stat status;
	int result = -ENOSPC, fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) || status.st_size < WATCH_HEADER) {
		close(fd);
		return -EINVAL;
	}
	area = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (area == MAP_FAILED)
		return -errno;
	if (area->magic != WATCH_MAGIC || area->version != WATCH_VERSION ||
	    area->record_bytes != sizeof(struct watch_record) || !area->records ||
	    (area->records & (area->records - 1)) ||
	    ((uint64_t)status.st_size - WATCH_HEADER) / sizeof(struct watch_record) < area->records) {
		munmap(area, (size_t)status.st_size);
		return -EINVAL;
	}
	pthread_mutex_lock(&guard);
	for (int i = 0; i < AREAS && result == -ENOSPC; i++) {
		if (!atomic_load(&areas[i])) {
			result = install();
			if (!result) {
				lengths[i] = (uint64_t)status.st_size;
				atomic_store(&areas[i], area);
				result = i;
			}
		}
	}
	pthread_mutex_unlock(&guard);
	if (result < 0)
		munmap(area, (size_t)status.st_size);
	return result;
}

/* Stop receiving the hits of an area whose events are closed; with the last one the previous handler comes back. */
EXPORT int wb_watch_unmap(int number)
{
	struct watch_header *area;
	bool last = true;

	if (number < 0 || number >= AREAS)
		return -EINVAL;
	pthread_mutex_lock(&guard);
	area = atomic_exchange(&areas[number], NULL);
	for (int i = 0; i < AREAS; i++)
		last &= !atomic_load(&areas[i]);
	if (last)
		uninstall();
	pthread_mutex_unlock(&guard);
	if (!area)
		return -EINVAL;
	/* Bounded: after a fork inside a handler of another thread the count never falls in the child. */
	for (int tries = 0; atomic_load(&inside[number]); tries++) {
		struct timespec wait = { 0, 1000000 };

		if (tries == 1000)
			return -EBUSY;
		nanosleep(&wait, NULL);
	}
	munmap(area, lengths[number]);
	return 0;
}

/* Take ourselves out of LD_PRELOAD, so that programs started by this one run without the agent. */
static void leave_environment(void)
{
	const char *list = getenv("LD_PRELOAD");
	char kept[4096];
	size_t used = 0;

	while (list && *list) {
		size_t length = strcspn(list, ": ");

		if (length && !memmem(list, length, "/sigtrap.so", 11) && used + length + 2 < sizeof(kept)) {
			if (used)
				kept[used++] = ':';
			memcpy(kept + used, list, length);
			used += length;
		}
		list += length + (list[length] != 0);
	}
	kept[used] = 0;
	if (used)
		setenv("LD_PRELOAD", kept, 1);
	else
		unsetenv("LD_PRELOAD");
}

__attribute__((constructor)) static void start(void)
{
	char names[AREAS][64];
	int found = 0;

	for (char **entry = environ; entry && *entry && found < AREAS; entry++) {
		const char *equals = strchr(*entry, '=');
		int number;

		if (strncmp(*entry, VARIABLE, sizeof(VARIABLE) - 1) || !equals || equals - *entry >= 64)
			continue;
		number = wb_watch_map(equals + 1);
		if (number >= 0)
			atomic_fetch_add(&atomic_load(&areas[number])->loads, 1);
		memcpy(names[found], *entry, (size_t)(equals - *entry));
		names[found++][equals - *entry] = 0;
	}
	if (!found)
		return;
	for (int i = 0; i < found; i++)
		unsetenv(names[i]);
	leave_environment();
}
