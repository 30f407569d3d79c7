/* Locks of the hash family: buckets that others have, and the bias that makes locks unnecessary.
 *
 * A locked exchange costs more than all the rest of an update: it waits for the stores before it, and the loads of the
 * next operation wait for it. A thread that alone has worked on a map for many operations takes the map's bias. From
 * then on its operations lock nothing: it says in its block that it is busy, finds that the bias is still its own, and
 * works with plain stores. Whoever else wants to write marks the bias as revoked, lets membarrier(2) order all threads'
 * stores, and waits until the owner is not busy, or dead and recovered. Everybody says that he is busy before he looks
 * at the bias, and who takes it looks afterwards whether anybody is: of two, one sees the other.
 *
 * The value of a bias is never used twice in a row, so that an exchange by somebody who has slept meanwhile fails.
 */
#include "hash_change.h"

#define PENDING (1ull << 12) /* not in force yet: anybody may cancel it */
#define REVOKED (1ull << 13) /* its owner begins no operation by it any more */
#define FLAGS (PENDING | REVOKED)
#define STREAK 256u  /* operations without anybody else's before the bias is taken; twice as many after each loss */
#define DOUBLINGS 6u

static void drop(struct wb_map *map, struct wb_block *mine) {
    uint64_t *bias = &wb_header(map)->bias;
    if (mine->bias && !wb_exchange(bias, mine->bias, WB_BIAS_NONE))
        wb_exchange(bias, mine->bias | REVOKED, WB_BIAS_NONE);
    mine->bias = 0;
}

static int64_t revoke(struct wb_run *run, struct wb_map *map, uint64_t seen) {
    struct wb_hash_header *header = wb_header(map);
    if (seen & PENDING) {
        wb_exchange(&header->bias, seen, WB_BIAS_NONE);
        return 0;
    }
    uint64_t marked = seen | REVOKED;
    uint32_t number = (uint32_t)seen % WB_PARTICIPANTS;
    if (seen != marked && !wb_exchange(&header->bias, seen, marked))
        return 0;
    if (!wb_barrier(run))
        return -EBUSY;
    for (uint32_t turn = 0; WB_LOAD(&header->bias) == marked;) {
        bool over = wb_absent(map->space, seen) ? wb_block_reap(run, map, number, 0)
                                                : WB_LOAD(&wb_block(map, number)->busy) != 1;
        if (over) {
            if (wb_exchange(&header->bias, marked, WB_BIAS_NONE))
                WB_PUT(&header->revocations, WB_PEEK(&header->revocations) + 1);
            return 0;
        }
        if (!wb_wait(&turn))
            return -EBUSY;
    }
    return 0;
}

static bool nobody_else_busy(struct wb_run *run, struct wb_map *map, const struct wb_block *mine) {
    uint32_t highest = WB_LOAD(&wb_shared(map->space)->highest);
    for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++) {
        const struct wb_block *other = wb_block(map, i);
        if (other == mine || !WB_LOAD(&other->busy))
            continue;
        if (!wb_owner_dead(map, i) || !wb_block_reap(run, map, i, 0))
            return false;
    }
    return true;
}

/* Take the bias if nobody else has worked on the map for a while: true = it is this block's. */
static bool take(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    struct wb_hash_header *header = wb_header(map);
    uint32_t losses = WB_PEEK(&header->revocations), others = 0;
    if (wb_lock_offset(map)) /* replace() copies locks as any other byte */
        return false;
    if (++mine->operations % (STREAK << (losses < DOUBLINGS ? losses : DOUBLINGS)) || run->flags & WB_RUN_FENCE)
        return false;
    uint32_t highest = WB_LOAD(&wb_shared(map->space)->highest);
    for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++)
        others += i == run->owner ? 0 : WB_PEEK(&wb_block(map, i)->operations);
    if (others != mine->others) {
        mine->others = others;
        return false;
    }
    uint64_t sequence = __atomic_fetch_add(&header->takes, 1, __ATOMIC_RELAXED) & 0x3ffff;
    uint64_t bias = (uint64_t)run->self->generation << 32 | sequence << 14 | run->owner;
    if (!wb_exchange(&header->bias, WB_BIAS_NONE, bias | PENDING))
        return false;
    if (!wb_barrier(run) || !nobody_else_busy(run, map, mine)) {
        wb_exchange(&header->bias, bias | PENDING, WB_BIAS_NONE);
        WB_PUT(&header->revocations, losses + 1); /* somebody is at work, however seldom: not again so soon */
        return false;
    }
    WB_STORE(&mine->bias, bias);
    if (wb_exchange(&header->bias, bias | PENDING, bias))
        return true;
    mine->bias = 0;
    return false;
}

/* No bias of anybody's is in force when this returns 0 and the caller's is not: *biased. */
static int64_t settle_bias(struct wb_run *run, struct wb_map *map, struct wb_block *mine, bool *biased) {
    for (uint32_t turn = 0; wb_wait(&turn);) {
        uint64_t bias = WB_LOAD(&wb_header(map)->bias);
        if (bias == WB_BIAS_NONE) {
            mine->bias = 0;
            *biased = take(run, map, mine);
            if (*biased || WB_LOAD(&wb_header(map)->bias) == WB_BIAS_NONE)
                return 0;
        } else if ((bias & ~FLAGS) == mine->bias) {
            drop(map, mine);
        } else {
            int64_t error = revoke(run, map, bias);
            if (error)
                return error;
        }
    }
    return -EBUSY;
}

static int64_t take_bucket(struct wb_run *run, struct wb_map *map, uint64_t *head) {
    uint64_t word = WB_PEEK(head), mine = (uint64_t)run->owner << 52;
    if (__builtin_expect(!WB_WORD_OWNER(word) && wb_exchange(head, word, word | mine), 1))
        return 0;
    for (uint32_t turn = 0; wb_wait(&turn);) {
        word = WB_LOAD(head);
        uint32_t owner = WB_WORD_OWNER(word);
        if (!owner) {
            if (wb_exchange(head, word, word | mine))
                return 0;
        } else if (wb_owner_dead(map, owner)) {
            wb_block_reap(run, map, owner, 0);
        }
    }
    return -EBUSY;
}

/* The bucket of `place` becomes the caller's, who has said that he is busy with it. */
int64_t wb_hash_lock(struct wb_run *run, struct wb_map *map, struct wb_block *mine, struct place *place) {
    uint64_t *head = place->bucket->way;
    uint32_t owner = WB_WORD_OWNER(WB_LOAD(head));
    if (wb_biased(map, mine)) {
        /* The lock of one who died before the bias was taken; of a live thread it can only be damage. */
        place->biased = owner && wb_owner_dead(map, owner) && wb_block_reap(run, map, owner, 0) &&
                        !WB_WORD_OWNER(place->head = WB_LOAD(head));
        if (place->biased)
            return 0;
        drop(map, mine);
    }
    int64_t error = 0;
    place->biased = false;
    if (__builtin_expect(WB_LOAD(&wb_header(map)->bias) != WB_BIAS_NONE || !((mine->operations + 1) % STREAK), 0))
        error = settle_bias(run, map, mine, &place->biased);
    else
        mine->operations++;
    if (!error && !place->biased)
        error = take_bucket(run, map, head);
    if (error)
        WB_STORE(&mine->bucket, 0);
    else
        place->head = WB_WORD_PLAIN(WB_LOAD(head));
    return error;
}
