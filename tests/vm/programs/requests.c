/* Requests that wait in a queue, functions that work out of sight, and phases: what latency points, stack walks and the
 * correction for phases are tested on.
 *
 *     requests SHAPE KNOBS
 *
 * KNOBS is as in workbench/native/workloads/causal_shapes.c: turns of region_a and region_b, ns of two waits.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

uint64_t turn(uint64_t turns); /* of a library: out of scope */

#define MARK(name_) __attribute__((noinline)) void name_(void) { __asm__ volatile("" ::: "memory"); }
MARK(arrive)
MARK(depart)
MARK(progress)

static volatile uint64_t *knobs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER, emptied = PTHREAD_COND_INITIALIZER;
static int items;

#define WORK(value_, turns_)                                        \
	for (uint64_t i = 0; i < (turns_); i++)                     \
	__asm__ volatile(".rept 50\n\timulq %0, %0\n\taddq $7, %0\n\t.endr" : "+r"(value_))

__attribute__((noinline)) uint64_t region_a(uint64_t turns)
{
	uint64_t value = turns | 1;

	WORK(value, turns);
	return value;
}

__attribute__((noinline)) uint64_t region_b(uint64_t turns)
{
	uint64_t value = turns | 1;

	WORK(value, turns);
	return value;
}

/* All of its time is in the library; the asm keeps the call from being the last thing it does. */
__attribute__((noinline)) uint64_t caller_a(uint64_t turns)
{
	uint64_t value = turn(turns);

	__asm__ volatile("" : "+r"(value));
	return value;
}

static void wait_for(uint64_t nanoseconds)
{
	struct timespec time = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};

	nanosleep(&time, NULL);
}

/* A worker that takes requests one by one: a for each. */
static void *worker(void *unused)
{
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!items)
			pthread_cond_wait(&filled, &lock);
		items--;
		pthread_cond_signal(&emptied);
		pthread_mutex_unlock(&lock);
		region_a(knobs[0]);
		depart();
	}
	return unused;
}

/* b makes requests, of which at most two wait. */
static void queue(void)
{
	region_b(knobs[1]);
	arrive();
	pthread_mutex_lock(&lock);
	while (items == 2)
		pthread_cond_wait(&emptied, &lock);
	items++;
	pthread_cond_signal(&filled);
	pthread_mutex_unlock(&lock);
	progress();
}

/* Bursts of three requests, then a wait: throughput is the timer's, latency is the worker's. */
static void bursts(void)
{
	for (int i = 0; i < 3; i++) {
		arrive();
		pthread_mutex_lock(&lock);
		items++;
		pthread_cond_signal(&filled);
		pthread_mutex_unlock(&lock);
	}
	progress();
	wait_for(knobs[3]);
}

static int to_server[2], to_client[2];

/* Two processes: b asks over a pipe, a answers. */
static void prepare_pipe(void)
{
	char byte = 0;

	if (pipe(to_server) || pipe(to_client) || fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(to_server[0], &byte, 1) == 1) {
		region_a(knobs[0]);
		if (write(to_client[1], &byte, 1) != 1)
			break;
	}
	_exit(1);
}

static void ask(void)
{
	char byte = 0;

	region_b(knobs[1]);
	arrive();
	if (write(to_server[1], &byte, 1) != 1 || read(to_client[0], &byte, 1) != 1)
		_exit(1);
	depart();
	progress();
}

static void called(void)
{
	caller_a(knobs[0]);
	region_b(knobs[1]);
	progress();
}

/* A second of rounds with a, a second of rounds without it. */
static void phases(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec % 2)
		region_a(knobs[0]);
	region_b(knobs[1]);
	progress();
}

static const struct shape {
	const char *name;
	int worker;
	void (*round)(void);
} shapes[] = {
	{"queue", 1, queue}, {"bursts", 1, bursts}, {"pipe", 0, ask}, {"called", 0, called}, {"phases", 0, phases},
};

int main(int argc, char **argv)
{
	int file = argc == 3 ? open(argv[2], O_RDONLY) : -1;
	pthread_t thread;

	if (file < 0)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	knobs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	if (knobs == MAP_FAILED)
		return 1;
	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		if (strcmp(argv[1], shapes[i].name))
			continue;
		if (shapes[i].worker && pthread_create(&thread, NULL, worker, NULL))
			return 1;
		if (shapes[i].round == ask)
			prepare_pipe();
		for (;;)
			shapes[i].round();
	}
	return 2;
}
