/* Hash, per-CPU hash and their LRU kinds (kernel/bpf/hashtab.c): lookup, update, delete. Design: hash.h.
 *
 * LRU is the clock algorithm: a lookup of a program marks the slot, an insertion into a full map moves a hand over the
 * buckets, unmarking, and deletes the first entry that has no mark. The kernel's lists approximate LRU differently; both
 * may evict an entry that is not the oldest, and which one is no promise of either.
 */
#include "hash.h"

#define INLINE static inline __attribute__((always_inline))
#define NOEXIST 1u
#define EXIST 2u
#define F_LOCK 4u

/* Where a key is or goes, with the bucket locked. */
struct place {
    struct wb_bucket *bucket;
    uint64_t *word;
    uint64_t head; /* way 0 without its owner */
    uint32_t slot; /* 0 = the key is not there */
    uint32_t way;
};

/* --- reading ------------------------------------------------------------------------------------------------------- */

INLINE bool is_key(const struct wb_map *map, uint64_t word, const void *key) {
    uint32_t index = WB_WORD_SLOT(word);
    return index && index < wb_slots(map) && wb_same_key(map, key, wb_slot_key(wb_slot(map, index)));
}

static uint32_t find_in_chain(const struct wb_map *map, uint64_t word, const void *key) {
    for (uint32_t left = wb_slots(map); left; left--) { /* a damaged chain may be a ring */
        uint32_t index = WB_WORD_SLOT(word);
        if (!index || index >= wb_slots(map))
            return 0;
        if (is_key(map, word, key))
            return index;
        word = WB_LOAD(&wb_slot(map, index)->next);
    }
    return 0;
}

/* Bits 7, 15, ... of the ways whose byte is the hash's (and now and then of one above it that is not). */
static inline uint64_t matches(uint64_t bytes, uint64_t hash) {
    uint64_t x = bytes ^ wb_hash_byte(hash) * WB_ONES;
    return (x - WB_ONES) & ~x & WB_HIGHS;
}

INLINE uint32_t find(const struct wb_map *map, const void *key, uint64_t hash) {
    const struct wb_bucket *bucket = wb_bucket(map, hash);
    uint64_t bytes = WB_LOAD(&bucket->bytes);
    for (uint64_t left = matches(bytes, hash); left; left &= left - 1) {
        uint64_t word = WB_LOAD(&bucket->way[__builtin_ctzll(left) / 8]);
        if (__builtin_expect(is_key(map, word, key), 1))
            return WB_WORD_SLOT(word);
    }
    if (__builtin_expect(bytes >= WB_CHAIN, 0))
        return find_in_chain(map, WB_LOAD(&bucket->way[WB_WAYS - 1]), key);
    return 0;
}

static inline uint32_t cpu_of(const struct wb_run *run, const struct wb_map *map) {
    return run->cpu < map->cpus ? run->cpu : 0;
}

static void *hash_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    (void)run;
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    return slot ? (uint8_t *)wb_slot(map, slot) + wb_value_at(map) : 0;
}

static inline void mark(const struct wb_map *map, uint32_t slot) {
    uint32_t *used = &wb_slot(map, slot)->used;
    if (!WB_PEEK(used))
        WB_PUT(used, 1);
}

static void *lru_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    (void)run;
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    if (!slot)
        return 0;
    mark(map, slot);
    return (uint8_t *)wb_slot(map, slot) + wb_value_at(map);
}

static void *percpu_at(struct wb_run *run, struct wb_map *map, const void *key, uint32_t cpu) {
    (void)run;
    if (cpu >= map->cpus)
        return 0;
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    if (slot && wb_is_lru(map))
        mark(map, slot);
    return slot ? wb_slot_value(map, slot, cpu) : 0;
}

static void *percpu_lookup(struct wb_run *run, struct wb_map *map, const void *key) {
    return percpu_at(run, map, key, cpu_of(run, map));
}

/* --- writing ------------------------------------------------------------------------------------------------------- */

INLINE int64_t begin(struct wb_run *run, struct wb_map *map, uint64_t hash, struct wb_block **block) {
    if (!run->self)
        return -EINVAL;
    struct wb_block *mine = *block = wb_block(map, run->owner);
    for (;;) {
        if (__builtin_expect(mine->generation != run->self->generation, 0)) {
            int64_t error = wb_block_adopt(run, map, mine);
            if (error)
                return error;
        }
        if (mine->busy)
            return -EBUSY;
        WB_STORE(&mine->state, WB_BUSY | (((uint32_t)hash & map->mask) + 1));
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        if (__builtin_expect(run->flags & WB_RUN_FENCE, 0))
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__builtin_expect(!WB_LOAD(&mine->guard), 1))
            return 0;
        WB_STORE(&mine->state, 0);
        int64_t error = wb_block_adopt(run, map, mine);
        if (error)
            return error;
    }
}

static inline void finish(struct wb_block *mine) { WB_STORE(&mine->state, 0); }

static int64_t lock_contended(struct wb_run *run, struct wb_map *map, uint64_t *head) {
    for (uint32_t turn = 0; wb_wait(&turn);) {
        uint64_t word = WB_LOAD(head);
        uint32_t owner = WB_WORD_OWNER(word);
        if (!owner) {
            if (wb_exchange(head, word, word | (uint64_t)run->owner << 52))
                return 0;
        } else if (wb_owner_dead(map, owner)) {
            wb_block_reap(run, map, owner, 0);
        }
    }
    return -EBUSY;
}

INLINE int64_t lock(struct wb_run *run, struct wb_map *map, struct wb_block *mine, uint64_t hash,
                           struct place *place) {
    uint64_t *head = (place->bucket = wb_bucket(map, hash))->way, word = WB_PEEK(head);
    uint32_t bucket = ((uint32_t)hash & map->mask) + 1;
    if (mine->bucket != bucket)
        WB_STORE(&mine->bucket, bucket);
    if (__builtin_expect(WB_WORD_OWNER(word) || !wb_exchange(head, word, word | (uint64_t)run->owner << 52), 0)) {
        int64_t error = lock_contended(run, map, head);
        if (error) {
            WB_STORE(&mine->bucket, 0);
            return error;
        }
        word = WB_LOAD(head);
    }
    place->head = WB_WORD_PLAIN(word);
    return 0;
}

INLINE void unlock(struct wb_block *mine, const struct place *place) {
    WB_STORE(place->bucket->way, place->head);
    WB_STORE(&mine->bucket, 0);
}

/* The word of way 6's chain that leads to `slot` (not 0) or to the key. */
static void seek_in_chain(const struct wb_map *map, const void *key, uint32_t slot, struct place *place) {
    place->way = WB_WAYS - 1;
    place->word = &place->bucket->way[WB_WAYS - 1];
    for (uint32_t left = wb_slots(map); left; left--) {
        uint64_t word = WB_PEEK(place->word);
        uint32_t index = WB_WORD_SLOT(word);
        if (!index || index >= wb_slots(map))
            return;
        if (slot ? index == slot : is_key(map, word, key)) {
            place->slot = index;
            return;
        }
        place->word = &wb_slot(map, index)->next;
    }
}

INLINE void seek(const struct wb_map *map, const void *key, uint64_t hash, struct place *place) {
    uint64_t bytes = WB_PEEK(&place->bucket->bytes);
    place->slot = 0;
    for (uint64_t left = matches(bytes, hash); left; left &= left - 1) {
        place->way = (uint32_t)__builtin_ctzll(left) / 8;
        place->word = &place->bucket->way[place->way];
        uint64_t word = WB_PEEK(place->word);
        if (__builtin_expect(is_key(map, word, key), 1)) {
            place->slot = WB_WORD_SLOT(word);
            return;
        }
    }
    if (__builtin_expect(bytes >= WB_CHAIN, 0))
        seek_in_chain(map, key, 0, place);
}

static void seek_slot(const struct wb_map *map, uint32_t slot, struct place *place) {
    place->slot = 0;
    for (uint32_t i = 0; i < WB_WAYS - 1; i++)
        if (WB_WORD_SLOT(WB_PEEK(&place->bucket->way[i])) == slot) {
            place->slot = slot;
            place->way = i;
            place->word = &place->bucket->way[i];
            return;
        }
    seek_in_chain(map, 0, slot, place);
}

/* A free way for a new entry, or the beginning of the chain; its byte is set before the entry is there. Returns the word
 * that the new slot goes before. */
INLINE uint64_t open_way(struct place *place, uint64_t hash) {
    struct wb_bucket *bucket = place->bucket;
    uint64_t bytes = WB_PEEK(&bucket->bytes), free = ~bytes & WB_HIGHS;
    uint32_t way = free ? (uint32_t)__builtin_ctzll(free) / 8 : 0;
    if (__builtin_expect(!free, 0)) /* a byte whose setter was killed before the entry was there */
        while (way < WB_WAYS && WB_WORD_SLOT(WB_PEEK(&bucket->way[way])))
            way++;
    if (__builtin_expect(way >= WB_WAYS - 1 && (way == WB_WAYS || bytes >= WB_CHAIN), 0)) {
        way = WB_WAYS - 1;
        bytes |= WB_CHAIN;
    }
    place->way = way;
    place->word = &bucket->way[way];
    if (bytes < WB_CHAIN || way < WB_WAYS - 1)
        bytes = (bytes & ~(0xffull << 8 * way)) | wb_hash_byte(hash) << 8 * way;
    WB_STORE(&bucket->bytes, bytes);
    return WB_WORD_PLAIN(WB_PEEK(place->word));
}

/* After an entry has gone: nothing is to be found by its byte. */
static inline void close_way(struct place *place) {
    struct wb_bucket *bucket = place->bucket;
    if (WB_WORD_SLOT(WB_PEEK(&bucket->way[place->way])))
        return; /* the chain goes on */
    uint64_t bytes = WB_PEEK(&bucket->bytes) & ~(0xffull << 8 * place->way);
    if (place->way == WB_WAYS - 1)
        bytes &= ~WB_CHAIN;
    WB_STORE(&bucket->bytes, bytes);
}

/* Arm the record, store the one word that makes the operation happen, bring the block up to date, unlock; the block's
 * state is `state` then. */
INLINE void commit(struct wb_run *run, struct wb_map *map, struct wb_block *mine, struct place *place,
                          uint64_t word, uint32_t taken, uint32_t retired, uint32_t credits, uint64_t state) {
    uint32_t count = mine->queue.count, head = WB_PEEK(&mine->queue.head), tail = WB_PEEK(&mine->queue.tail), link = 0;
    if (taken) {
        head = WB_PEEK(&wb_slot(map, taken)->link);
        count--;
    }
    if (retired) {
        if (count)
            link = tail < wb_slots(map) ? tail : 0;
        else
            head = retired;
        tail = retired;
        count++;
    }
    /* An exchange waits for all stores before it, so they are few: pairs of fields at once. */
    struct wb_queue after = {{{head, tail, count, credits}}};
    mine->word_at = (uint64_t)((uint8_t *)place->word - map->segment);
    mine->word = word;
    mine->after = after;
    mine->link_slot = link;
    mine->link_after = retired;
    mine->retired = retired;
    WB_STORE(&mine->state, WB_BUSY | WB_ARMED | ((uint32_t)(place->bucket - wb_bucket(map, 0)) + 1));
    bool is_head = place->word == place->bucket->way;
    if (is_head) {
        place->head = word;
        if (!taken) /* the byte of the way is cleared before the bucket is unlocked */
            word |= (uint64_t)run->owner << 52;
    }
    WB_STORE(place->word, word);
    if (retired)
        WB_PUT(&wb_slot(map, retired)->stamp, WB_LOAD(map->space->epoch));
    if (link)
        WB_PUT(&wb_slot(map, link)->link, retired);
    WB_STORE(&mine->queue.halves[0], after.halves[0]); /* not before the word is stored */
    WB_STORE(&mine->queue.halves[1], after.halves[1]);
    if (!taken)
        close_way(place);
    if (!taken || !is_head)
        WB_STORE(place->bucket->way, place->head);
    WB_STORE(&mine->state, state);
    if (taken && head < wb_slots(map)) { /* what the next update writes to */
        __builtin_prefetch(wb_slot(map, head), 1);
        __builtin_prefetch((uint8_t *)wb_slot(map, head) + WB_LINE, 1);
    }
}

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

INLINE int64_t ready(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    uint32_t head = WB_PEEK(&mine->queue.head);
    if (__builtin_expect(mine->queue.count && head && head < wb_slots(map) &&
                             WB_PEEK(&wb_slot(map, head)->stamp) < mine->horizon,
                         1))
        return 0;
    WB_STORE(&mine->busy, 2);
    int64_t error = wb_block_slots(run, map, mine);
    WB_STORE(&mine->busy, 1);
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

INLINE int64_t put(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                          uint64_t flags, bool percpu, bool all) {
    struct wb_block *mine;
    if (__builtin_expect(flags > EXIST, 0)) /* BPF_F_LOCK needs a lock in the value, which is refused elsewhere */
        return -EINVAL;
    uint64_t hash = wb_key_hash(map, key);
    if (percpu) {
        uint32_t found = find(map, key, hash);
        if (found && flags != NOEXIST) {
            fill_percpu(map, found, value, cpu_of(run, map), all, false);
            if (wb_is_lru(map))
                mark(map, found);
            return 0;
        }
    }
    int64_t error = begin(run, map, hash, &mine);
    if (error)
        return error;
    for (int tries = 0; tries < 64; tries++) {
        struct place place;
        if ((error = ready(run, map, mine)) || (error = lock(run, map, mine, hash, &place)))
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
        else
            wb_move((uint8_t *)slot + wb_value_at(map), value, map->value_size);
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

static void copy_out(struct wb_map *map, uint32_t slot, uint8_t *value) {
    if (!wb_is_percpu(map)) {
        wb_move(value, wb_slot_value(map, slot, 0), map->value_size);
        return;
    }
    for (uint32_t i = 0; i < map->cpus; i++)
        wb_move(value + (uint64_t)i * map->cpu_stride, wb_slot_value(map, slot, i), map->cpu_stride);
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
                copy_out(map, place.slot, value);
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

/* --- the system call side -------------------------------------------------------------------------------------------- */

static int64_t hash_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags) {
    (void)run;
    if (flags)
        return -EINVAL;
    uint32_t slot = find(map, key, wb_key_hash(map, key));
    if (!slot)
        return -ENOENT;
    copy_out(map, slot, value);
    return 0;
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
static int64_t hash_next(struct wb_run *run, struct wb_map *map, const void *key, void *next) {
    (void)run;
    struct walk walk = {0};
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

static int64_t hash_each(struct wb_run *run, struct wb_map *map, wb_callback callback, void *ctx, uint64_t flags) {
    int64_t visited = 0;
    struct walk walk = {0};
    if (flags)
        return -EINVAL;
    for (uint32_t slot; (slot = walk_on(map, &walk)); walk_past(map, &walk, slot)) {
        visited++;
        if (callback((uint64_t)map, (uint64_t)wb_slot_key(wb_slot(map, slot)),
                     (uint64_t)wb_slot_value(map, slot, cpu_of(run, map)), (uint64_t)ctx, 0, run) ||
            run->stopped)
            break;
    }
    return visited;
}

#define COMMON                                                                                                         \
    .erase = hash_erase, .for_each = hash_each, .read = hash_read, .take = hash_take, .next_key = hash_next,           \
    .size = wb_hash_size, .format = wb_hash_format, .open = wb_hash_open

const struct wb_map_ops wb_hash_ops = {
    COMMON, .lookup = hash_lookup, .update = hash_update, .write = hash_update};
const struct wb_map_ops wb_lru_hash_ops = {
    COMMON, .lookup = lru_lookup, .update = hash_update, .write = hash_update};
const struct wb_map_ops wb_percpu_hash_ops = {
    COMMON, .lookup = percpu_lookup, .lookup_percpu = percpu_at, .update = percpu_update, .write = percpu_write};
const struct wb_map_ops wb_lru_percpu_hash_ops = {
    COMMON, .lookup = percpu_lookup, .lookup_percpu = percpu_at, .update = percpu_update, .write = percpu_write};
