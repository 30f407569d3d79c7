/* Array and per-CPU array (kernel/bpf/arraymap.c): elements side by side; a per-CPU array has one such row per slot,
 * each on cache lines of its own. An update copies the value in place, as the kernel does. */
#include "map_type.h"

static uint64_t array_stride(const struct wb_segment *s)
{
    return wb_up(s->value_size, 8);
}

static uint64_t row_bytes(const struct wb_segment *s)
{
    return wb_up(array_stride(s) * s->max_entries, 2 * WB_LINE);
}

static bool attributes(const struct wb_segment *s, bool percpu, int64_t *error)
{
    uint32_t allowed = WB_F_NUMA_NODE | WB_F_ACCESS | (percpu ? 0 : WB_F_MMAPABLE | WB_F_INNER_MAP | WB_F_PRESERVE_ELEMS);

    *error = -EINVAL;
    if (s->key_size != 4 || !s->value_size || !s->max_entries || !wb_flags_allowed(s, allowed) ||
        (percpu && s->flags & WB_F_NUMA_NODE) || s->flags & WB_F_PRESERVE_ELEMS)
        return false;
    *error = -E2BIG;
    if (s->value_size > 0x7fffffff || (percpu && s->value_size > 32768))
        return false;
    *error = 0;
    return true;
}

static uint64_t array_size(const struct wb_segment *s, int64_t *error)
{
    if (!attributes(s, false, error))
        return 0;
    return wb_data_offset(s, WB_PAGE) + wb_up(array_stride(s) * s->max_entries, WB_PAGE);
}

static uint64_t percpu_size(const struct wb_segment *s, int64_t *error)
{
    if (!attributes(s, true, error))
        return 0;
    return wb_data_offset(s, WB_LINE) + row_bytes(s) * (s->cpus ? s->cpus : 1);
}

static int64_t array_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_PAGE);
    return 0;
}

static int64_t percpu_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t array_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = array_size(s, &error);

    if (!need || s->offset % WB_PAGE || need > map->length)
        return error ? error : -EINVAL;
    map->values = map->segment + s->offset;
    map->stride = (uint32_t)array_stride(s);
    map->cpu_stride = 0;
    map->mask = (uint32_t)(wb_power(s->max_entries) - 1);
    return 0;
}

static int64_t percpu_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = percpu_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length || !s->cpus || row_bytes(s) > UINT32_MAX)
        return error ? error : -EINVAL;
    map->values = map->segment + s->offset;
    map->stride = (uint32_t)array_stride(s);
    map->cpu_stride = (uint32_t)row_bytes(s);
    map->cpus = s->cpus;
    map->mask = (uint32_t)(wb_power(s->max_entries) - 1);
    return 0;
}

static uint32_t index_of(const void *key)
{
    uint32_t index;

    __builtin_memcpy(&index, key, 4);
    return index;
}

static void *element(const struct wb_map *map, uint32_t index, uint32_t cpu)
{
    return map->values + (uint64_t)index * map->stride + (uint64_t)cpu * map->cpu_stride;
}

static void *array_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run;
    uint32_t index = index_of(key);

    return index < map->max_entries ? element(map, index, 0) : NULL;
}

static void *percpu_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    uint32_t index = index_of(key);

    return index < map->max_entries && run->cpu < map->cpus ? element(map, index, run->cpu) : NULL;
}

static void *percpu_lookup_cpu(struct wb_run *run, struct wb_map *map, const void *key, uint32_t cpu)
{
    (void)run;
    uint32_t index = index_of(key);

    return index < map->max_entries && cpu < map->cpus ? element(map, index, cpu) : NULL;
}

static int64_t check(const struct wb_map *map, const void *key, uint64_t flags)
{
    if (flags > WB_EXIST)
        return -EINVAL;
    if (index_of(key) >= map->max_entries)
        return -E2BIG;
    return flags == WB_NOEXIST ? -EEXIST : 0;
}

/* A value without its lock. */
static void copy_around(uint8_t *to, const uint8_t *from, uint32_t size, uint32_t lock)
{
    wb_copy(to, from, lock - 1);
    wb_copy(to + lock + 3, from + lock + 3, size - lock - 3);
}

/* Whether BPF_F_LOCK is among the flags where values have no lock. */
static bool lockless(const struct wb_map *map, uint64_t flags)
{
    return flags & WB_F_LOCK && !wb_lock_offset(map);
}

static int64_t array_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    int64_t error = lockless(map, flags) ? -EINVAL : check(map, key, flags & ~(uint64_t)WB_F_LOCK);

    if (error)
        return error;
    uint8_t *at = element(map, index_of(key), 0);
    const uint32_t lock = wb_lock_offset(map);

    if (!lock) {
        wb_copy(at, value, map->value_size);
        return 0;
    }
    if (flags & WB_F_LOCK)
        wb_spin_acquire(run, (uint32_t *)(at + lock - 1));
    copy_around(at, value, map->value_size, lock);
    if (flags & WB_F_LOCK)
        wb_spin_release(run, (uint32_t *)(at + lock - 1));
    return 0;
}

static int64_t percpu_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                             uint64_t flags)
{
    int64_t error = check(map, key, flags);

    if (!error && run->cpu < map->cpus)
        wb_copy(element(map, index_of(key), run->cpu), value, map->value_size);
    return error;
}

static int64_t array_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return -EINVAL;
}

static int64_t array_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    if (flags & ~(uint64_t)WB_F_LOCK || lockless(map, flags))
        return -EINVAL;
    if (index_of(key) >= map->max_entries)
        return -ENOENT;
    uint8_t *at = element(map, index_of(key), 0);
    const uint32_t lock = wb_lock_offset(map);

    if (!lock) {
        wb_copy(value, at, map->value_size);
        return 0;
    }
    if (flags)
        wb_spin_acquire(run, (uint32_t *)(at + lock - 1));
    copy_around(value, at, map->value_size, lock);
    wb_clear((uint8_t *)value + lock - 1, 4);
    if (flags)
        wb_spin_release(run, (uint32_t *)(at + lock - 1));
    return 0;
}

static int64_t percpu_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run;
    if (flags)
        return -EINVAL;
    if (index_of(key) >= map->max_entries)
        return -ENOENT;
    for (uint32_t cpu = 0; cpu < map->cpus; cpu++)
        wb_copy((uint8_t *)value + (uint64_t)cpu * map->stride, element(map, index_of(key), cpu), map->stride);
    return 0;
}

static int64_t percpu_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                            uint64_t flags)
{
    (void)run;
    int64_t error = check(map, key, flags);

    if (error)
        return error;
    for (uint32_t cpu = 0; cpu < map->cpus; cpu++)
        wb_copy(element(map, index_of(key), cpu), (const uint8_t *)value + (uint64_t)cpu * map->stride, map->stride);
    return 0;
}

static int64_t array_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run;
    uint32_t index = key ? index_of(key) : UINT32_MAX;

    if (index == map->max_entries - 1)
        return -ENOENT;
    index = index >= map->max_entries ? 0 : index + 1;
    __builtin_memcpy(next, &index, 4);
    return 0;
}

static int64_t array_each(struct wb_run *run, struct wb_map *map, wb_callback callback, void *ctx, uint64_t flags)
{
    uint32_t index = 0, cpu = map->cpu_stride ? run->cpu : 0;

    if (flags)
        return -EINVAL;
    if (map->cpu_stride && cpu >= map->cpus)
        return 0;
    while (index < map->max_entries) {
        uint32_t key = index++;

        if (callback((uintptr_t)map, (uintptr_t)&key, (uintptr_t)element(map, key, cpu), (uintptr_t)ctx, 0, run))
            break; /* 1 = enough */
    }
    return index;
}

const struct wb_map_ops wb_array_ops = {
    .lookup = array_lookup,
    .update = array_update,
    .erase = array_erase,
    .for_each = array_each,
    .read = array_read,
    .write = array_update,
    .next_key = array_next,
    .size = array_size,
    .format = array_format,
    .open = array_open,
};

const struct wb_map_ops wb_percpu_array_ops = {
    .lookup = percpu_lookup,
    .update = percpu_update,
    .erase = array_erase,
    .lookup_percpu = percpu_lookup_cpu,
    .for_each = array_each,
    .read = percpu_read,
    .write = percpu_write,
    .next_key = array_next,
    .size = percpu_size,
    .format = percpu_format,
    .open = percpu_open,
};
