/* Maps for a process that has a C library: runs of its threads, batches. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/hash.h"
#include "runtime/maps.h"
#include "runtime/runtime.h"
#include "runtime/space.h"

extern const wb_helper wb_helpers[WB_HELPERS] __attribute__((weak));

#define RUN_BYTES 4096
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* A run for the calling thread, joined to `space` (NULL: none). After fork the child sees zeros: it has to make its own.
 * On failure NULL and *error. */
WB_EXPORT struct wb_run *wb_run_new(struct wb_space *space, int64_t *error) {
    size_t length = RUN_BYTES + WB_SCRATCH;
    struct wb_run *run = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *error = 0;
    if (run == MAP_FAILED) {
        *error = -errno;
        return 0;
    }
    madvise(run, length, MADV_WIPEONFORK);
    run->helpers = wb_helpers;
    run->scratch = (uint8_t *)run + RUN_BYTES;
    run->budget = UINT64_MAX;
    run->random[0] = (uint64_t)run * 0x9e3779b97f4a7c15ull | 1;
    if (space && (*error = wb_join(run, space))) {
        munmap(run, length);
        return 0;
    }
    return run;
}

/* By the thread that the run belongs to; by another one it does nothing and says -EPERM. */
WB_EXPORT int64_t wb_run_free(struct wb_run *run) {
    int64_t error = wb_leave(run);
    if (!error)
        munmap(run, RUN_BYTES + WB_SCRATCH);
    return error;
}

/* The same bucket by bucket: `position` is the next one's number. -ENOSPC: it has more entries than `room`. */
static int64_t hash_entries(struct wb_run *run, struct wb_map *map, int started, uint8_t *position, uint8_t *keys,
                            uint8_t *values, uint64_t value_bytes, int64_t room, int *done) {
    uint64_t bucket = 0;
    int64_t count = 0, got = 0;
    if (started)
        memcpy(&bucket, position, sizeof bucket);
    while (got >= 0 && bucket <= map->mask) {
        if (run->busy || !wb_begin(run))
            return -EBUSY;
        run->busy = 1;
        for (int turn = 0; turn < 64 && got >= 0 && bucket <= map->mask; turn++, bucket += got >= 0) {
            got = wb_hash_bucket(run, map, bucket, keys + count * map->key_size, values + count * value_bytes,
                                 value_bytes, room - count);
            count += got > 0 ? got : 0;
        }
        run->busy = 0;
        wb_end(run);
    }
    *done = got >= 0;
    memcpy(position, &bucket, sizeof bucket);
    return got < 0 && (got != -ENOSPC || !count) ? got : count;
}

/* Up to `room` entries after those that led to `position` (`started`; 8 bytes at least, or a key), packed. Returns how
 * many; *done when there are no more. Entries may come and go meanwhile. */
WB_EXPORT int64_t wb_map_entries(struct wb_run *run, struct wb_map *map, int started, uint8_t *position, uint8_t *keys,
                                 uint8_t *values, uint64_t value_bytes, int64_t room, int *done) {
    int64_t count = 0;
    *done = 0;
    if (map->type == 1 || map->type == 5 || map->type == 9 || map->type == 10)
        return map->flags & 16 ? -EPERM /* BPF_F_WRONLY */
                               : hash_entries(run, map, started, position, keys, values, value_bytes, room, done);
    while (count < room) {
        uint8_t *key = keys + count * map->key_size;
        int64_t error = wb_map_next_key(run, map, started ? position : 0, key);
        if (error == -ENOENT) {
            *done = 1;
            break;
        }
        if (error)
            return error;
        started = 1;
        memcpy(position, key, map->key_size);
        error = wb_map_read(run, map, key, values + count * value_bytes, 0);
        if (error && error != -ENOENT)
            return error;
        count += !error;
    }
    return count;
}

/* `count` entries at once; *done says how many succeeded before the error. */
WB_EXPORT int64_t wb_map_write_many(struct wb_run *run, struct wb_map *map, const uint8_t *keys, const uint8_t *values,
                                    uint64_t value_bytes, int64_t count, uint64_t flags, int64_t *done) {
    for (*done = 0; *done < count; ++*done) {
        int64_t error = wb_map_write(run, map, keys + *done * map->key_size, values + *done * value_bytes, flags);
        if (error)
            return error;
    }
    return 0;
}

WB_EXPORT int64_t wb_map_erase_many(struct wb_run *run, struct wb_map *map, const uint8_t *keys, int64_t count,
                                    int64_t *done) {
    for (*done = 0; *done < count; ++*done) {
        int64_t error = wb_map_erase(run, map, keys + *done * map->key_size);
        if (error)
            return error;
    }
    return 0;
}
