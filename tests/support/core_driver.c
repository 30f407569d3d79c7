/* The native core without Python: reads a file, prints what the core makes of it as bytes. Built for another processor
 * it shows that the core does there what it does here.
 *
 *   core_driver records|columns LENGTH|spans FILE   a ring: size, consumer, producer position, the area twice
 *   core_driver rows MACHINE FILE                   .eh_frame: its address, the bytes
 *   core_driver stacks FILE                         rows, addresses, pids[], lengths[], addresses[]
 *   core_driver hash TYPE OPERATIONS                random operations on a small map: 8 bytes a result or value
 *   core_driver threads RECORDS                     one thread produces, one reads; prints how many came in order
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eh_frame.h"
#include "runtime/maps.h"

struct wb_stacks;
int64_t wb_ring_columns(const uint8_t *, uint64_t, uint64_t *, const uint64_t *, uint32_t, uint32_t, const uint32_t *,
			const uint32_t *, uint8_t *const *, uint64_t, uint64_t *);
int64_t wb_ring_records(const uint8_t *, uint64_t, uint64_t *, const uint64_t *, uint8_t *, uint64_t, uint64_t *,
			uint32_t *, uint64_t);
int64_t wb_ring_spans(const uint8_t *, uint64_t, uint64_t *, uint64_t, uint64_t, uint64_t *, uint32_t *, uint64_t);
struct wb_stacks *wb_stacks_new(int64_t, uint64_t);
void wb_stacks_free(struct wb_stacks *);
int64_t wb_stacks_intern(struct wb_stacks *, int64_t, const int32_t *, const int32_t *, const uint64_t *, uint64_t,
			 int32_t *);

enum { CAPACITY = 1 << 16 };

static uint64_t starts[CAPACITY];
static uint32_t lengths[CAPACITY];

static uint8_t *slurp(const char *path, long *size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *bytes;

	if (!file || fseek(file, 0, SEEK_END))
		exit(3);
	*size = ftell(file);
	rewind(file);
	bytes = malloc((size_t)*size);
	if (fread(bytes, 1, (size_t)*size, file) != (size_t)*size)
		exit(3);
	fclose(file);
	return bytes;
}

static void show(const void *bytes, size_t size)
{
	if (fwrite(bytes, 1, size, stdout) != size)
		exit(4);
}

static void ring(const char *how, uint32_t length, const char *path)
{
	long size;
	uint64_t *head = (uint64_t *)slurp(path, &size), other = 0;
	const uint64_t mask = head[0] - 1, room = head[0];
	const uint8_t *data = (const uint8_t *)(head + 3);
	uint8_t *out = malloc(room);
	int64_t rows;

	if (!strcmp(how, "columns")) {
		const uint32_t offset = 0;

		rows = wb_ring_columns(data, mask, &head[1], &head[2], length, 1, &offset, &length, &out, room / length,
				       &other);
		show(out, (size_t)rows * length);
	} else if (!strcmp(how, "records")) {
		rows = wb_ring_records(data, mask, &head[1], &head[2], out, room, starts, lengths, CAPACITY);
		for (int64_t i = 0; i < rows; i++)
			show(out + starts[i], lengths[i]);
	} else {
		rows = wb_ring_spans(data, mask, &head[1], head[2], room, starts, lengths, CAPACITY);
		for (int64_t i = 0; i < rows; i++)
			show(data + starts[i], lengths[i]);
	}
	free(out);
	free(head);
}

static void rows(uint32_t machine, const char *path)
{
	long size;
	uint8_t *bytes = slurp(path, &size);
	struct wb_unwind_row *made;
	struct wb_eh_stats stats;
	uint64_t address;
	int64_t count;

	memcpy(&address, bytes, 8);
	count = wb_eh_frame_build(bytes + 8, (uint64_t)size - 8, address, machine, 0, &made, &stats);
	if (count < 0)
		exit(5);
	show(made, (size_t)count * sizeof(*made));
	show(&stats, sizeof(stats));
	wb_eh_frame_free(made);
	free(bytes);
}

static void stacks(const char *path)
{
	long size;
	uint64_t *head = (uint64_t *)slurp(path, &size);
	const int64_t n = (int64_t)head[0];
	const int32_t *pids = (const int32_t *)(head + 2), *counts = pids + n;
	int32_t *ids = malloc((size_t)n * 4);
	struct wb_stacks *set = wb_stacks_new(1 << 20, 1 << 24);

	if (!set || wb_stacks_intern(set, n, pids, counts, (const uint64_t *)(counts + n), head[1], ids) < 0)
		exit(5);
	show(ids, (size_t)n * 4);
	wb_stacks_free(set);
	free(ids);
	free(head);
}

#define RING 4096u
static uint8_t area[2 * RING + 8] __attribute__((aligned(8)));
static uint64_t produced, consumed;

/* As the kernel's ring: reserve (busy), publish the position, fill, commit the header. The second half of the area
 * stands for the second mapping of the same pages; 16-byte records never cross its edge. */
static void *produce(void *given)
{
	const uint64_t n = *(const uint64_t *)given;

	for (uint64_t i = 0; i < n; i++) {
		const uint64_t at = i * 16;
		uint8_t *record = area + (at & (RING - 1));

		while (at + 16 - __atomic_load_n(&consumed, __ATOMIC_ACQUIRE) > RING)
			;
		__atomic_store_n((uint32_t *)record, 8u | 0x80000000u, __ATOMIC_RELAXED);
		__atomic_store_n(&produced, at + 16, __ATOMIC_RELEASE);
		*(volatile uint64_t *)(record + 8) = i;
		__atomic_store_n((uint32_t *)record, 8u, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void threads(uint64_t n)
{
	static uint8_t out[RING];
	uint64_t seen = 0;
	pthread_t thread;

	if (pthread_create(&thread, NULL, produce, &n))
		exit(5);
	while (seen < n) {
		int64_t got = wb_ring_records(area, RING - 1, &consumed, &produced, out, RING, starts, lengths, CAPACITY);

		for (int64_t i = 0; i < got; i++, seen++) {
			uint64_t value;

			memcpy(&value, out + starts[i], 8);
			if (lengths[i] != 8 || value != seen)
				exit(6);
		}
	}
	pthread_join(thread, NULL);
	printf("%" PRIu64 "\n", seen);
}

/* A thread that joined by hand: the emulator has no robust lists. */
static struct wb_run *joined(struct wb_space *space)
{
	static struct wb_run run;
	void *memory = aligned_alloc(4096, (WB_SPACE_LENGTH + 4095) / 4096 * 4096);

	memset(memory, 0, WB_SPACE_LENGTH);
	if (wb_space_format(memory, WB_SPACE_LENGTH, 4) || wb_space_open(space, memory, WB_SPACE_LENGTH))
		exit(7);
	((struct wb_shared *)memory)->highest = 1;
	run.space = space;
	run.self = &space->participants[1];
	run.owner = run.self->generation = run.self->lock = 1;
	return &run;
}

static void hash(uint32_t type, uint64_t operations)
{
	struct wb_space space = {0};
	struct wb_run *run = joined(&space);
	struct wb_segment wanted = {.type = type, .key_size = 8, .value_size = 24, .max_entries = 24, .cpus = 1, .flags = 64};
	int64_t length = wb_segment_size(&wanted);
	void *memory = aligned_alloc(4096, (size_t)(length + 4095) / 4096 * 4096);
	uint64_t state = 88172645463325252ull;
	struct wb_map map;

	memset(memory, 0, (size_t)length);
	if (wb_segment_format(memory, (uint64_t)length, &wanted) || wb_map_open(&map, memory, (uint64_t)length, &space))
		exit(8);
	while (operations--) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		uint64_t key = state >> 20 & 31, what = state >> 8 & 7, value[3] = {state, ~state, key};
		int64_t result;

		if (what < 5)
			result = wb_map_write(run, &map, &key, value, what < 3 ? 0 : what - 2);
		else if (what == 5)
			result = wb_map_erase(run, &map, &key);
		else
			result = wb_map_read(run, &map, &key, value, 0);
		show(&result, sizeof result);
		if (what > 5 && !result)
			show(value, sizeof value);
	}
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "threads"))
		threads(strtoull(words[2], NULL, 10));
	else if (count == 3 && !strcmp(words[1], "stacks"))
		stacks(words[2]);
	else if (count == 4 && !strcmp(words[1], "rows"))
		rows((uint32_t)atoi(words[2]), words[3]);
	else if (count == 4 && !strcmp(words[1], "hash"))
		hash((uint32_t)atoi(words[2]), strtoull(words[3], NULL, 10));
	else if (count == 4)
		ring(words[1], (uint32_t)atoi(words[2]), words[3]);
	else
		return 2;
	return 0;
}
