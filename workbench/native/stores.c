/* Timed stores to one word: what a watchpoint on it costs per hit. */
#define _GNU_SOURCE
#include <time.h>

#include "core.h"

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Store to `word` in `batches` batches of `stores`; the time of each batch in nanoseconds goes to `times`. */
WB_EXPORT void wb_timed_stores(volatile uint64_t *word, uint32_t batches, uint32_t stores, uint64_t *times)
{
	for (uint32_t batch = 0; batch < batches; batch++) {
		uint64_t start = nanoseconds();

		for (uint32_t i = 0; i < stores; i++)
			*word = i;
		times[batch] = nanoseconds() - start;
	}
}
