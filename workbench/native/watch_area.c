/* The reader's side of agents/watch_area.h. */
#include <string.h>

#include "agents/watch_area.h"
#include "core.h"

/* Sizes that the Python mirror checks itself against. */
WB_EXPORT void wb_watch_layout(uint32_t *header, uint32_t *record)
{
	*header = (uint32_t)sizeof(struct watch_header);
	*record = (uint32_t)sizeof(struct watch_record);
}

/* Move up to `capacity` published records to `out`, in order; the number moved.
 *
 * `skip`: pass over a record that was claimed and never published (its thread was killed in between); `skipped` counts
 * them. Only right when no writer is left. */
WB_EXPORT uint32_t wb_watch_take(void *memory, uint64_t bytes, void *out, uint32_t capacity, int skip, uint32_t *skipped)
{
	struct watch_header *area = memory;
	uint32_t records = area->records, taken = 0;
	uint64_t tail = atomic_load(&area->tail), head = atomic_load(&area->head);

	/* The process on the other side can write anything here. */
	if (!records || (records & (records - 1)) || bytes < WATCH_HEADER ||
	    (bytes - WATCH_HEADER) / sizeof(struct watch_record) < records)
		return 0;
	if (head - tail > records) {
		*skipped += (uint32_t)(head - tail - records); /* no writer of ours does this */
		tail = head - records;
	}
	while (tail != head && taken < capacity) {
		struct watch_record *record = (struct watch_record *)((char *)memory + WATCH_HEADER) + (tail & (records - 1));

		if (atomic_load_explicit(&record->sequence, memory_order_acquire) == tail + 1)
			memcpy((char *)out + (size_t)taken++ * sizeof(*record), record, sizeof(*record));
		else if (skip)
			++*skipped;
		else
			break;
		tail++;
	}
	atomic_store_explicit(&area->tail, tail, memory_order_release);
	return taken;
}
