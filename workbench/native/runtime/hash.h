/* The hash family: layout and what its files share. hash_find.h reads, hash_change.h writes, hash.c puts both together;
 * hash_lock.c has the locks and how they are avoided, hash_block.c slots and recovery, hash_walk.c reads maps whole.
 *
 * A bucket is a cache line: a byte of each way's hash, compared all at once in one word without a branch, and seven ways.
 * A way is a word that names a slot (0: none); that of way 0, the head, also the participant that has the bucket locked.
 * When all ways are taken, way 6 becomes the first of a chain through the slots. Readers take no lock and store nothing.
 * A writer locks the bucket by exchanging its number into the head; one plain store of one word then commits the
 * operation. An update writes a new slot and puts it in the old one's place, so that a reader sees the old value or the
 * new, and a writer killed anywhere leaves one of them. The bytes are hints: set before an entry is there, cleared after
 * it has gone, so a reader never misses an entry, whatever died in between.
 *
 * What a thread owns of a map is its block: a queue of slots (new ones are taken from its head, replaced ones go to its
 * tail with the epoch as a stamp, and are taken again only after the grace period), credits (entries it may still
 * insert: those of all blocks and the entries themselves add up to max_entries), and a record of the operation in
 * flight. Block 0 is nobody's: the store from which the others are filled.
 *
 * Recovery of a dead thread is decided by the words alone. The record is armed after the lock is taken and before the
 * commit. Armed and the head still names the dead: committed only if the word already has its new value. Armed and the
 * head does not name the dead: committed. An operation by the map's bias (hash_lock.c) locks nothing; it is committed if
 * the word has its new value, as nobody else writes before the dead owner is recovered. The record holds what the block
 * becomes, absolute values, so that doing it twice is doing it once: a killed reaper's work is done again by the next.
 * The bucket is unlocked last.
 *
 * A block's owner works on it without an atomic operation. Others (who steal slots or credits, or reap) take its guard
 * by exchange, then membarrier(2), then wait until the owner is not busy.
 */
#ifndef WB_HASH_H
#define WB_HASH_H

#include "maps.h"
#include "types.h"

#include <errno.h>

#define WB_HASH_ENOTSUPP 524 /* the kernel's own */

#define WB_WAYS 7
#define WB_ONES 0x0101010101010101ull
#define WB_HIGHS 0x0080808080808080ull /* of the ways' bytes */
#define WB_CHAIN (1ull << 56)           /* way 6 is the first of a chain */

struct wb_bucket {
    uint64_t bytes; /* way i: 0x80 | 7 bits of the hash, 0 = free; byte 7: WB_CHAIN */
    uint64_t way[WB_WAYS];
};

struct wb_slot {
    uint64_t next;  /* word of the slot after this one; stays while a reader may stand here */
    uint64_t stamp; /* epoch when it was taken out */
    uint32_t link;  /* next in a block's queue, as the difference to the number after this one: 0 at first */
    uint32_t used;  /* LRU: looked up since the hand passed */
};                  /* then the key, and at hash->value the value (not of per-CPU types) */

/* Slots, free or in quarantine, by their links; and how many entries their owner may insert. */
struct wb_queue {
    union {
        struct {
            uint32_t head, tail, count, credits;
        };
        uint64_t halves[2];
    };
};

struct wb_block {
    union {
        uint64_t state; /* all three in one store */
        struct {
            uint32_t bucket; /* + 1: its head may be locked by the owner */
            uint16_t armed;  /* the record counts: 1 an operation, 2 a transfer from a block, 3 by bias, 4 a copy */
            uint16_t busy;   /* 1 the owner is inside an operation, 2 and looks for slots or credits */
        };
    };
    uint64_t guard; /* name of who works on the block in the owner's place */
    struct wb_queue queue;
    uint32_t generation, alone; /* of the participant whose block it is; it was the only one when last looked at */
    uint64_t horizon; /* slots stamped below are free */
    uint32_t holding, since;       /* replaced since the thread's program number `holding` was given a pointer */
    uint64_t bias;                 /* the map's bias while it is this block's owner's */
    uint32_t operations, others;   /* with a lock so far; and those of all other blocks when last looked at */
    /* The record: what the word, this block and the source become. */
    uint64_t word_at, word;
    struct wb_queue after;
    uint32_t link_slot, link_after; /* slot 0: no link changes; an operation's second slot is to be stamped */
    uint32_t source, source_head, source_count, source_credits;
};

_Static_assert(sizeof(struct wb_block) == 128, "two lines");
#define WB_NO_WORD (~0ull) /* no entry's: a record that has it was not committed */

struct wb_hash_header {
    uint64_t seed;
    _Alignas(WB_LINE) uint64_t moves; /* transfers between blocks so far */
    uint32_t hand;                    /* LRU: where the search for a victim goes on */
    _Alignas(WB_LINE) uint64_t bias;  /* who needs no lock, see hash_lock.c */
    uint32_t takes, revocations;
    uint64_t copies; /* begun so far */
    uint64_t log; /* name of who has the log: the slot after the last, for values that are copied in place */
};

/* Where a key is or goes, while the bucket is the writer's. */
struct place {
    struct wb_bucket *bucket;
    uint64_t *word;
    uint64_t head; /* way 0 without its owner */
    uint32_t slot; /* 0 = the key is not there */
    uint32_t way;
    bool biased; /* without a lock: the map's bias is the writer's */
};

/* Where things are: computed from the attributes by everybody, never read from the segment. */
struct wb_hash {
    uint64_t heads, blocks, slots, values, length; /* offsets from the segment; per-CPU rows at `values` */
    uint64_t row;                                  /* bytes of one CPU's row */
    uint32_t buckets, count, stride, value, batch;
};

#define WB_BUSY (1ull << 48) /* of wb_block.state */
#define WB_ARMED (1ull << 32)
#define WB_ARMED_BIAS (3ull << 32)

#define WB_BIAS_NONE (1ull << 12) /* not 0: what a block has that never had it */

#define WB_WORD_SLOT(w) ((uint32_t)(w))
#define WB_WORD_OWNER(w) ((uint32_t)((w) >> 52))
#define WB_WORD_PLAIN(w) ((w) & ((1ull << 52) - 1))

/* Process-local fields of struct wb_map: `values` is slot 0, `stride` a slot's bytes, `mask` the bucket mask. */
#define WB_HASH_BUCKETS 0 /* reserved[]: address of bucket 0 */
#define WB_HASH_BLOCKS 1 /* address of block 0 */
#define WB_HASH_SEED 2
#define WB_HASH_SIZES 3 /* number of slots, offset of the value << 32 */
#define WB_HASH_ROWS 4  /* address of CPU 0's row of per-CPU types */

static inline struct wb_hash_header *wb_header(const struct wb_map *map) {
    return (struct wb_hash_header *)(map->segment + WB_SEGMENT_HEADER);
}

static inline struct wb_bucket *wb_bucket(const struct wb_map *map, uint64_t hash) {
    return (struct wb_bucket *)map->reserved[WB_HASH_BUCKETS] + (hash & map->mask);
}

static inline uint32_t wb_slots(const struct wb_map *map) { return (uint32_t)map->reserved[WB_HASH_SIZES]; }
static inline uint32_t wb_value_at(const struct wb_map *map) { return (uint32_t)(map->reserved[WB_HASH_SIZES] >> 32); }

static inline struct wb_block *wb_block(const struct wb_map *map, uint32_t number) {
    return (struct wb_block *)map->reserved[WB_HASH_BLOCKS] + number % WB_PARTICIPANTS;
}

static inline struct wb_slot *wb_slot(const struct wb_map *map, uint32_t index) {
    return (struct wb_slot *)(map->values + (uint64_t)index * map->stride);
}

static inline uint32_t wb_next_free(const struct wb_map *map, uint32_t index) {
    return index + 1 + WB_PEEK(&wb_slot(map, index)->link);
}

static inline void wb_link_free(const struct wb_map *map, uint32_t index, uint32_t next) {
    WB_PUT(&wb_slot(map, index)->link, next - index - 1);
}

static inline uint8_t *wb_slot_key(struct wb_slot *slot) { return (uint8_t *)(slot + 1); }

static inline bool wb_is_percpu(const struct wb_map *map) { return map->type == 5 || map->type == 10; }
static inline bool wb_is_lru(const struct wb_map *map) { return map->type == 9 || map->type == 10; }

static inline uint64_t wb_row(const struct wb_map *map) { return (uint64_t)wb_slots(map) * map->cpu_stride; }

/* The value of a slot; of per-CPU types that of slot `cpu`. */
static inline uint8_t *wb_slot_value(const struct wb_map *map, uint32_t index, uint32_t cpu) {
    if (map->reserved[WB_HASH_ROWS])
        return (uint8_t *)map->reserved[WB_HASH_ROWS] + cpu * wb_row(map) + (uint64_t)index * map->cpu_stride;
    return (uint8_t *)wb_slot(map, index) + wb_value_at(map);
}

static inline bool wb_exchange(uint64_t *word, uint64_t old, uint64_t new) {
    return __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint64_t wb_mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#ifndef WB_COPY
#define WB_COPY wb_move
#endif
#ifndef WB_KEY_SIZE /* inline/hash_N.c: for the JIT, which knows it */
#define WB_KEY_SIZE(map) ((map)->key_size)
#endif

static inline uint64_t wb_key_hash(const struct wb_map *map, const void *key) {
    const uint8_t *at = key;
    uint32_t size = WB_KEY_SIZE(map);
    uint64_t hash = map->reserved[WB_HASH_SEED], word;
    if (__builtin_expect(size == 8, 1)) {
        __builtin_memcpy(&word, at, 8);
        return wb_mix(hash ^ word, 0x9e3779b97f4a7c15ull);
    }
    for (; size >= 8; size -= 8, at += 8) {
        __builtin_memcpy(&word, at, 8);
        hash = wb_mix(hash ^ word, 0x9e3779b97f4a7c15ull);
    }
    if (size) {
        word = size;
        if (size >= 4) {
            uint32_t half;
            __builtin_memcpy(&half, at, 4);
            word = word << 32 | half;
            size -= 4, at += 4;
        }
        for (; size; size--)
            word = word << 8 | *at++;
        hash = wb_mix(hash ^ word, 0xd6e8feb86659fd93ull);
    }
    return hash;
}

static inline uint64_t wb_hash_byte(uint64_t hash) { return hash >> 57 | 0x80; }

static inline bool wb_same_key(const struct wb_map *map, const void *a, const void *b) {
    const uint8_t *x = a, *y = b;
    uint32_t size = WB_KEY_SIZE(map);
    for (; size >= 8; size -= 8, x += 8, y += 8) {
        uint64_t p, q;
        __builtin_memcpy(&p, x, 8);
        __builtin_memcpy(&q, y, 8);
        if (p != q)
            return false;
    }
    if (size >= 4) {
        uint32_t p, q;
        __builtin_memcpy(&p, x, 4);
        __builtin_memcpy(&q, y, 4);
        if (p != q)
            return false;
        size -= 4, x += 4, y += 4;
    }
    for (; size; size--)
        if (*x++ != *y++)
            return false;
    return true;
}

/* No call into a C library and no vector register where this is compiled for an agent. */
static inline void wb_move(void *to, const void *from, uint64_t size) {
    uint8_t *t = to;
    const uint8_t *f = from;
#if defined(__x86_64__)
    if (size > 256) {
        __asm__ volatile("rep movsb" : "+D"(t), "+S"(f), "+c"(size) : : "memory");
        return;
    }
#endif
    for (; size >= 8; size -= 8, t += 8, f += 8) {
        uint64_t word;
        __builtin_memcpy(&word, f, 8);
        __builtin_memcpy(t, &word, 8);
        __asm__ volatile("" ::: "memory"); /* or the loop becomes a call of memcpy */
    }
    for (; size; size--) {
        *t++ = *f++;
        __asm__ volatile("" ::: "memory");
    }
}

static inline void wb_wipe(void *to, uint64_t size) {
    uint8_t *t = to;
    for (; size >= 8; size -= 8, t += 8) {
        __builtin_memset(t, 0, 8);
        __asm__ volatile("" ::: "memory");
    }
    for (; size; size--) {
        *t++ = 0;
        __asm__ volatile("" ::: "memory");
    }
}

/* hash_layout.c */
int64_t wb_hash_layout(const struct wb_segment *segment, struct wb_hash *layout);
uint64_t wb_hash_size(const struct wb_segment *segment, int64_t *error);
int64_t wb_hash_format(struct wb_segment *segment);
int64_t wb_hash_open(struct wb_map *map);
/* hash_block.c */
int64_t wb_block_adopt(struct wb_run *run, struct wb_map *map, struct wb_block *mine);
int64_t wb_block_slots(struct wb_run *run, struct wb_map *map, struct wb_block *mine, bool patient);
int64_t wb_block_copy(struct wb_run *run, struct wb_map *map, struct wb_block *mine, uint32_t slot, const void *value);
int64_t wb_block_credits(struct wb_run *run, struct wb_map *map, struct wb_block *mine);
void wb_block_apply(struct wb_map *map, struct wb_block *block);
bool wb_block_reap(struct wb_run *run, struct wb_map *map, uint32_t number, int depth);
bool wb_owner_dead(const struct wb_map *map, uint32_t number);
bool wb_wait(uint32_t *turn);
uint32_t wb_hash_batch(const struct wb_map *map);
/* hash_lock.c */
int64_t wb_hash_lock(struct wb_run *run, struct wb_map *map, struct wb_block *mine, struct place *place);
/* hash_walk.c */
void wb_hash_copy_out(struct wb_map *map, uint32_t slot, uint8_t *value);
int64_t wb_hash_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags);
int64_t wb_hash_next(struct wb_run *run, struct wb_map *map, const void *key, void *next);
int64_t wb_hash_bucket(struct wb_run *run, struct wb_map *map, uint64_t number, uint8_t *keys, uint8_t *values,
                       uint64_t value_bytes, int64_t room);
int64_t wb_hash_each(struct wb_run *run, struct wb_map *map, wb_callback callback, void *ctx, uint64_t flags);

#endif
