/* Writing the hash family: from the beginning of an operation to the one store that makes it happen. */
#ifndef WB_HASH_CHANGE_H
#define WB_HASH_CHANGE_H

#include "hash_find.h"

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

/* Whether the map's bias is this block's owner's: to be asked after the block's state says that it is busy. */
static inline bool wb_biased(const struct wb_map *map, const struct wb_block *mine) {
    return WB_LOAD(&wb_header(map)->bias) == mine->bias;
}

INLINE int64_t lock(struct wb_run *run, struct wb_map *map, struct wb_block *mine, uint64_t hash,
                    struct place *place) {
    uint64_t *head = (place->bucket = wb_bucket(map, hash))->way;
    uint32_t bucket = ((uint32_t)hash & map->mask) + 1;
    if (mine->bucket != bucket)
        WB_STORE(&mine->bucket, bucket);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(wb_biased(map, mine), 1)) {
        uint64_t word = WB_PEEK(head);
        place->biased = true;
        place->head = word;
        if (__builtin_expect(!WB_WORD_OWNER(word), 1))
            return 0;
    }
    return wb_hash_lock(run, map, mine, place);
}

INLINE void unlock(struct wb_block *mine, const struct place *place) {
    if (!place->biased)
        WB_STORE(place->bucket->way, place->head);
    WB_STORE(&mine->bucket, 0);
}

/* The word of way 6's chain that leads to `slot` (not 0) or to the key. */
static inline void seek_in_chain(const struct wb_map *map, const void *key, uint32_t slot, struct place *place) {
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

static inline void seek_slot(const struct wb_map *map, uint32_t slot, struct place *place) {
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
        head = wb_next_free(map, taken);
        count--;
    }
    if (retired) {
        uint32_t holding = WB_PEEK(&run->self->holdings);
        mine->since = mine->holding == holding ? mine->since + 1 : 1;
        mine->holding = holding;
        if (count)
            link = tail < wb_slots(map) ? tail : 0;
        else
            head = retired;
        tail = retired;
        count++;
    }
    /* An exchange waits for all stores before it, so they are few: pairs of fields at once. */
    struct wb_queue after = {{{head, tail, count, credits}}};
    WB_STORE(&mine->word, word); /* before the rest: see recover() */
    mine->word_at = (uint64_t)((uint8_t *)place->word - map->segment);
    mine->after = after;
    mine->link_slot = link;
    mine->link_after = retired;
    WB_STORE(&mine->state, (place->biased ? WB_BUSY | WB_ARMED_BIAS : WB_BUSY | WB_ARMED) |
                               ((uint32_t)(place->bucket - wb_bucket(map, 0)) + 1));
    bool is_head = place->word == place->bucket->way;
    if (is_head) {
        place->head = word;
        if (!taken && !place->biased) /* the byte of the way is cleared before the bucket is unlocked */
            word |= (uint64_t)run->owner << 52;
    }
    WB_STORE(place->word, word);
    if (retired)
        WB_PUT(&wb_slot(map, retired)->stamp, WB_LOAD(map->space->epoch));
    if (link)
        wb_link_free(map, link, retired);
    WB_STORE(&mine->queue.halves[0], after.halves[0]); /* not before the word is stored */
    WB_STORE(&mine->queue.halves[1], after.halves[1]);
    if (!taken)
        close_way(place);
    if (!place->biased && (!taken || !is_head))
        WB_STORE(place->bucket->way, place->head);
    WB_STORE(&mine->state, state);
    if (taken && head < wb_slots(map)) { /* what the next update writes to */
        __builtin_prefetch(wb_slot(map, head), 1);
        __builtin_prefetch((uint8_t *)wb_slot(map, head) + WB_LINE, 1);
    }
}

INLINE int64_t ready(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    uint32_t head = WB_PEEK(&mine->queue.head);
    if (__builtin_expect(mine->since < mine->queue.count && head && head < wb_slots(map) &&
                             WB_PEEK(&wb_slot(map, head)->stamp) < mine->horizon,
                         1))
        return 0;
    WB_STORE(&mine->busy, 2);
    int64_t error = wb_block_slots(run, map, mine, false);
    WB_STORE(&mine->busy, 1);
    return error;
}

/* The usual update, of an entry that is there, by who has the bias, in the fewest steps; false = it was not that and
 * nothing is done. As begin, ready, lock, seek, commit, unlock. */
INLINE bool replace(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags,
                    uint32_t value_size) {
    struct wb_block *mine = wb_block(map, run->owner);
    uint64_t hash = wb_key_hash(map, key);
    if (__builtin_expect(flags == 1 || flags > 2 || !run->self || mine->generation != run->self->generation ||
                             mine->state || !mine->bias,
                         0))
        return false;
    uint32_t taken = WB_PEEK(&mine->queue.head), tail = WB_PEEK(&mine->queue.tail);
    if (__builtin_expect(mine->since + 1 >= mine->queue.count || !taken || taken >= wb_slots(map) ||
                             tail >= wb_slots(map),
                         0))
        return false;
    struct wb_slot *slot = wb_slot(map, taken);
    if (__builtin_expect(slot->stamp >= mine->horizon, 0))
        return false;
    WB_STORE(&mine->state, WB_BUSY | WB_ARMED_BIAS);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    struct wb_bucket *bucket = wb_bucket(map, hash);
    uint64_t left = matches(WB_PEEK(&bucket->bytes), hash);
    uint64_t *word = &bucket->way[(uint32_t)__builtin_ctzll(left | 1ull << 63) / 8 % WB_WAYS];
    uint32_t old = WB_WORD_SLOT(WB_PEEK(word));
    if (__builtin_expect(!wb_biased(map, mine) || WB_LOAD(&mine->guard) || WB_WORD_OWNER(WB_PEEK(&bucket->way[0])) ||
                             !left || !is_key(map, old, key),
                         0)) {
        WB_STORE(&mine->state, 0);
        return false;
    }
    struct wb_slot *before = wb_slot(map, old);
    uint32_t head = wb_next_free(map, taken), holding = WB_PEEK(&run->self->holdings);
    WB_COPY(wb_slot_key(slot), key, WB_KEY_SIZE(map));
    WB_COPY((uint8_t *)slot + wb_value_at(map), value, value_size);
    WB_PUT(&slot->next, WB_PEEK(&before->next));
    slot->used = 0;
    struct wb_queue after = {.halves = {head | (uint64_t)old << 32, mine->queue.halves[1]}};
    WB_STORE(&mine->word, taken);
    mine->word_at = (uint64_t)((uint8_t *)word - map->segment);
    mine->after.halves[0] = after.halves[0];
    mine->after.halves[1] = after.halves[1];
    mine->link_slot = tail;
    mine->link_after = old;
    mine->since = mine->holding == holding ? mine->since + 1 : 1;
    mine->holding = holding;
    WB_STORE(word, (uint64_t)taken);
    WB_PUT(&before->stamp, WB_LOAD(map->space->epoch));
    wb_link_free(map, tail, old);
    WB_STORE(&mine->queue.halves[0], after.halves[0]);
    WB_STORE(&mine->state, 0);
    if (head < wb_slots(map)) {
        __builtin_prefetch(wb_slot(map, head), 1);
        __builtin_prefetch((uint8_t *)wb_slot(map, head) + WB_LINE, 1);
    }
    return true;
}

#endif
