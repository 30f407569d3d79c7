/* Perf event array: a ring for every index, in the layout of a ring buffer. An index takes records once somebody reads
 * it, as in the kernel once a perf event was put there (kernel/trace/bpf_trace.c, bpf_perf_event_output). */
#include "ring.h"

#define DATA_BYTES (256u * 1024)
#define LARGEST 65535u /* a perf record's length has 16 bits */
#define CURRENT 0xffffffffu

static uint64_t in_segment(void)
{
    return wb_up(wb_ring_bytes(DATA_BYTES), WB_PAGE);
}

static uint64_t perf_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (!s->max_entries || s->key_size != 4 || s->value_size != 4 ||
        !wb_flags_allowed(s, WB_F_NUMA_NODE | WB_F_RDONLY | WB_F_WRONLY | WB_F_PRESERVE_ELEMS))
        return 0;
    *error = -E2BIG;
    if (s->max_entries > 65536)
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_PAGE) + in_segment() * s->max_entries;
}

static int64_t perf_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_PAGE);
    return 0;
}

static int64_t perf_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = perf_size(s, &error), stride = in_segment() + DATA_BYTES;

    if (!need || s->offset % WB_PAGE || need > map->length || map->max_entries > 65536)
        return error ? error : -EINVAL;
    uint8_t *where = wb_private_memory(stride * map->max_entries, false);

    if (!where)
        return -ENOMEM;
    for (uint32_t i = 0; i < map->max_entries; i++) {
        error = wb_ring_map(map->segment + s->offset + i * in_segment(), DATA_BYTES, where + i * stride);
        if (error)
            return error;
    }
    map->local = where;
    map->values = where + WB_PAGE + WB_RING_PRODUCER_BYTES;
    map->mask = DATA_BYTES - 1;
    map->reserved[0] = stride * map->max_entries;
    map->reserved[1] = stride;
    return 0;
}

static uint8_t *data_at(const struct wb_map *map, uint64_t index)
{
    return map->values + index * map->reserved[1];
}

WB_EXPORT int64_t wb_perf_output(struct wb_run *run, struct wb_map *map, uint64_t flags, const void *data,
                                 uint64_t size)
{
    uint64_t index = flags == CURRENT ? run->cpu % map->max_entries : flags;

    if (flags & ~(uint64_t)CURRENT)
        return -EINVAL;
    if (index >= map->max_entries)
        return -E2BIG;
    if (!WB_PEEK(&wb_ring_consumer(data_at(map, index))->enabled))
        return -ENOENT;
    if (size > LARGEST)
        return -E2BIG;
    void *record = wb_ring_take(run, map->space, (struct wb_ring){data_at(map, index), DATA_BYTES}, size);

    if (!record)
        return -ENOSPC;
    wb_copy(record, data, size);
    wb_ring_commit(run, record, 0);
    return 0;
}

static uint32_t index_of(const void *key)
{
    uint32_t index;

    __builtin_memcpy(&index, key, 4);
    return index;
}

/* What an update with a perf event's descriptor is in the kernel: a reader begins (value 1) or ends (0). */
static int64_t perf_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run;
    if (flags != WB_ANY)
        return -EINVAL;
    if (index_of(key) >= map->max_entries)
        return -E2BIG;
    WB_STORE(&wb_ring_consumer(data_at(map, index_of(key)))->enabled, index_of(value) != 0);
    return 0;
}

static int64_t perf_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run;
    if (index_of(key) >= map->max_entries)
        return -E2BIG;
    return __atomic_exchange_n(&wb_ring_consumer(data_at(map, index_of(key)))->enabled, 0, __ATOMIC_ACQ_REL) ? 0
                                                                                                             : -ENOENT;
}

static int64_t perf_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -WB_ENOTSUPP;
}

static void *perf_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t perf_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -EINVAL;
}

static int64_t perf_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run;
    uint32_t index = key ? index_of(key) : UINT32_MAX;

    if (index == map->max_entries - 1)
        return -ENOENT;
    index = index >= map->max_entries ? 0 : index + 1;
    __builtin_memcpy(next, &index, 4);
    return 0;
}

const struct wb_map_ops wb_perf_array_ops = {
    .lookup = perf_lookup,
    .update = perf_update,
    .erase = perf_erase,
    .read = perf_read,
    .write = perf_write,
    .next_key = perf_next,
    .size = perf_size,
    .format = perf_format,
    .open = perf_open,
};
