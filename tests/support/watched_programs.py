"""C programs whose every access to what is watched is known."""

from __future__ import annotations

SIMPLE = r"""
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long counter; volatile int table[8]; char buffer[64] __attribute__((aligned(64)));
struct { char tag; volatile short level; } __attribute__((packed)) state;
__attribute__((noinline)) void store(long value) {
#if defined(__x86_64__)
	__asm__ volatile(".globl store_here\nstore_here: movq %1, %0\n" : "=m"(counter) : "r"(value));
#else
	counter = value;
#endif
}
__attribute__((noinline)) long load(void) { return counter; }
__attribute__((noinline)) void bump(void) { __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST); }
static void *worker(void *argument) { for (int i = 0; i < 100; i++) store(i); return argument; }
int main(int count, char **words) {
	pthread_t threads[4];
	long sum = 0;
	for (int i = 0; i < 50; i++) store(i);
	for (int i = 0; i < 20; i++) sum += load();
	for (int i = 0; i < 10; i++) bump();
	table[3] = 1; table[4] = 2; table[3] = 3;
	state.level = 5;
	if (count > 1 && words[1][0] == 't') {
		for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, worker, 0);
		for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
	}
	if (count > 1 && words[1][0] == 'f') {
		store(1000);
		pid_t child = fork();
		if (!child) { store(2000); store(2001); _exit(0); }
		waitpid(child, 0, 0);
	}
	if (count > 1 && words[1][0] == 'k') {
		int ends[2];
		if (pipe(ends) || write(ends[1], "abcdefgh", 8) != 8 || read(ends[0], buffer, 8) != 8) return 1;
	}
#if defined(__x86_64__)
	if (count > 1 && words[1][0] == 'r') {
		static char from[64];
		void *to = buffer; const void *what = from; long n = 64;
		__asm__ volatile(".globl rep_here\nrep_here: rep movsb" : "+D"(to), "+S"(what), "+c"(n) :: "memory");
	}
#endif
	return sum < 0;
}
"""
HOT = r"""
#include <stdlib.h>
#include <time.h>
volatile long hot;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int main(int count, char **words) {
	long n = atol(words[1]);
	for (long i = 0; i < n; i++) hot = i;
	if (count > 2) for (double end = now() + atof(words[2]); now() < end;) for (int i = 0; i < 1000; i++) hot = i;
	return 0;
}
"""
WAITING = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile long counter;
static pthread_barrier_t gate;
static void *worker(void *unused) {
	pthread_barrier_wait(&gate);
	for (int i = 0; i < 100; i++) __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
	return unused;
}
int main(void) {
	pthread_t threads[3], late;
	char byte;
	pthread_barrier_init(&gate, 0, 4);
	for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, worker, 0);
	puts("ready"); fflush(stdout);
	if (read(0, &byte, 1) != 1) return 1;
	pthread_barrier_wait(&gate);
	for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
	pthread_barrier_init(&gate, 0, 1);
	pthread_create(&late, 0, worker, 0); pthread_join(late, 0);
	return 0;
}
"""
RANGE = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile long range[32] __attribute__((aligned(64)));
static volatile int stop;
static void *stores(void *unused) { for (long i = 0; !stop; i++) range[i & 31] = i; return unused; }
static void *starter(void *thread) { pthread_create(thread, 0, stores, 0); return 0; }
int main(void) {
	pthread_t first, second;
	char byte;
	puts("ready"); fflush(stdout);
	if (read(0, &byte, 1) != 1) return 1;
	/* The thread that stores inherits from one that has ended by then. */
	pthread_create(&first, 0, starter, &second);
	pthread_join(first, 0);
	if (read(0, &byte, 1) != 1) return 1;
	stop = 1;
	pthread_join(second, 0);
	return 0;
}
"""
# Threads that each make the next one and end: while it is attached, threads come and go all the time.
CHAIN = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile long link_number;
static volatile int stop;
static void *next(void *number) {
	pthread_t thread; pthread_attr_t detached;
	link_number = (long)number;
	pthread_attr_init(&detached); pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	if (!stop) pthread_create(&thread, &detached, next, (void *)((long)number + 1));
	return 0;
}
int main(void) {
	char byte;
	next((void *)1);
	puts("ready"); fflush(stdout);
	if (read(0, &byte, 1) != 1) return 1;
	stop = 1; usleep(20000);
	return 0;
}
"""

AGAIN = r"""
#include <unistd.h>
volatile long word;
int main(int count, char **words) {
	(void)count;
	word = 1; word = 2;
	if (words[1][0] == 'f') execl(words[0], words[0], "second", (char *)0);
	return 0;
}
"""
