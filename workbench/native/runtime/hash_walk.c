/* The hash family read whole: copies of values, ways through all entries. */
#include "hash_find.h"

void wb_hash_copy_out(struct wb_map *map, uint32_t slot, uint8_t *value) {
    if (!wb_is_percpu(map)) {
        wb_move(value, wb_slot_value(map, slot, 0), map->value_size);
        uint32_t lock = wb_lock_offset(map);
        if (__builtin_expect(lock, 0))
            wb_wipe(value + lock - 1, 4);
        return;
    }
    for (uint32_t i = 0; i < map->cpus; i++)
        wb_move(value + (uint64_t)i * map->cpu_stride, wb_slot_value(map, slot, i), map->cpu_stride);
}

int64_t wb_hash_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags) {
    if (flags & ~4ull || (flags && (map->type != 1 || !wb_lock_offset(map)))) /* BPF_F_LOCK */
        return -EINVAL;
    wb_hold(run);
    struct wb_hash_header *header = wb_header(map);
    for (uint32_t turn = 0;;) {
        uint64_t copies = WB_LOAD(&header->copies), writer = WB_LOAD(&header->log);
        uint32_t slot = find(map, key, wb_key_hash(map, key));
        if (!slot)
            return -ENOENT;
        if (__builtin_expect(!writer, 1)) {
            uint32_t *lock = flags ? wb_lock_of(map, wb_slot_value(map, slot, 0)) : 0;
            if (lock)
                wb_spin_acquire(run, lock);
            wb_hash_copy_out(map, slot, value);
            if (lock)
                wb_spin_release(run, lock);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__builtin_expect(WB_PEEK(&header->copies) == copies, 1))
                return 0;
        } else if (wb_absent(map->space, writer) &&
                   wb_block_reap(run, map, (uint32_t)writer % WB_PARTICIPANTS, 0)) {
            wb_exchange(&header->log, writer, 0);
        }
        if (!wb_wait(&turn))
            return -EBUSY;
    }
}

/* A way through all entries: ways 0 to 5, then the chain of way 6, bucket by bucket. */
struct walk {
    uint64_t bucket, word;
    uint32_t way;
    uint32_t left; /* of a chain: a damaged one may be a ring */
};

/* The slot that `walk` is at or comes to next; 0 at the end. */
static uint32_t walk_on(const struct wb_map *map, struct walk *walk) {
    for (;;) {
        uint32_t index = WB_WORD_SLOT(walk->word);
        if (index && index < wb_slots(map) && walk->left) {
            walk->left--;
            return index;
        }
        if (walk->way == WB_WAYS) {
            walk->way = 0;
            walk->bucket++;
        }
        if (walk->bucket > map->mask)
            return 0;
        walk->word = WB_LOAD(&wb_bucket(map, walk->bucket)->way[walk->way++]);
        walk->left = wb_slots(map);
    }
}

static void walk_past(const struct wb_map *map, struct walk *walk, uint32_t slot) {
    walk->word = walk->way == WB_WAYS ? WB_LOAD(&wb_slot(map, slot)->next) : 0;
}

/* The key after `key` in that order; after a key that is gone, the first. */
int64_t wb_hash_next(struct wb_run *run, struct wb_map *map, const void *key, void *next) {
    struct walk walk = {0};
    wb_hold(run);
    uint64_t hash = key ? wb_key_hash(map, key) : 0;
    uint32_t slot = key ? find(map, key, hash) : 0;
    if (slot) {
        walk.bucket = hash & map->mask;
        const struct wb_bucket *bucket = wb_bucket(map, hash);
        while (walk.way < WB_WAYS && WB_WORD_SLOT(WB_LOAD(&bucket->way[walk.way++])) != slot)
            ;
        walk.left = wb_slots(map);
        walk_past(map, &walk, slot);
    }
    slot = walk_on(map, &walk);
    if (!slot)
        return -ENOENT;
    wb_move(next, wb_slot_key(wb_slot(map, slot)), map->key_size);
    return 0;
}

/* Every entry of one bucket, packed: how many, or -ENOSPC where `room` is less. As the kernel's batches, which go on with
 * a bucket, so that it does not matter which entries come and go meanwhile. */
int64_t wb_hash_bucket(struct wb_run *run, struct wb_map *map, uint64_t number, uint8_t *keys, uint8_t *values,
                       uint64_t value_bytes, int64_t room) {
    const struct wb_bucket *bucket = wb_bucket(map, number);
    int64_t count = 0;
    wb_hold(run);
    for (uint32_t way = 0; way < WB_WAYS; way++) {
        uint64_t word = WB_LOAD(&bucket->way[way]);
        for (uint32_t left = wb_slots(map); left; left--) {
            uint32_t index = WB_WORD_SLOT(word);
            if (!index || index >= wb_slots(map))
                break;
            if (count == room)
                return -ENOSPC;
            uint8_t *key = keys + count * map->key_size;
            wb_move(key, wb_slot_key(wb_slot(map, index)), map->key_size);
            int64_t error = wb_hash_read(run, map, key, values + count * value_bytes, 0);
            if (error && error != -ENOENT)
                return error;
            count += !error;
            if (way < WB_WAYS - 1)
                break;
            word = WB_LOAD(&wb_slot(map, index)->next);
        }
    }
    return count;
}

int64_t wb_hash_each(struct wb_run *run, struct wb_map *map, wb_callback callback, void *ctx, uint64_t flags) {
    int64_t visited = 0;
    struct walk walk = {0};
    if (flags)
        return -EINVAL;
    wb_hold(run);
    for (uint32_t slot; (slot = walk_on(map, &walk)); walk_past(map, &walk, slot)) {
        visited++;
        if (callback((uint64_t)map, (uint64_t)wb_slot_key(wb_slot(map, slot)),
                     (uint64_t)wb_slot_value(map, slot, cpu_of(run, map)), (uint64_t)ctx, 0, run) ||
            run->stopped)
            break;
    }
    return visited;
}

