/* Hash, per-CPU hash and their LRU kinds (kernel/bpf/hashtab.c): lookup, update, delete. Design: hash.h.
 *
 * LRU is the clock algorithm: a lookup of a program marks the slot, an insertion into a full map moves a hand over the
 * buckets, unmarking, and deletes the first entry that has no mark. The kernel's lists approximate LRU differently; both
 * may evict an entry that is not the oldest, and which one is no promise of either.
 */
#include "hash_change.h"

#define NOEXIST 1u
#define EXIST 2u
#define F_LOCK 4ull

/* --- reading ------------------------------------------------------------------------------------------------------- */

static void *hash_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    wb_hold(run);
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    return slot ? (uint8_t *)wb_slot(map, slot) + wb_value_at(map) : 0;
}

static void *lru_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    wb_hold(run);
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    if (!slot)
        return 0;
    mark(map, slot);
    return (uint8_t *)wb_slot(map, slot) + wb_value_at(map);
}

static void *percpu_at(struct wb_run *run, struct wb_map *map, const void *key, uint32_t cpu) {
    if (cpu >= map->cpus)
        return 0;
    wb_hold(run);
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    if (slot && wb_is_lru(map))
        mark(map, slot);
    return slot ? wb_slot_value(map, slot, cpu) : 0;
}

static void *percpu_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    return percpu_at(run, map, key, cpu_of(run, map));
}

/* --- writing ------------------------------------------------------------------------------------------------------- */

static void erase_at(struct wb_run *run, struct wb_map *map, struct wb_block *mine, struct place *place,
                     uint64_t state) {
    uint64_t after = WB_PEEK(&wb_slot(map, place->slot)->next);
    commit(run, map, mine, place, WB_WORD_PLAIN(after), 0, place->slot, mine->queue.credits + 1, state);
}

/* The first entry of a bucket that was not looked up since the hand passed; unmarks those before it. */
static uint32_t victim(const struct wb_map *map, const struct wb_bucket *bucket) {
    for (uint32_t way = 0; way < WB_WAYS; way++) {
        uint64_t word = WB_LOAD(&bucket->way[way]);
        for (uint32_t left = wb_slots(map); left; left--) {
            uint32_t index = WB_WORD_SLOT(word);
            if (!index || index >= wb_slots(map))
                break;
            struct wb_slot *slot = wb_slot(map, index);
            if (!WB_PEEK(&slot->used))
                return index;
            WB_PUT(&slot->used, 0);
            word = way == WB_WAYS - 1 ? WB_LOAD(&slot->next) : 0;
        }
    }
    return 0;
}

/* Make room in a full LRU map: one credit more for this block. */
static int64_t evict(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    for (uint64_t steps = 0; steps < 3ull * map->mask + 3; steps++) {
        uint64_t hash = __atomic_fetch_add(&wb_header(map)->hand, 1, __ATOMIC_RELAXED);
        uint32_t index = victim(map, wb_bucket(map, hash));
        if (!index)
            continue;
        struct place place;
        int64_t error = lock(run, map, mine, hash, &place);
        if (error)
            return error;
        seek_slot(map, index, &place);
        if (place.slot) {
            erase_at(run, map, mine, &place, WB_BUSY);
            return 0;
        }
        unlock(mine, &place);
    }
    return -ENOMEM;
}

static int64_t room(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    WB_STORE(&mine->busy, 2);
    int64_t error = wb_block_credits(run, map, mine);
    WB_STORE(&mine->busy, 1);
    for (int tries = 0; error == -E2BIG && wb_is_lru(map) && tries < 16; tries++)
        error = evict(run, map, mine);
    return error;
}

/* Which of a per-CPU value's parts an update sets: one, the others becoming 0 in a new entry, or all from `value`. */
static void fill_percpu(struct wb_map *map, uint32_t slot, const uint8_t *value, uint32_t cpu, bool all, bool fresh) {
    for (uint32_t i = 0; i < map->cpus; i++) {
        uint8_t *to = wb_slot_value(map, slot, i);
        if (all)
            wb_move(to, value + (uint64_t)i * map->cpu_stride, map->value_size);
        else if (i == cpu)
            wb_move(to, value, map->value_size);
        else if (fresh)
            wb_wipe(to, map->cpu_stride);
    }
}

static int64_t wait_for_slots(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    WB_STORE(&mine->busy, 2);
    int64_t error = wb_block_slots(run, map, mine, true);
    WB_STORE(&mine->busy, 1);
    return error;
}

INLINE int64_t put(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                          uint64_t flags, bool percpu, bool all) {
    struct wb_block *mine;
    bool locking = flags & F_LOCK;
    if (__builtin_expect(flags > EXIST, 0)) {
        if ((flags &= ~F_LOCK) > EXIST || map->type != 1 || !wb_lock_offset(map))
            return -EINVAL;
    }
    uint64_t hash = wb_key_hash(map, key);
    if (percpu) {
        wb_hold(run);
        uint32_t found = find(map, key, hash);
        if (found && flags != NOEXIST) {
            fill_percpu(map, found, value, cpu_of(run, map), all, false);
            if (wb_is_lru(map))
                mark(map, found);
            return 0;
        }
    }
    /* What the locked exchange would hold up. */
    const struct wb_bucket *bucket = wb_bucket(map, hash);
    __builtin_prefetch(bucket, 1);
    int64_t error = begin(run, map, hash, &mine);
    if (error)
        return error;
    uint64_t left = matches(WB_PEEK(&bucket->bytes), hash);
    if (left) {
        uint32_t there = WB_WORD_SLOT(WB_PEEK(&bucket->way[(uint32_t)__builtin_ctzll(left) / 8]));
        if (there < wb_slots(map)) {
            __builtin_prefetch(wb_slot(map, there), 1);
        }
    }
    for (int tries = 0; tries < 64; tries++) {
        struct place place;
        bool none = (error = ready(run, map, mine)) == -ENOMEM;
        if ((error && !none) || (error = lock(run, map, mine, hash, &place)))
            break;
        seek(map, key, hash, &place);
        uint32_t old = place.slot;
        if (old ? flags == NOEXIST : flags == EXIST) {
            unlock(mine, &place);
            error = old ? -EEXIST : -ENOENT;
            break;
        }
        if (percpu && old) {
            fill_percpu(map, old, value, cpu_of(run, map), all, false);
            unlock(mine, &place);
            break;
        }
        if (__builtin_expect(old && locking, 0)) {
            error = wb_block_copy(run, map, mine, old, value);
            unlock(mine, &place);
            break;
        }
        if (__builtin_expect(none, 0)) {
            /* Others may hold this value as well: in place only where no waiting would help. */
            bool copy = old && ((mine->since && mine->since >= mine->queue.count) || run->flags & WB_RUN_FENCE);
            error = copy ? wb_block_copy(run, map, mine, old, value) : -ENOMEM;
            unlock(mine, &place);
            if (copy || (error = wait_for_slots(run, map, mine)))
                break;
            continue;
        }
        if (!old && !mine->queue.credits) {
            unlock(mine, &place);
            if ((error = room(run, map, mine)))
                break;
            continue;
        }
        uint32_t index = WB_PEEK(&mine->queue.head);
        if (__builtin_expect(index >= wb_slots(map), 0)) { /* somebody writes to the segment as it likes */
            unlock(mine, &place);
            error = -ENOMEM;
            break;
        }
        struct wb_slot *slot = wb_slot(map, index);
        wb_move(wb_slot_key(slot), key, map->key_size);
        if (percpu)
            fill_percpu(map, index, value, cpu_of(run, map), all, true);
        else {
            wb_move((uint8_t *)slot + wb_value_at(map), value, map->value_size);
            uint32_t *spin = wb_lock_of(map, (uint8_t *)slot + wb_value_at(map));
            if (__builtin_expect(spin != 0, 0))
                WB_PUT(spin, 0);
        }
        slot->used = 0;
        WB_PUT(&slot->next, old ? WB_PEEK(&wb_slot(map, old)->next) : open_way(&place, hash));
        commit(run, map, mine, &place, index, index, old, mine->queue.credits - !old, 0);
        return 0;
    }
    finish(mine);
    return error;
}

static int64_t hash_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                           uint64_t flags) {
    if (__builtin_expect(replace(run, map, key, value, flags, map->value_size), 1))
        return 0;
    return put(run, map, key, value, flags, false, false);
}

static int64_t percpu_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                             uint64_t flags) {
    return put(run, map, key, value, flags, true, false);
}

static int64_t percpu_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                            uint64_t flags) {
    return put(run, map, key, value, flags, true, true);
}

static int64_t remove_key(struct wb_run *run, struct wb_map *map, const void *key, uint8_t *value) {
    struct wb_block *mine;
    struct place place;
    uint64_t hash = wb_key_hash(map, key);
    int64_t error = begin(run, map, hash, &mine);
    if (error)
        return error;
    if (!(error = lock(run, map, mine, hash, &place))) {
        seek(map, key, hash, &place);
        if (place.slot) {
            if (value)
                wb_hash_copy_out(map, place.slot, value);
            erase_at(run, map, mine, &place, 0);
            return 0;
        } else {
            unlock(mine, &place);
            error = -ENOENT;
        }
    }
    finish(mine);
    return error;
}

static int64_t hash_erase(struct wb_run *run, struct wb_map *map, const void *key) {
    return remove_key(run, map, key, 0);
}

static int64_t hash_take(struct wb_run *run, struct wb_map *map, const void *key, void *value) {
    return remove_key(run, map, key, value);
}

#define COMMON                                                                                                         \
    .erase = hash_erase, .for_each = wb_hash_each, .read = wb_hash_read, .take = hash_take,                            \
    .next_key = wb_hash_next, .size = wb_hash_size, .format = wb_hash_format, .open = wb_hash_open

const struct wb_map_ops wb_hash_ops = {
    COMMON, .lookup = hash_lookup, .update = hash_update, .write = hash_update};
const struct wb_map_ops wb_lru_hash_ops = {
    COMMON, .lookup = lru_lookup, .update = hash_update, .write = hash_update};
const struct wb_map_ops wb_percpu_hash_ops = {
    COMMON, .lookup = percpu_lookup, .lookup_percpu = percpu_at, .update = percpu_update, .write = percpu_write};
const struct wb_map_ops wb_lru_percpu_hash_ops = {
    COMMON, .lookup = percpu_lookup, .lookup_percpu = percpu_at, .update = percpu_update, .write = percpu_write};
