/* Reading a kernel BPF ring buffer (kernel/bpf/ringbuf.c) that is mapped into this process.
 *
 * The producer publishes a record by clearing the busy bit of its header, so every header is read with acquire order
 * before its payload; the consumer position is released only after the payload was copied. On x86 these are plain
 * loads and stores, on aarch64 they are ldar/stlr.
 */
#include "core.h"

#include <string.h>

#define BUSY 0x80000000u
#define DISCARD 0x40000000u
#define HEADER 8u

static uint32_t header_length(const uint8_t *data, uint64_t mask, uint64_t at)
{
	return __atomic_load_n((const uint32_t *)(data + (at & mask)), __ATOMIC_ACQUIRE);
}

static uint64_t advance(uint32_t length)
{
	return (((uint64_t)(length & ~(BUSY | DISCARD)) + HEADER) + 7) & ~7ull;
}

static void copy_column(uint8_t *restrict to, const uint8_t *restrict from, uint64_t stride, uint32_t size, uint64_t n)
{
	switch (size) {
#define CASE(width)                                                    \
	case width:                                                    \
		for (uint64_t i = 0; i < n; i++)                       \
			memcpy(to + i * width, from + i * stride, width); \
		break
		CASE(1);
		CASE(2);
		CASE(4);
		CASE(8);
		CASE(16);
#undef CASE
	default:
		for (uint64_t i = 0; i < n; i++)
			memcpy(to + i * size, from + i * stride, size);
	}
}

WB_EXPORT int64_t wb_ring_columns(const uint8_t *data, uint64_t mask, uint64_t *consumer, const uint64_t *producer,
				  uint32_t length, uint32_t fields, const uint32_t *offsets, const uint32_t *sizes,
				  uint8_t *const *columns, uint64_t capacity, uint64_t *other)
{
	const uint64_t stride = advance(length);
	uint64_t at = __atomic_load_n(consumer, __ATOMIC_RELAXED);
	const uint64_t end = __atomic_load_n(producer, __ATOMIC_ACQUIRE);
	uint64_t rows = 0;

	while (rows < capacity && at < end) {
		/* A run of whole records of the expected length: at most 256, so that the columns are cut from the
		 * first-level cache. The data area is mapped twice in a row, so a run never wraps. */
		uint64_t run = 0, limit = capacity - rows < 256 ? capacity - rows : 256;

		while (run < limit && at + run * stride < end &&
		       header_length(data, mask, at + run * stride) == length)
			run++;
		if (run) {
			const uint8_t *first = data + (at & mask) + HEADER;

			for (uint32_t f = 0; f < fields; f++)
				copy_column(columns[f] + rows * sizes[f], first + offsets[f], stride, sizes[f], run);
			rows += run;
			at += run * stride;
			__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
			continue;
		}
		uint32_t head = header_length(data, mask, at);

		if (head & BUSY)
			break;
		if (head == length)
			continue; /* it was committed between the two looks */
		if (!(head & DISCARD))
			++*other;
		at += advance(head);
		__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
	}
	return (int64_t)rows;
}

WB_EXPORT int64_t wb_ring_records(const uint8_t *data, uint64_t mask, uint64_t *consumer, const uint64_t *producer,
				  uint8_t *out, uint64_t out_bytes, uint64_t *starts, uint32_t *lengths,
				  uint64_t capacity)
{
	uint64_t at = __atomic_load_n(consumer, __ATOMIC_RELAXED);
	const uint64_t end = __atomic_load_n(producer, __ATOMIC_ACQUIRE);
	uint64_t rows = 0, used = 0;

	while (rows < capacity && at < end) {
		uint32_t head = header_length(data, mask, at);

		if (head & BUSY)
			break;
		if (!(head & DISCARD)) {
			uint64_t padded = ((uint64_t)head + 7) & ~7ull;

			if (padded > out_bytes - used)
				break;
			memcpy(out + used, data + (at & mask) + HEADER, head);
			starts[rows] = used;
			lengths[rows] = head;
			used += padded;
			rows++;
		}
		at += advance(head);
		__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
	}
	return (int64_t)rows;
}

/* Where the records from *at on are, without copying them: starts in the data area, lengths. Looks at no more than
 * limit_bytes beyond the first record, and not past `end`. Moves *at behind what it found; the space is the producer's
 * again only after wb_ring_release. */
WB_EXPORT int64_t wb_ring_spans(const uint8_t *data, uint64_t mask, uint64_t *position, uint64_t end,
				uint64_t limit_bytes, uint64_t *starts, uint32_t *lengths, uint64_t capacity)
{
	const uint64_t begin = *position;
	uint64_t at = begin, rows = 0;

	while (rows < capacity && at < end && at - begin < limit_bytes) {
		uint32_t head = header_length(data, mask, at);

		if (head & BUSY)
			break;
		if (!(head & DISCARD)) {
			starts[rows] = (at & mask) + HEADER;
			lengths[rows] = head;
			rows++;
		}
		at += advance(head);
	}
	*position = at;
	return (int64_t)rows;
}

WB_EXPORT void wb_ring_release(uint64_t *consumer, uint64_t position)
{
	__atomic_store_n(consumer, position, __ATOMIC_RELEASE);
}

WB_EXPORT uint64_t wb_ring_available(const uint64_t *consumer, const uint64_t *producer)
{
	return __atomic_load_n(producer, __ATOMIC_ACQUIRE) - __atomic_load_n(consumer, __ATOMIC_RELAXED);
}

/* Cut fields of variable-length records into columns: row i is at base + starts[i]. */
WB_EXPORT void wb_gather(const uint8_t *base, const uint64_t *starts, uint64_t rows, uint32_t fields,
			 const uint32_t *offsets, const uint32_t *sizes, uint8_t *const *columns)
{
	for (uint32_t f = 0; f < fields; f++)
		for (uint64_t i = 0; i < rows; i++)
			memcpy(columns[f] + i * sizes[f], base + starts[i] + offsets[f], sizes[f]);
}

/* Join byte ranges end to end; returns the bytes written, or -1 when they do not fit. */
WB_EXPORT int64_t wb_concatenate(const uint8_t *base, uint64_t base_bytes, const uint64_t *starts,
				 const uint64_t *lengths, uint64_t rows, uint8_t *out, uint64_t out_bytes)
{
	uint64_t used = 0;

	for (uint64_t i = 0; i < rows; i++) {
		if (starts[i] > base_bytes || lengths[i] > base_bytes - starts[i] || lengths[i] > out_bytes - used)
			return -1;
		memcpy(out + used, base + starts[i], lengths[i]);
		used += lengths[i];
	}
	return (int64_t)used;
}
