/* A program whose true gains are known: the shapes that concurrent programs are made of, around two regions whose work
 * can really be shortened while it runs.
 *
 *     causal_shapes SHAPE KNOBS
 *
 * KNOBS is a file of 64-bit numbers that is mapped and read anew every round: [0] turns of region_a, [1] of region_b,
 * [2] of region_c, [3] nanoseconds of a long wait, [4] of a short one. A turn is 50 dependent multiplications in
 * registers: work that takes the same time wherever it runs, which loops over memory do not (emulators, caches).
 * `progress` is passed once a round. If the file can be written, the program keeps there how often, [8], and when last,
 * [9], in ns of CLOCK_MONOTONIC: a count for which nothing has to be attached. The program runs until it is killed or
 * its parent ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { A, B, C, LONG_WAIT, SHORT_WAIT, KNOBS, PASSED = 8, PASSED_AT };

static volatile uint64_t *knobs;
static int counting;

#ifndef ALSO_PASSED
#define ALSO_PASSED()
#endif

#if defined(__x86_64__)
#define TURN "imulq %0, %0\n\taddq $7, %0\n\t"
#define TURNS ".rept 50\n\t" TURN ".endr"
#else
#define TURNS ".rept 50\n\tmul %0, %0, %0\n\tadd %0, %0, #7\n\t.endr"
#endif

#define REGION(name_)                                                       \
	__attribute__((noinline)) uint64_t name_(uint64_t turns)            \
	{                                                                   \
		uint64_t value = turns | 1;                                 \
									    \
		for (uint64_t i = 0; i < turns; i++)                        \
			__asm__ volatile(TURNS : "+r"(value));              \
		return value;                                               \
	}
REGION(region_a)
REGION(region_b)
REGION(region_c)

__attribute__((noinline)) void progress(void)
{
	struct timespec now;

	ALSO_PASSED();
	if (!counting)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	knobs[PASSED_AT] = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	__atomic_add_fetch(&knobs[PASSED], 1, __ATOMIC_RELEASE);
}

static pthread_barrier_t begin, end;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER, emptied = PTHREAD_COND_INITIALIZER;
static int items;

static void wait_for(uint64_t nanoseconds)
{
	struct timespec time = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};

	nanosleep(&time, NULL);
}

static pthread_t start(void *(*work)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, work, NULL)) {
		perror("pthread_create");
		exit(1);
	}
	return thread;
}

static void *once_a(void *unused)
{
	region_a(knobs[A]);
	return unused;
}

static void *once_b(void *unused)
{
	region_b(knobs[B]);
	return unused;
}

static void *once_wait(void *unused)
{
	wait_for(knobs[LONG_WAIT]);
	return unused;
}

/* a, then b, in one thread. */
static void serial(void)
{
	region_a(knobs[A]);
	region_b(knobs[B]);
	progress();
}

/* A thread for each, joined every round. */
static void join(void)
{
	pthread_t b = start(once_b), a = start(once_a);

	pthread_join(a, NULL);
	pthread_join(b, NULL);
	progress();
}

/* a beside a thread that waits for a timer: faster than the timer nothing gets. */
static void timer(void)
{
	pthread_t b = start(once_wait), a;

	sched_yield();
	a = start(once_a);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	progress();
}

static void *barrier_a(void *unused)
{
	for (;;) {
		pthread_barrier_wait(&begin);
		region_a(knobs[A]);
		pthread_barrier_wait(&end);
	}
	return unused;
}

static void *barrier_b(void *unused)
{
	for (;;) {
		pthread_barrier_wait(&begin);
		region_b(knobs[B]);
		pthread_barrier_wait(&end);
	}
	return unused;
}

static void prepare_barrier(void)
{
	pthread_barrier_init(&begin, NULL, 3);
	pthread_barrier_init(&end, NULL, 3);
	start(barrier_b);
	start(barrier_a);
}

static void barrier(void)
{
	pthread_barrier_wait(&begin);
	pthread_barrier_wait(&end);
	region_c(knobs[C]);
	progress();
}

/* a under a lock that three threads want, c outside. */
static void locked(void)
{
	pthread_mutex_lock(&lock);
	region_a(knobs[A]);
	pthread_mutex_unlock(&lock);
	region_c(knobs[C]);
	progress();
}

static void *locked_for_ever(void *unused)
{
	for (;;)
		locked();
	return unused;
}

static void prepare_lock(void)
{
	start(locked_for_ever);
	start(locked_for_ever);
}

static void *producer(void *unused)
{
	for (;;) {
		region_a(knobs[A]);
		pthread_mutex_lock(&lock);
		while (items == 4)
			pthread_cond_wait(&emptied, &lock);
		items++;
		pthread_cond_signal(&filled);
		pthread_mutex_unlock(&lock);
	}
	return unused;
}

static void prepare_queue(void)
{
	start(producer);
}

/* a fills a queue of four, b empties it. */
static void queue(void)
{
	pthread_mutex_lock(&lock);
	while (!items)
		pthread_cond_wait(&filled, &lock);
	items--;
	pthread_cond_signal(&emptied);
	pthread_mutex_unlock(&lock);
	region_b(knobs[B]);
	progress();
}

static int to_server[2], to_client[2];

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		_exit(1);
	}
}

/* Two processes: b asks over a pipe, a answers. */
static void prepare_pipe(void)
{
	char byte = 0;

	must(!pipe(to_server) && !pipe(to_client), "pipe");
	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		must(read(to_server[0], &byte, 1) == 1, "read");
		region_a(knobs[A]);
		must(write(to_client[1], &byte, 1) == 1, "write");
	}
}

static void ask(void)
{
	char byte = 0;

	region_b(knobs[B]);
	must(write(to_server[1], &byte, 1) == 1 && read(to_client[0], &byte, 1) == 1, "pipe");
	progress();
}

static void *waiter(void *unused)
{
	for (;;) {
		region_b(knobs[B]);
		wait_for(knobs[LONG_WAIT]);
		pthread_barrier_wait(&end);
	}
	return unused;
}

static void prepare_hidden(void)
{
	pthread_barrier_init(&end, NULL, 2);
	start(waiter);
}

/* a after a short wait, beside b and a long one: a is not on the critical path while it ends sooner. */
static void hidden(void)
{
	wait_for(knobs[SHORT_WAIT]);
	region_a(knobs[A]);
	pthread_barrier_wait(&end);
	progress();
}

static void *b_for_ever(void *unused)
{
	for (;;)
		region_b(knobs[B]);
	return unused;
}

static void prepare_apart(void)
{
	start(b_for_ever);
}

/* a beside b, which has nothing to do with it: what delays cost a task that waits for nobody. */
static void apart(void)
{
	region_a(knobs[A]);
	progress();
}

static const struct shape {
	const char *name;
	void (*prepare)(void), (*round)(void);
} shapes[] = {
	{"serial", NULL, serial}, {"join", NULL, join},		   {"timer", NULL, timer},
	{"barrier", prepare_barrier, barrier}, {"lock", prepare_lock, locked}, {"queue", prepare_queue, queue},
	{"pipe", prepare_pipe, ask}, {"hidden", prepare_hidden, hidden},
	{"apart", prepare_apart, apart},
};

int main(int argc, char **argv)
{
	int file = argc == 3 ? open(argv[2], O_RDWR) : -1;

	counting = file >= 0;
	if (!counting && argc == 3)
		file = open(argv[2], O_RDONLY);
	if (file < 0) {
		fprintf(stderr, "usage: %s SHAPE KNOBS (a file of %d 64-bit numbers)\n", argv[0], KNOBS);
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	knobs = mmap(NULL, 4096, counting ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
	if (knobs == MAP_FAILED) {
		perror(argv[2]);
		return 1;
	}
	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		if (!strcmp(argv[1], shapes[i].name)) {
			if (shapes[i].prepare)
				shapes[i].prepare();
			for (;;)
				shapes[i].round();
		}
	fprintf(stderr, "%s: no shape %s\n", argv[0], argv[1]);
	return 2;
}
