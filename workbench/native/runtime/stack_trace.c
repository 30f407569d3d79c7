/* Stack traces by number (kernel/bpf/stackmap.c).
 *
 * A bucket has two places and one word: which place counts, whether there is anything, a version, and who is writing.
 * A writer puts its name into the word, fills the place that does not count, and commits with one store that also takes
 * the name out. A dead writer's name is replaced; what it wrote was never seen.
 */
#include "map_type.h"

#define FRAMES 127u /* the kernel's perf_event_max_stack */
#define FAST_COMPARE (1u << 9)
#define REUSE (1u << 10)

#define PRESENT 1ull
#define SIDE 2ull
#define VERSION 4ull /* one step */
#define WRITER(word) ((uint32_t)((word) >> 32))

struct place {
    uint32_t hash, count;
    uint64_t addresses[];
};

static uint64_t place_bytes(uint32_t value_size)
{
    return sizeof(struct place) + value_size;
}

static uint64_t traces_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (!s->max_entries || s->key_size != 4 || s->value_size < 8 || s->value_size % 8 ||
        s->value_size / 8 > FRAMES || s->flags & ~(uint32_t)(WB_F_NUMA_NODE | WB_F_RDONLY | WB_F_WRONLY))
        return 0;
    *error = -E2BIG;
    if (s->max_entries > 1u << 31)
        return 0;
    *error = 0;
    uint64_t buckets = wb_power(s->max_entries);

    return wb_data_offset(s, WB_LINE) + buckets * (8 + 2 * place_bytes(s->value_size));
}

static int64_t traces_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t traces_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = traces_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    map->mask = (uint32_t)(wb_power(map->max_entries) - 1);
    map->local = map->segment + s->offset;
    map->values = map->segment + s->offset + 8 * ((uint64_t)map->mask + 1);
    map->stride = (uint32_t)place_bytes(map->value_size);
    return 0;
}

static uint64_t *bucket(const struct wb_map *map, uint32_t id)
{
    return (uint64_t *)map->local + id;
}

static struct place *place(const struct wb_map *map, uint32_t id, uint64_t word)
{
    return (struct place *)(map->values + (2 * (uint64_t)id + !!(word & SIDE)) * map->stride);
}

/* The bucket as readers see it: the same word but for the writer. */
static bool same_content(uint64_t a, uint64_t b)
{
    return (uint32_t)a == (uint32_t)b;
}

static uint32_t hash(const uint64_t *addresses, uint32_t count)
{
    uint64_t h = count;

    for (uint32_t i = 0; i < count; i++) {
        h = (h ^ addresses[i]) * 0xd6e8feb86659fd93ull;
        h ^= h >> 32;
    }
    return (uint32_t)h;
}

/* The word with this thread as its writer; *word is what it was. -EBUSY: this thread is writing there already. */
static int64_t claim(struct wb_run *run, struct wb_map *map, uint32_t id, uint64_t *word)
{
    const uint32_t me = wb_identity(run);

    for (uint32_t spins = 0;; spins++) {
        *word = WB_LOAD(bucket(map, id));
        const uint32_t writer = WRITER(*word);

        if (writer == me)
            return -EBUSY;
        if (!writer || wb_holder_gone(map->space, writer)) {
            uint64_t old = *word;

            if (__atomic_compare_exchange_n(bucket(map, id), &old, (uint32_t)*word | (uint64_t)me << 32, false,
                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return 0;
        }
        wb_relax();
        if (spins % 64 == 63)
            wb_yield();
    }
}

static uint64_t next_version(uint64_t word)
{
    return (uint32_t)(word + VERSION);
}

/* 1 = the bucket holds this stack, 0 = another, -1 = it changed meanwhile. */
static int matches(const struct wb_map *map, uint32_t id, uint64_t word, const uint64_t *addresses, uint32_t count,
                   uint32_t h, bool fast)
{
    const struct place *p = place(map, id, word);
    bool equal = p->hash == h && (fast || (p->count == count && wb_equal(p->addresses, addresses, 8ull * count)));

    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return same_content(WB_PEEK(bucket(map, id)), word) ? equal : -1;
}

WB_EXPORT int64_t wb_stack_id(struct wb_run *run, struct wb_map *map, const uint64_t *addresses, uint32_t count,
                              uint64_t flags)
{
    uint64_t word;

    if (!count)
        return -EFAULT;
    if (count > map->value_size / 8)
        count = map->value_size / 8;
    const uint32_t h = hash(addresses, count), id = h & map->mask;

    for (;;) {
        word = WB_LOAD(bucket(map, id));
        if (word & PRESENT) {
            int match = matches(map, id, word, addresses, count, h, flags & FAST_COMPARE);

            if (match > 0)
                return id;
            if (match < 0)
                continue;
            if (!(flags & REUSE))
                return -EEXIST;
        }
        int64_t error = claim(run, map, id, &word);

        if (error)
            return error;
        if (!(word & PRESENT) || flags & REUSE)
            break;
        WB_STORE(bucket(map, id), (uint64_t)(uint32_t)word); /* another thread was first: look again */
    }
    struct place *p = place(map, id, word ^ SIDE);

    __atomic_thread_fence(__ATOMIC_RELEASE);
    p->hash = h;
    p->count = count;
    wb_copy(p->addresses, addresses, 8ull * count);
    WB_STORE(bucket(map, id), next_version(word ^ SIDE) | PRESENT);
    return id;
}

static uint32_t id_of(const void *key)
{
    uint32_t id;

    __builtin_memcpy(&id, key, 4);
    return id;
}

static int64_t traces_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run;
    const uint32_t id = id_of(key);

    if (flags)
        return -EINVAL;
    if (id > map->mask)
        return -ENOENT;
    for (;;) {
        uint64_t word = WB_LOAD(bucket(map, id));
        const struct place *p = place(map, id, word);
        uint32_t count = p->count < map->value_size / 8 ? p->count : map->value_size / 8;

        if (!(word & PRESENT))
            return -ENOENT;
        wb_copy(value, p->addresses, 8ull * count);
        wb_clear((uint64_t *)value + count, map->value_size - 8ull * count);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (same_content(WB_PEEK(bucket(map, id)), word))
            return 0;
    }
}

static int64_t traces_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    const uint32_t id = id_of(key);
    uint64_t word;

    if (id > map->mask)
        return -E2BIG;
    int64_t error = claim(run, map, id, &word);

    if (error)
        return error;
    if (!(word & PRESENT)) {
        WB_STORE(bucket(map, id), (uint64_t)(uint32_t)word);
        return -ENOENT;
    }
    WB_STORE(bucket(map, id), next_version(word & ~PRESENT));
    return 0;
}

static int64_t traces_take(struct wb_run *run, struct wb_map *map, const void *key, void *value)
{
    int64_t error = traces_read(run, map, key, value, 0);

    return error ? error : traces_erase(run, map, key);
}

static int64_t traces_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run;
    uint32_t id = key ? id_of(key) : 0;

    if (key)
        id = id > map->mask || !(WB_LOAD(bucket(map, id)) & PRESENT) ? 0 : id + 1;
    for (; id <= map->mask; id++)
        if (WB_LOAD(bucket(map, id)) & PRESENT) {
            __builtin_memcpy(next, &id, 4);
            return 0;
        }
    return -ENOENT;
}

static void *traces_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t traces_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                             uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -EINVAL;
}

const struct wb_map_ops wb_stack_trace_ops = {
    .lookup = traces_lookup,
    .update = traces_update,
    .erase = traces_erase,
    .read = traces_read,
    .write = traces_update,
    .take = traces_take,
    .next_key = traces_next,
    .size = traces_size,
    .format = traces_format,
    .open = traces_open,
};
