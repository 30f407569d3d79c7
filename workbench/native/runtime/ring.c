/* Ring buffer with many producers in many processes.
 *
 * A producer writes the header of its record (length with the busy bit, who it is) and only then moves the producer
 * position, both under a lock; a producer that dies before has changed nothing. One that dies between reserve and
 * submit leaves a busy record with its name, which the consumer gives up when it meets it.
 *
 * The lock costs an atomic exchange, more than all the rest. A thread that has had it many times in a row gets the
 * ring's bias: from then on it reserves between two plain stores to `held`. Another thread takes the lock, takes the
 * bias away, lets membarrier(2) order every thread's stores, and waits until `held` is 0 or its owner dead.
 *
 * A header holds 12 bits of owner and 20 bits that say how many pages lie between the record and the beginning of the
 * data, so that a submit finds the ring. `generation` tells threads that had the same number apart: the first reserve
 * of a thread gives up what a dead one left under its number.
 */
#include "ring.h"

#define STREAK 256u
#define AHEAD 2048u /* bytes from a record to the line that will soon be written */

int64_t wb_ring_map(uint8_t *at, uint64_t size, uint8_t *where)
{
    const uint64_t fixed = 2 | 1; /* MREMAP_FIXED | MREMAP_MAYMOVE; an old size of 0 maps the same pages again */
    const uint64_t control = WB_PAGE + WB_RING_PRODUCER_BYTES;
    int64_t got = wb_system_call(SYS_mremap, (int64_t)(uintptr_t)at, 0, (int64_t)(control + size), (int64_t)fixed,
                                 (int64_t)(uintptr_t)where, 0);

    if (got != (int64_t)(uintptr_t)where)
        return got < 0 ? got : -ENOMEM;
    where += control + size;
    got = wb_system_call(SYS_mremap, (int64_t)(uintptr_t)(at + control), 0, (int64_t)size, (int64_t)fixed,
                         (int64_t)(uintptr_t)where, 0);
    return got == (int64_t)(uintptr_t)where ? 0 : got < 0 ? got : -ENOMEM;
}

/* --- producers ---------------------------------------------------------------------------------------------------- */

static uint64_t *header_at(struct wb_ring ring, uint64_t position)
{
    return (uint64_t *)(ring.data + (position & (ring.size - 1) & ~7ull));
}

static uint64_t record_bytes(uint64_t header)
{
    return wb_up(((uint32_t)header & ~(WB_HEADER_BUSY | WB_HEADER_DISCARD)) + WB_RING_HEADER, 8);
}

static uint32_t owner_of(uint64_t header)
{
    return (uint32_t)(header >> 32) % WB_PARTICIPANTS;
}

static bool give_up(struct wb_ring ring, uint64_t position, uint64_t header)
{
    struct wb_ring_producer *p = wb_ring_producer(ring.data);
    uint64_t given = (header & ~(uint64_t)WB_HEADER_BUSY) | WB_HEADER_DISCARD;

    if (!__atomic_compare_exchange_n(header_at(ring, position), &header, given, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        return false;
    __atomic_fetch_add(&p->abandoned, 1, __ATOMIC_RELAXED);
    return true;
}

/* This thread is the first of its generation here: busy records of its number are a dead thread's. Under the lock, so
 * no header between the positions can be overwritten. */
static void adopt(struct wb_ring ring, uint32_t owner, uint32_t generation)
{
    struct wb_ring_producer *p = wb_ring_producer(ring.data);
    uint64_t at = WB_LOAD(&wb_ring_consumer(ring.data)->position), end = p->position;

    while (p->generation[owner] && at < end && end - at <= ring.size) {
        uint64_t header = WB_LOAD(header_at(ring, at));

        if ((uint32_t)header & WB_HEADER_BUSY && owner_of(header) == owner)
            give_up(ring, at, header);
        at += record_bytes(header);
    }
    WB_STORE(&p->generation[owner], generation);
}

static void revoke(struct wb_run *run, const struct wb_space *space, struct wb_ring_producer *p, uint32_t me)
{
    uint32_t other = WB_PEEK(&p->revoked) ? WB_PEEK(&p->revoked) : WB_PEEK(&p->bias);

    if (other == me && !WB_PEEK(&p->revoked))
        return; /* the lock excludes whoever might take it away */
    WB_STORE(&p->revoked, other);
    WB_STORE(&p->bias, 0u);
    wb_barrier(run);
    if (other != me)
        for (uint32_t spins = 0; WB_LOAD(&p->held) && !wb_holder_gone(space, other); spins++) {
            wb_relax();
            if (spins % 64 == 63)
                wb_yield();
        }
    WB_STORE(&p->held, 0u);
    WB_STORE(&p->revoked, 0u);
}

/* What is too large for any ring is refused and counted where what is too large for this one is. */
static inline uint64_t length_of(uint64_t size)
{
    return ((size < WB_RING_LARGEST ? size : WB_RING_LARGEST) + WB_RING_HEADER + 7) & ~7ull;
}

/* The record at `at`, for which there is room: its header, and only then the position. */
static inline void *make(struct wb_ring ring, struct wb_ring_producer *p, uint64_t at, uint64_t size, uint32_t owner)
{
    const uint64_t offset = at & (ring.size - 1);

    WB_PUT((uint64_t *)(ring.data + offset),
           (uint64_t)(owner | (uint32_t)(offset / WB_RING_UNIT) << 12) << 32 | WB_HEADER_BUSY | size);
    WB_STORE(&p->position, at + length_of(size));
    __builtin_prefetch(ring.data + offset + AHEAD, 1); /* the reader had these lines last */
    return ring.data + offset + WB_RING_HEADER;
}

static inline bool fits(struct wb_ring ring, const struct wb_ring_producer *p, uint64_t at, uint64_t size)
{
    const uint64_t length = length_of(size);

    return at + length - WB_PEEK(&p->seen) < ring.size && length < ring.size; /* whatever the positions say */
}

/* The usual case, in line in programs: the bias is this thread's, and there is room as far as is known. NULL = anything
 * else; nothing is done and nothing counted then. */
static inline void *take_biased(const struct wb_run *run, struct wb_ring ring, uint64_t size)
{
    struct wb_ring_producer *p = wb_ring_producer(ring.data);
    const uint32_t me = wb_identity(run);
    void *record = NULL;

    if (__builtin_expect(WB_PEEK(&p->bias) != me || WB_PEEK(&p->held), 0))
        return NULL;
    WB_PUT(&p->held, 1u);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(WB_PEEK(&p->bias) == me, 1)) {
        const uint64_t at = WB_PEEK(&p->position) & ~7ull;

        if (__builtin_expect(fits(ring, p, at, size), 1))
            record = make(ring, p, at, size, me % WB_PARTICIPANTS);
    }
    WB_STORE(&p->held, 0u);
    return record;
}

static __attribute__((noinline)) void *take_locked(struct wb_run *run, const struct wb_space *space,
                                                   struct wb_ring ring, uint64_t size)
{
    struct wb_ring_producer *p = wb_ring_producer(ring.data);
    const uint32_t me = wb_identity(run), owner = me % WB_PARTICIPANTS;
    void *record = NULL;

    if (wb_take_word(run, space, &p->lock) < 0) { /* a signal handler interrupted this thread's own reserve */
        __atomic_fetch_add(&p->dropped, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    if (WB_PEEK(&p->bias) || WB_PEEK(&p->revoked))
        revoke(run, space, p, me);
    if (WB_PEEK(&p->generation[owner]) != me >> 12)
        adopt(ring, owner, me >> 12);
    if (p->last != me) {
        p->last = me;
        p->streak = 0;
    } else if (++p->streak >= STREAK && owner && run->self && !(run->flags & WB_RUN_FENCE)) {
        p->streak = 0;
        WB_PUT(&p->held, 1u);
        WB_STORE(&p->bias, me);
    }
    const bool mine = WB_PEEK(&p->bias) == me;
    const uint64_t at = WB_PEEK(&p->position) & ~7ull;

    if (mine) /* a signal handler on this thread is not to reserve by it now */
        WB_PUT(&p->held, 1u);
    if (!fits(ring, p, at, size))
        WB_PUT(&p->seen, WB_LOAD(&wb_ring_consumer(ring.data)->position));
    if (fits(ring, p, at, size))
        record = make(ring, p, at, size, owner);
    else
        WB_PUT(&p->dropped, p->dropped + 1);
    if (mine)
        WB_STORE(&p->held, 0u);
    wb_give_word(&p->lock);
    return record;
}

void *wb_ring_take(struct wb_run *run, const struct wb_space *space, struct wb_ring ring, uint64_t size)
{
    void *record = take_biased(run, ring, size);

    return __builtin_expect(record != NULL, 1) ? record : take_locked(run, space, ring, size);
}

static struct wb_ring ring_of(const struct wb_map *map)
{
    return (struct wb_ring){map->values, (uint64_t)map->mask + 1};
}

WB_EXPORT void *wb_ring_reserve(struct wb_run *run, struct wb_map *map, uint64_t size, uint64_t flags)
{
    return flags ? NULL : wb_ring_take(run, map->space, ring_of(map), size);
}

static __attribute__((noinline)) void wake(struct wb_ring_consumer *c)
{
    __atomic_fetch_add(&c->word, 1, __ATOMIC_SEQ_CST);
    wb_system_call(SYS_futex, (int64_t)(uintptr_t)&c->word, 1 /* FUTEX_WAKE */, INT32_MAX, 0, 0, 0);
}

WB_EXPORT void wb_ring_commit(struct wb_run *run, void *record, uint64_t flags)
{
    uint32_t *header = (uint32_t *)((uint8_t *)record - WB_RING_HEADER);
    const uint64_t back = (uint64_t)(header[1] >> 12) * WB_RING_UNIT;
    const uint8_t *data = (const uint8_t *)((uintptr_t)header & ~(uintptr_t)(WB_RING_UNIT - 1)) - back;
    struct wb_ring_consumer *c = wb_ring_consumer(data);

    WB_STORE(header, (*header & ~WB_HEADER_BUSY) | (flags & WB_RING_DISCARD ? WB_HEADER_DISCARD : 0));
    /* A consumer that goes to sleep sets `waiting` and then makes every thread's stores visible: no fence here. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(run->flags & WB_RUN_FENCE, 0))
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(WB_PEEK(&c->waiting) && !(flags & WB_RING_NO_WAKEUP), 0) || flags & WB_RING_FORCE_WAKEUP)
        wake(c);
}

WB_EXPORT int64_t wb_ring_output(struct wb_run *run, struct wb_map *map, const void *data, uint64_t size,
                                 uint64_t flags)
{
    if (flags & ~(uint64_t)(WB_RING_NO_WAKEUP | WB_RING_FORCE_WAKEUP))
        return -EINVAL;
    void *record = wb_ring_take(run, map->space, ring_of(map), size);

    if (!record)
        return -EAGAIN;
    wb_copy(record, data, size);
    wb_ring_commit(run, record, flags);
    return 0;
}

WB_EXPORT uint64_t wb_ring_query(struct wb_run *run, struct wb_map *map, uint64_t flags)
{
    (void)run;
    const uint64_t consumer = WB_LOAD(&wb_ring_consumer(map->values)->position);
    const uint64_t producer = WB_LOAD(&wb_ring_producer(map->values)->position);

    switch (flags) {
    case 0: /* BPF_RB_AVAIL_DATA */
        return producer - consumer;
    case 1:
        return (uint64_t)map->mask + 1;
    case 2:
        return consumer;
    case 3:
        return producer;
    default:
        return 0;
    }
}

/* --- the consumer ------------------------------------------------------------------------------------------------- */

int64_t wb_ring_give_up_dead(const struct wb_space *space, struct wb_ring ring)
{
    struct wb_ring_producer *p = wb_ring_producer(ring.data);
    uint64_t at = WB_LOAD(&wb_ring_consumer(ring.data)->position);
    const uint64_t end = WB_LOAD(&p->position);
    int64_t given = 0;

    while (at < end && end - at <= ring.size) {
        uint64_t header = WB_LOAD(header_at(ring, at));
        uint32_t owner = owner_of(header);

        if ((uint32_t)header & WB_HEADER_BUSY) {
            if (!wb_holder_gone(space, owner | WB_LOAD(&p->generation[owner]) << 12))
                break;
            given += give_up(ring, at, header);
        }
        at += record_bytes(header);
    }
    return given;
}

/* Ring `index` of a map: a ring buffer has one, a perf event array one per index. */
static struct wb_ring ring_number(const struct wb_map *map, uint32_t index)
{
    return (struct wb_ring){map->values + (uint64_t)(index < map->max_entries ? index : 0) * map->reserved[1],
                            (uint64_t)map->mask + 1};
}

/* Addresses for readers: 0 = consumer area, 1 = producer area, 2 = data. */
WB_EXPORT uint8_t *wb_ring_part(struct wb_map *map, uint32_t index, uint32_t what)
{
    struct wb_ring ring = ring_number(map, index);

    return what == 0   ? (uint8_t *)wb_ring_consumer(ring.data)
           : what == 1 ? (uint8_t *)wb_ring_producer(ring.data)
                       : ring.data;
}

WB_EXPORT int64_t wb_ring_sweep(struct wb_run *run, struct wb_map *map, uint32_t index)
{
    (void)run;
    return wb_ring_give_up_dead(map->space, ring_number(map, index));
}

static bool ready(struct wb_ring ring)
{
    const uint64_t at = WB_LOAD(&wb_ring_consumer(ring.data)->position);

    return at < WB_LOAD(&wb_ring_producer(ring.data)->position) &&
           !(WB_LOAD((uint32_t *)header_at(ring, at)) & WB_HEADER_BUSY);
}

/* Sleep until a record can be read: 1, or 0 after `nanoseconds`. A dead producer wakes nobody, so sleep is short where
 * a busy record is at the head. */
WB_EXPORT int64_t wb_ring_wait(struct wb_run *run, struct wb_map *map, uint32_t index, uint64_t nanoseconds)
{
    struct wb_ring ring = ring_number(map, index);
    struct wb_ring_consumer *c = wb_ring_consumer(ring.data);
    const uint64_t slice = 10 * 1000 * 1000;

    for (;;) {
        const uint32_t word = WB_LOAD(&c->word);

        wb_ring_give_up_dead(map->space, ring);
        if (ready(ring))
            return 1;
        if (!nanoseconds)
            return 0;
        WB_STORE(&c->waiting, 1u);
        wb_barrier(run);
        if (!ready(ring)) {
            const bool blocked = WB_LOAD(&c->position) != WB_LOAD(&wb_ring_producer(ring.data)->position);
            const uint64_t most = blocked ? slice : 10 * slice, part = nanoseconds < most ? nanoseconds : most;
            int64_t time[2] = {(int64_t)(part / 1000000000), (int64_t)(part % 1000000000)};
            int64_t result = wb_system_call(SYS_futex, (int64_t)(uintptr_t)&c->word, 0 /* FUTEX_WAIT */, word,
                                            (int64_t)(uintptr_t)time, 0, 0);

            if (result == -EINTR) {
                WB_STORE(&c->waiting, 0u);
                return ready(ring);
            }
            nanoseconds -= result == -ETIMEDOUT ? part : nanoseconds < 1000 ? nanoseconds : 1000;
        }
        WB_STORE(&c->waiting, 0u);
    }
}

/* --- the map ------------------------------------------------------------------------------------------------------ */

static uint64_t ring_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (s->key_size || s->value_size || !s->max_entries || s->max_entries & (s->max_entries - 1) ||
        s->max_entries % WB_PAGE || s->flags & ~(uint32_t)WB_F_NUMA_NODE)
        return 0;
    *error = -E2BIG;
    if (s->max_entries > WB_RING_LARGEST)
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_PAGE) + wb_ring_bytes(s->max_entries);
}

static int64_t ring_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_PAGE);
    return 0;
}

static int64_t ring_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = ring_size(s, &error);

    if (!need || s->offset % WB_PAGE || need > map->length)
        return error ? error : -EINVAL;
    uint8_t *where = wb_private_memory(wb_ring_bytes(s->max_entries) + s->max_entries, false);

    if (!where)
        return -ENOMEM;
    error = wb_ring_map(map->segment + s->offset, s->max_entries, where);
    if (error)
        return error;
    map->local = where;
    map->values = where + WB_PAGE + WB_RING_PRODUCER_BYTES;
    map->mask = s->max_entries - 1;
    map->reserved[0] = wb_ring_bytes(s->max_entries) + s->max_entries; /* bytes at `local`, to unmap */
    map->reserved[1] = 0;
    return 0;
}

static void *ring_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t ring_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -WB_ENOTSUPP;
}

static int64_t ring_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return -WB_ENOTSUPP;
}

static int64_t ring_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -WB_ENOTSUPP;
}

static int64_t ring_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run, (void)map, (void)key, (void)next;
    return -WB_ENOTSUPP;
}

const struct wb_map_ops wb_ring_ops = {
    .lookup = ring_lookup,
    .update = ring_write,
    .erase = ring_erase,
    .read = ring_read,
    .write = ring_write,
    .next_key = ring_next,
    .size = ring_size,
    .format = ring_format,
    .open = ring_open,
};

/* A user ring is the same with the roles changed: user space reserves and submits, a program drains (user_ring.c). */
const struct wb_map_ops wb_user_ring_ops = {
    .lookup = ring_lookup,
    .update = ring_write,
    .erase = ring_erase,
    .read = ring_read,
    .write = ring_write,
    .next_key = ring_next,
    .size = ring_size,
    .format = ring_format,
    .open = ring_open,
};
