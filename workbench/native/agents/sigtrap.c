/* Receives watchpoint hits in the watched process itself, as SIGTRAP: no BPF and no privilege is needed.
 *
 * The recorder opens breakpoint events with `sigtrap` on the threads of this process; every hit interrupts the thread
 * that made the access, and the handler below writes a record to memory shared with the recorder. Loaded by LD_PRELOAD
 * (areas are then named by environment variables WORKBENCH_WATCH_...) or by dlopen and `wb_watch_map`.
 *
 * What the handler does is in watch_record.h; everything it calls is async-signal-safe.
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "watch_record.h"

#define EXPORT __attribute__((visibility("default")))
#define AREAS WATCH_AREAS
#define VARIABLE "WORKBENCH_WATCH_"

extern char **environ;

static uint64_t lengths[AREAS];
static struct sigaction previous;
static bool installed;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static uint64_t watch_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
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
	take_hit(data, (uint64_t)(uintptr_t)info->si_addr, flags, context);
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
	if (!is_area(area, (uint64_t)status.st_size)) {
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
