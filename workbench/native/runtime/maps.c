/* The table of map types, the life of segments, and the system call side of maps. */
#include "map_type.h"
#include "maps.h"

#include <errno.h>

/* One row a type (the kernel's enum bpf_map_type); a weak name that no file defines is a type that is not here. */
#define TYPES(X)                                                                                                       \
    X(1, wb_hash_ops)                                                                                                  \
    X(2, wb_array_ops)                                                                                                 \
    X(3, wb_prog_array_ops)                                                                                            \
    X(4, wb_perf_array_ops)                                                                                      \
    X(5, wb_percpu_hash_ops)                                                                                           \
    X(6, wb_percpu_array_ops)                                                                                          \
    X(7, wb_stack_trace_ops)                                                                                           \
    X(9, wb_lru_hash_ops)                                                                                              \
    X(10, wb_lru_percpu_hash_ops)                                                                                      \
    X(11, wb_lpm_ops)                                                                                             \
    X(12, wb_array_of_maps_ops)                                                                                        \
    X(13, wb_hash_of_maps_ops)                                                                                         \
    X(22, wb_queue_ops)                                                                                                \
    X(23, wb_stack_ops)                                                                                                \
    X(27, wb_ring_ops)                                                                                              \
    X(29, wb_task_storage_ops)                                                                                         \
    X(30, wb_bloom_ops)                                                                                         \
    X(31, wb_user_ring_ops)

#define DECLARE(number, ops) extern const struct wb_map_ops ops __attribute__((weak, visibility("hidden")));
TYPES(DECLARE)
#undef DECLARE

/* The address of a weak object is not a constant of C; a switch needs no relocated table either. */
WB_EXPORT const struct wb_map_ops *wb_map_ops(uint32_t type) {
    switch (type) {
#define ROW(number, ops)                                                                                               \
    case number:                                                                                                       \
        return &ops;
        TYPES(ROW)
#undef ROW
    }
    return 0;
}

WB_EXPORT int64_t wb_segment_size(const struct wb_segment *attributes) {
    const struct wb_map_ops *ops = wb_map_ops(attributes->type);
    int64_t error = -EINVAL;
    if (!ops || !ops->size)
        return -EOPNOTSUPP;
    uint64_t length = ops->size(attributes, &error);
    return length ? (int64_t)length : error;
}

WB_EXPORT int64_t wb_segment_format(void *memory, uint64_t length, const struct wb_segment *attributes) {
    struct wb_segment *segment = memory;
    int64_t need = wb_segment_size(attributes);
    if (need < 0)
        return need;
    if ((uint64_t)need > length)
        return -EINVAL;
    *segment = *attributes;
    segment->magic = 0;
    segment->version = WB_SEGMENT_VERSION;
    segment->length = length;
    segment->offset = WB_SEGMENT_HEADER;
    int64_t error = wb_map_ops(segment->type)->format(segment);
    if (!error)
        WB_STORE(&segment->magic, WB_SEGMENT_MAGIC);
    return error;
}

/* Whoever can write the segment can change it at any time: what is checked is copied first, and only copies and
 * what was computed from them are relied on for bounds. */
/* Rings that helpers write to on their own account are known by their names. */
static void stream(struct wb_map *map, const char *name) {
    static const char printk[] = ".printk", timers[] = ".timers";
    if (map->type == 27 && !__builtin_memcmp(name, printk, sizeof printk))
        map->space->printk = map;
    if (map->type == 27 && !__builtin_memcmp(name, timers, sizeof timers))
        map->space->timers = map;
}

WB_EXPORT int64_t wb_map_open(struct wb_map *map, void *memory, uint64_t length, struct wb_space *space) {
    const struct wb_segment *segment = memory;
    if (length < WB_SEGMENT_HEADER || WB_LOAD(&segment->magic) != WB_SEGMENT_MAGIC ||
        segment->version != WB_SEGMENT_VERSION)
        return -EINVAL;
    struct wb_segment seen = *(const volatile struct wb_segment *)segment;
    const struct wb_map_ops *ops = wb_map_ops(seen.type);
    if (!ops)
        return -EOPNOTSUPP;
    int64_t need = wb_segment_size(&seen);
    if (need < 0)
        return need;
    if ((uint64_t)need > length || seen.length > length || seen.offset < WB_SEGMENT_HEADER ||
        seen.offset % WB_LINE || seen.offset > length || !seen.cpus || seen.cpus > WB_SPACE_CPUS)
        return -EINVAL;
    *map = (struct wb_map){
        .type = seen.type,
        .key_size = seen.key_size,
        .value_size = seen.value_size,
        .max_entries = seen.max_entries,
        .flags = seen.flags,
        .id = seen.id,
        .segment = memory,
        .length = length,
        .cpus = seen.cpus,
        .ops = ops,
        .space = space,
    };
    int64_t error = ops->open(map);
    if (!error && space)
        stream(map, seen.name);
    return error;
}

/* What the flags of a map deny to this side (kernel/bpf/syscall.c, map_get_sys_perms). */
#define NEEDS(denying)                                                                                                 \
    if (map->flags & (denying))                                                                                        \
        return -EPERM;

#define BETWEEN(operation, ...)                                                                                        \
    int64_t result = -EOPNOTSUPP;                                                                                    \
    if (!map->ops->operation)                                                                                          \
        return result;                                                                                                 \
    if (run->busy || !wb_begin(run))                                                                                   \
        return -EBUSY;                                                                                               \
    run->busy = 1;                                                                                                     \
    result = map->ops->operation(run, map, __VA_ARGS__);                                                               \
    run->busy = 0;                                                                                                     \
    wb_end(run);                                                                                                       \
    return result;

WB_EXPORT int64_t wb_map_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags) {
    NEEDS(WB_F_WRONLY)
    BETWEEN(read, key, value, flags)
}

WB_EXPORT int64_t wb_map_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                               uint64_t flags) {
    NEEDS(WB_F_RDONLY)
    BETWEEN(write, key, value, flags)
}

WB_EXPORT int64_t wb_map_erase(struct wb_run *run, struct wb_map *map, const void *key) {
    NEEDS(WB_F_RDONLY)
    BETWEEN(erase, key)
}

WB_EXPORT int64_t wb_map_take(struct wb_run *run, struct wb_map *map, const void *key, void *value) {
    NEEDS(WB_F_RDONLY | WB_F_WRONLY)
    if (!map->ops->take)
        return -524; /* ENOTSUPP, which the kernel gives here */
    BETWEEN(take, key, value)
}

WB_EXPORT int64_t wb_map_next_key(struct wb_run *run, struct wb_map *map, const void *key, void *next) {
    NEEDS(WB_F_WRONLY)
    BETWEEN(next_key, key, next)
}

WB_EXPORT int64_t wb_map_push(struct wb_run *run, struct wb_map *map, const void *value, uint64_t flags) {
    NEEDS(WB_F_RDONLY)
    BETWEEN(push, value, flags)
}

WB_EXPORT int64_t wb_map_pop(struct wb_run *run, struct wb_map *map, void *value) {
    NEEDS(WB_F_RDONLY | WB_F_WRONLY)
    BETWEEN(pop, value)
}

WB_EXPORT int64_t wb_map_peek(struct wb_run *run, struct wb_map *map, void *value) {
    NEEDS(WB_F_WRONLY)
    BETWEEN(peek, value)
}
