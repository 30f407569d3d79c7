/* A program with known truth: what the collectors of CPU time, scheduling, system calls and page faults must find.
 * Usage: known WORK [NUMBER ...]; prints what it did as one JSON line where the test cannot know it beforehand.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile unsigned long sum;
static const char *self;
static double numbers[8];

static double cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The clock is asked rarely, so that nearly all samples lie in the loop itself. */
#define BURN(seconds)                                          \
	do {                                                   \
		double end_ = cpu_time() + (seconds);          \
		while (cpu_time() < end_)                      \
			for (int i_ = 0; i_ < 200000; i_++)    \
				sum += sum * i_ + 1;           \
	} while (0)

NOINLINE void heavy(double seconds) { BURN(seconds); }
NOINLINE void light(double seconds) { BURN(seconds); }
NOINLINE void early_work(double seconds) { BURN(seconds); }
NOINLINE void late_work(double seconds) { BURN(seconds); }
NOINLINE void parent_work(double seconds) { BURN(seconds); }
NOINLINE void child_work(double seconds) { BURN(seconds); }
NOINLINE void before_exec(double seconds) { BURN(seconds); }

NOINLINE void burn(double seconds)
{
	for (int i = 0; i < 10; i++) {
		heavy(seconds * 0.075);
		light(seconds * 0.025);
	}
}

NOINLINE void at_the_bottom(double seconds) { BURN(seconds); }

/* Each call takes at least 256 bytes of stack. */
NOINLINE int descend(int depth, double seconds)
{
	volatile char room[256];

	room[depth & 255] = depth;
	if (depth == 0)
		at_the_bottom(seconds);
	else
		room[0] = descend(depth - 1, seconds);
	return room[depth & 255] + 1;
}

static void wait_for_word(void)
{
	char line[64];

	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(1);
}

static void *early_thread(void *gate)
{
	read(*(int *)gate, &(char){ 0 }, 1);
	early_work(numbers[0]);
	return 0;
}

static void *late_thread(void *arg)
{
	late_work(numbers[0]);
	return arg;
}

static void threads(void)
{
	int gate[2];
	pthread_t early, late;

	pipe(gate);
	pthread_create(&early, 0, early_thread, gate);
	wait_for_word();
	write(gate[1], "x", 1);
	pthread_create(&late, 0, late_thread, 0);
	pthread_join(early, 0);
	pthread_join(late, 0);
}

static void forks(void)
{
	pid_t child;

	wait_for_word();
	child = fork();
	if (!child) {
		child_work(numbers[0]);
		_exit(0);
	}
	parent_work(numbers[0]);
	waitpid(child, 0, 0);
	printf("{\"child\": %d}\n", child);
}

static void *other_thread(void *arg)
{
	late_work(numbers[0]);
	exit(0);
	return arg;
}

/* The main thread ends first; the process lives on in another. */
static void leaderless(void)
{
	pthread_t other;

	early_work(0.02);
	pthread_create(&other, 0, other_thread, 0);
	pthread_exit(0);
}

NOINLINE void nap(long microseconds)
{
	nanosleep(&(struct timespec){ .tv_nsec = microseconds * 1000 }, 0);
}

static int there[2], back[2], partner;

NOINLINE void answer(void) { write(back[1], "b", 1); }
NOINLINE void ask(void) { write(there[1], "a", 1); }
NOINLINE void await_answer(void) { read(back[0], &(char){ 0 }, 1); }
NOINLINE void await_question(void) { read(there[0], &(char){ 0 }, 1); }

static void *answerer(void *count)
{
	partner = syscall(SYS_gettid);
	for (long i = 0; i < (long)count; i++) {
		await_question();
		nap(200); /* so that the other side waits, whoever runs first */
		answer();
	}
	return 0;
}

static void pingpong(long count)
{
	pthread_t thread;

	pipe(there);
	pipe(back);
	pthread_create(&thread, 0, answerer, (void *)count);
	for (long i = 0; i < count; i++) {
		nap(200);
		ask();
		await_answer();
	}
	pthread_join(thread, 0);
	printf("{\"answerer\": %d}\n", partner);
}

static void *spinner(void *arg)
{
	burn(numbers[0]);
	return arg;
}

static void spinners(void)
{
	pthread_t made[3];
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	for (int i = 0; i < 3; i++)
		pthread_create(&made[i], 0, spinner, 0);
	for (int i = 0; i < 3; i++)
		pthread_join(made[i], 0);
}

static void *short_life(void *arg)
{
	nap(100);
	return arg;
}

static void churn(long count)
{
	pthread_t thread;

	for (long i = 0; i < count; i++) {
		pthread_create(&thread, 0, short_life, 0);
		pthread_join(thread, 0);
	}
}

static void calls(void)
{
	char word[8];

	for (int i = 0; i < 1000; i++)
		syscall(SYS_getppid);
	for (int i = 0; i < 100; i++)
		syscall(SYS_close, -1);
	for (int i = 0; i < 30; i++)
		nap(2000);
	for (int i = 0; i < 7; i++)
		syscall(SYS_readlink, "/no/such/link", word, sizeof(word));
}

NOINLINE void write_pages(volatile char *area, long pages, long size)
{
	for (long i = 0; i < pages; i++)
		area[i * size] = 1;
}

NOINLINE void read_pages(volatile char *area, long pages, long size)
{
	for (long i = 0; i < pages; i++)
		sum += area[i * size];
}

static void faults(long pages, const char *file)
{
	long size = sysconf(_SC_PAGESIZE);
	int shared = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	char *written, *looked_at, *mapped;

	ftruncate(shared, pages * size);
	written = mmap(0, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	looked_at = mmap(0, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mapped = mmap(0, pages * size, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
	madvise(written, pages * size, MADV_NOHUGEPAGE);
	madvise(looked_at, pages * size, MADV_NOHUGEPAGE);
	madvise(mapped, pages * size, MADV_RANDOM);
	write_pages(written, pages, size);
	read_pages(looked_at, pages, size);
	write_pages(mapped, pages, size);
	printf("{\"page\": %ld, \"written\": %lu, \"looked_at\": %lu, \"mapped\": %lu}\n", size, (unsigned long)written,
	       (unsigned long)looked_at, (unsigned long)mapped);
}

static volatile sig_atomic_t heard;
static void hear(int number) { heard = number; }

int main(int argc, char **argv)
{
	const char *work = argc > 1 ? argv[1] : "";

	self = argv[0];
	for (int i = 2; i < argc && i < 10; i++)
		numbers[i - 2] = atof(argv[i]);
	if (!strcmp(work, "burn"))
		burn(numbers[0]);
	else if (!strcmp(work, "descend"))
		descend(numbers[0], numbers[1]);
	else if (!strcmp(work, "threads"))
		threads();
	else if (!strcmp(work, "forks"))
		forks();
	else if (!strcmp(work, "exec")) {
		before_exec(numbers[0]);
		execl(self, self, "burn", argv[2], (char *)0);
	} else if (!strcmp(work, "leaderless"))
		leaderless();
	else if (!strcmp(work, "naps"))
		for (int i = 0; i < numbers[0]; i++)
			nap(numbers[1]);
	else if (!strcmp(work, "pingpong"))
		pingpong(numbers[0]);
	else if (!strcmp(work, "spinners"))
		spinners();
	else if (!strcmp(work, "churn"))
		churn(numbers[0]);
	else if (!strcmp(work, "calls"))
		calls();
	else if (!strcmp(work, "faults"))
		faults(numbers[0], argv[3]);
	else if (!strcmp(work, "patient")) {
		/* Until its standard input ends; says how often its work was done. */
		wait_for_word();
		puts("done");
	} else if (!strcmp(work, "daemon")) {
		if (!fork()) {
			setsid();
			burn(numbers[0]);
			printf("{\"daemon\": %d}\n", getpid());
			fflush(stdout);
			_exit(0);
		}
		return 5;
	} else if (!strcmp(work, "stops")) {
		raise(SIGSTOP);
		burn(0.05);
		return 6;
	} else if (!strcmp(work, "handles")) {
		signal(SIGTERM, hear);
		puts("ready");
		fflush(stdout);
		while (!heard)
			nap(1000);
		return 40 + heard;
	} else
		return 3;
	return 0;
}
