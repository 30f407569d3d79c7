/* A ring in shared memory, laid out as the kernel's (kernel/bpf/ringbuf.c): a page that the consumer writes, a page
 * that producers write, the data area; the data area is mapped twice in a row. One per ring buffer map, one per index
 * of a perf event array. */
#ifndef WB_RUNTIME_RING_H
#define WB_RUNTIME_RING_H

#include "map_type.h"

#define WB_HEADER_BUSY 0x80000000u
#define WB_HEADER_DISCARD 0x40000000u
#define WB_RING_HEADER 8u
#define WB_RING_NO_WAKEUP 1u
#define WB_RING_FORCE_WAKEUP 2u
#define WB_RING_LARGEST (1u << 30) /* bytes of data: a header has 20 bits for the page of a record */
#define WB_RING_UNIT 4096u

struct wb_ring_consumer {
    uint64_t position;
    uint8_t rest[WB_LINE - 8];
    uint32_t waiting; /* a consumer sleeps, or is about to */
    uint32_t word;    /* futex: a record was committed */
    uint32_t enabled; /* perf event array: somebody reads this index */
    uint32_t draining; /* user ring: identity of the thread that drains */
    uint32_t space;    /* futex: records were drained */
    uint32_t producers; /* sleep for space, or are about to */
};

struct wb_ring_producer {
    uint64_t position, pending;
    uint32_t lock;     /* identity of the producer that reserves */
    uint32_t bias;     /* of the thread that may reserve by `held` alone */
    uint32_t held;     /* 1 while that thread reserves */
    uint32_t revoked;  /* of the thread whose bias is being taken away */
    uint64_t seen;     /* the consumer's position when it was last looked at */
    uint64_t dropped;  /* records refused because the ring was full or they were too large */
    uint32_t last, streak; /* who reserved last, how often in a row */
    uint64_t abandoned;    /* records given up because their producer died */
    uint32_t generation[WB_PARTICIPANTS]; /* of the thread that last used the ring under a number */
};

#define WB_RING_PRODUCER_BYTES wb_up(sizeof(struct wb_ring_producer), WB_PAGE)

/* A ring as this process sees it: `data` is where the data area begins, the two control areas lie before it. */
struct wb_ring {
    uint8_t *data;
    uint64_t size;
};

static inline struct wb_ring_producer *wb_ring_producer(const uint8_t *data)
{
    return (struct wb_ring_producer *)(uintptr_t)(data - WB_RING_PRODUCER_BYTES);
}

static inline struct wb_ring_consumer *wb_ring_consumer(const uint8_t *data)
{
    return (struct wb_ring_consumer *)(uintptr_t)(data - WB_RING_PRODUCER_BYTES - WB_PAGE);
}

static inline uint64_t wb_ring_bytes(uint64_t size) /* in the segment */
{
    return WB_PAGE + WB_RING_PRODUCER_BYTES + size;
}

int64_t wb_ring_map(uint8_t *at, uint64_t size, uint8_t *where);
void *wb_ring_take(struct wb_run *run, const struct wb_space *space, struct wb_ring ring, uint64_t size);
int64_t wb_ring_give_up_dead(const struct wb_space *space, struct wb_ring ring);

/* For whoever reads or writes a ring from outside programs: ring `index` of the map (0 for a ring buffer). */
WB_EXPORT int64_t wb_ring_output(struct wb_run *, struct wb_map *, const void *data, uint64_t size, uint64_t flags);
WB_EXPORT uint8_t *wb_ring_part(struct wb_map *, uint32_t index, uint32_t what);
WB_EXPORT int64_t wb_ring_sweep(struct wb_run *, struct wb_map *, uint32_t index);
WB_EXPORT int64_t wb_ring_wait(struct wb_run *, struct wb_map *, uint32_t index, uint64_t nanoseconds);

#endif
