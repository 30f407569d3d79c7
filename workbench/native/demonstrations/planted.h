/* Work that is put into a real program, as a fault would be, and that can really be taken out again while it runs.
 *
 * The file named by WORKBENCH_KNOBS (64-bit numbers) is mapped: [0] is how many turns the work takes. A turn is 50
 * dependent multiplications in registers, which take the same time wherever they run.
 */
#ifndef PLANTED_H
#define PLANTED_H

#define _GNU_SOURCE

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

#if defined(__x86_64__)
#define PLANTED_TURN ".rept 50\n\timulq %0, %0\n\taddq $7, %0\n\t.endr"
#else
#define PLANTED_TURN ".rept 50\n\tmul %0, %0, %0\n\tadd %0, %0, #7\n\t.endr"
#endif

/* The knobs, or a null pointer. */
static inline const volatile uint64_t *planted_knobs(void)
{
	const char *path = getenv("WORKBENCH_KNOBS");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *mapped;

	if (file < 0)
		return NULL;
	mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	return mapped == MAP_FAILED ? NULL : mapped;
}

/* Define a function that mixes `value` for as many turns as knob 0 says: a region that any profiler can name. */
#define PLANTED(name_)                                                                        \
	PUBLIC __attribute__((noinline)) uint64_t name_(const volatile uint64_t *knobs, uint64_t value) \
	{                                                                                     \
		value |= 1;                                                                   \
		for (uint64_t turns = knobs[0]; turns; turns--)                               \
			__asm__ volatile(PLANTED_TURN : "+r"(value));                         \
		return value;                                                                 \
	}

#endif
