/* Reading the hash family: no lock, no store into the map. */
#ifndef WB_HASH_FIND_H
#define WB_HASH_FIND_H

#include "hash.h"

#define INLINE static inline __attribute__((always_inline))

INLINE bool is_key(const struct wb_map *map, uint64_t word, const void *key) {
    uint32_t index = WB_WORD_SLOT(word);
    return index && index < wb_slots(map) && wb_same_key(map, key, wb_slot_key(wb_slot(map, index)));
}

static inline uint32_t find_in_chain(const struct wb_map *map, uint64_t word, const void *key) {
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

static inline void mark(const struct wb_map *map, uint32_t slot) {
    uint32_t *used = &wb_slot(map, slot)->used;
    if (!WB_PEEK(used))
        WB_PUT(used, 1);
}

#endif
