/* Bloom filter (kernel/bpf/bloom_filter.c): bits that are only ever set, by atomic or. A writer that dies half-way has
 * set some of the bits of a value it never finished to push; nothing needs repair. */
#include "map_type.h"

#define HASHES 5 /* the kernel's default number of hash functions */

struct bloom {
    uint64_t seed, mask; /* mask: number of bits - 1 */
    uint8_t rest[WB_LINE - 16];
};

static uint64_t bits(const struct wb_segment *s)
{
    uint64_t wanted = (uint64_t)s->max_entries * HASHES / 5 * 7;

    return wb_power(wanted > UINT32_MAX ? 1ull << 32 : wanted < 64 ? 64 : wanted);
}

static uint64_t bloom_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (s->key_size || !s->value_size || !s->max_entries ||
        !wb_flags_allowed(s, WB_F_NUMA_NODE | WB_F_ZERO_SEED | WB_F_ACCESS))
        return 0;
    *error = -E2BIG;
    if (s->value_size > WB_MAX_VALUE)
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_LINE) + sizeof(struct bloom) + bits(s) / 8;
}

static int64_t bloom_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    struct bloom *b = (void *)((uint8_t *)s + s->offset);

    b->mask = bits(s) - 1;
    if (!(s->flags & WB_F_ZERO_SEED))
        wb_system_call(SYS_getrandom, (int64_t)(uintptr_t)&b->seed, sizeof b->seed, 0, 0, 0, 0);
    return 0;
}

static int64_t bloom_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = bloom_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    map->local = map->segment + s->offset;
    map->values = map->segment + s->offset + sizeof(struct bloom);
    return 0;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static uint64_t hash(const uint8_t *value, uint64_t size, uint64_t seed)
{
    uint64_t h = mix(seed ^ size), word;

    for (; size >= 8; size -= 8, value += 8) {
        __builtin_memcpy(&word, value, 8);
        h = mix(h ^ word);
    }
    for (word = 0; size; size--)
        word = word << 8 | value[size - 1];
    return mix(h ^ word);
}

static int64_t bloom_push(struct wb_run *run, struct wb_map *map, const void *value, uint64_t flags)
{
    (void)run;
    const struct bloom *b = map->local;
    const uint64_t mask = bits((const void *)map->segment) - 1;
    uint64_t h, step;

    if (flags != WB_ANY)
        return -EINVAL;
    h = hash(value, map->value_size, b->seed);
    step = mix(h) | 1;
    for (int i = 0; i < HASHES; i++, h += step)
        __atomic_fetch_or((uint64_t *)map->values + (h & mask) / 64, 1ull << (h & 63), __ATOMIC_RELAXED);
    return 0;
}

static int64_t bloom_peek(struct wb_run *run, struct wb_map *map, void *value)
{
    (void)run;
    const struct bloom *b = map->local;
    const uint64_t mask = bits((const void *)map->segment) - 1;
    uint64_t h = hash(value, map->value_size, b->seed), step = mix(h) | 1;

    for (int i = 0; i < HASHES; i++, h += step)
        if (!(WB_PEEK((uint64_t *)map->values + (h & mask) / 64) >> (h & 63) & 1))
            return -ENOENT;
    return 0;
}

static int64_t bloom_pop(struct wb_run *run, struct wb_map *map, void *value)
{
    (void)run, (void)map, (void)value;
    return -EOPNOTSUPP;
}

static void *bloom_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t bloom_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -EINVAL;
}

static int64_t bloom_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map;
    return key ? -EINVAL : -EOPNOTSUPP;
}

static int64_t bloom_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    return key || flags ? -EINVAL : bloom_peek(run, map, value);
}

static int64_t bloom_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    return key ? -EINVAL : bloom_push(run, map, value, flags);
}

static int64_t bloom_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run, (void)map, (void)next;
    return key ? -EINVAL : -EOPNOTSUPP;
}

const struct wb_map_ops wb_bloom_ops = {
    .lookup = bloom_lookup,
    .update = bloom_update,
    .erase = bloom_erase,
    .push = bloom_push,
    .pop = bloom_pop,
    .peek = bloom_peek,
    .read = bloom_read,
    .write = bloom_write,
    .next_key = bloom_next,
    .size = bloom_size,
    .format = bloom_format,
    .open = bloom_open,
};
