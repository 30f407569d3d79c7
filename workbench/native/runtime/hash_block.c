/* Blocks of the hash family: refilling, stealing, and recovery of what dead threads left half done. */
#include "hash.h"
#include "system.h"

#define SPINS 64
#define YIELDS 256
#define SLEEPS 1000
#define NAPS 16      /* for slots, with which a program's author does not reckon */
#define DEPTH 8
#define CHUNK 32u /* slots taken from the store at a time: no operation takes long */

/* One more turn of waiting for another thread. False: it is stopped, or waits for us. */
bool wb_wait(uint32_t *turn) {
    uint32_t n = (*turn)++;
    if (n < SPINS) {
#if defined(__x86_64__)
        __asm__ volatile("pause");
#endif
        return true;
    }
    if (n < SPINS + YIELDS) {
        wb_yield();
        return true;
    }
    int64_t nap[2] = {0, 100000};
    wb_system_call(SYS_nanosleep, (int64_t)nap, 0, 0, 0, 0, 0);
    return n < SPINS + YIELDS + SLEEPS;
}

/* Whether the thread that last used this map under `number` is dead, also when a new one has the number. */
bool wb_owner_dead(const struct wb_map *map, uint32_t number) {
    return wb_dead(map->space, number) ||
           WB_LOAD(&map->space->participants[number % WB_PARTICIPANTS].generation) !=
               WB_LOAD(&wb_block(map, number)->generation);
}

/* The record's values: absolute, so that doing it again changes nothing. */
void wb_block_apply(struct wb_map *map, struct wb_block *block) {
    uint32_t slots = wb_slots(map);
    uint32_t link = WB_PEEK(&block->link_slot);
    if (link && link < slots)
        wb_link_free(map, link, block->link_after);
    if (block->armed == 2) {
        struct wb_block *source = wb_block(map, WB_PEEK(&block->source));
        source->queue.head = block->source_head;
        source->queue.count = block->source_count;
        source->queue.credits = block->source_credits;
        source->word = WB_NO_WORD;
    }
    block->queue = block->after;
}

static bool committed(struct wb_map *map, const struct wb_block *block, uint32_t number, uint64_t *head) {
    /* Who has the bias locks nothing, and nobody else writes before this is recovered. */
    if (block->armed != 3 && WB_WORD_OWNER(WB_LOAD(head)) != number)
        return true;
    uint64_t at = WB_PEEK(&block->word_at);
    if (at % 8 || at > map->length - 8)
        return false;
    return WB_WORD_PLAIN(WB_LOAD((uint64_t *)(map->segment + at))) == block->word;
}

static void copy_from_log(struct wb_map *map, uint32_t slot) {
    if (slot && slot < wb_slots(map))
        wb_move(wb_slot_value(map, slot, 0), wb_slot_value(map, wb_slots(map), 0), map->value_size);
}

/* A record of an operation by bias needs no mark that it is valid: its word is stored first, and names a slot that is
 * linked nowhere until the commit. Before that, it is the record of the operation before: what that made of the block is
 * what it is, so that doing it again changes nothing (transfers, which change blocks without one, take the word away).
 *
 * With the block's guard held: finish or undo what its dead owner was doing; unlock the bucket last. */
static void recover(struct wb_map *map, struct wb_block *block, uint32_t number) {
    uint32_t bucket = WB_PEEK(&block->bucket);
    uint64_t *head = bucket && bucket - 1 <= map->mask ? wb_bucket(map, bucket - 1)->way : 0;
    if (block->armed == 2) {
        wb_block_apply(map, block);
    } else if (block->armed == 4) {
        copy_from_log(map, WB_PEEK(&block->link_slot));
    } else if ((block->armed == 3 || (block->armed && head)) && committed(map, block, number, head)) {
        uint32_t retired = WB_PEEK(&block->link_after);
        if (retired && retired < wb_slots(map))
            WB_PUT(&wb_slot(map, retired)->stamp, WB_LOAD(map->space->epoch));
        wb_block_apply(map, block);
    }
    WB_STORE(&block->armed, 0);
    WB_STORE(&block->word, WB_NO_WORD);
    block->bias = 0;
    if (head) {
        uint64_t now = WB_LOAD(head);
        if (WB_WORD_OWNER(now) == number)
            WB_STORE(head, WB_WORD_PLAIN(now));
    }
    WB_STORE(&block->bucket, 0);
    WB_STORE(&block->busy, 0);
}

/* Take the guard of a block; a dead holder's own block is recovered first, as its record may be about this one. */
static bool guard(struct wb_run *run, struct wb_map *map, struct wb_block *block, int depth) {
    uint64_t holder = WB_LOAD(&block->guard);
    if (!holder)
        return wb_exchange(&block->guard, 0, WB_NAME(run));
    if (holder == WB_NAME(run) || !wb_absent(map->space, holder) || depth >= DEPTH)
        return false;
    if (block != wb_block(map, (uint32_t)holder) &&
        !wb_block_reap(run, map, (uint32_t)holder % WB_PARTICIPANTS, depth + 1))
        return false;
    return wb_exchange(&block->guard, holder, WB_NAME(run));
}

/* True: nothing of a dead thread is left half done under this number. */
bool wb_block_reap(struct wb_run *run, struct wb_map *map, uint32_t number, int depth) {
    struct wb_block *block = wb_block(map, number);
    if (!number || !wb_owner_dead(map, number))
        return true;
    if (!guard(run, map, block, depth))
        return false;
    if (wb_owner_dead(map, number))
        recover(map, block, number);
    WB_STORE(&block->guard, 0);
    return true;
}

/* The calling thread's first operation on this map, or its block is guarded by another. */
int64_t wb_block_adopt(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    for (uint32_t turn = 0; wb_wait(&turn);) {
        if (!guard(run, map, mine, 0))
            continue;
        if (mine->generation != run->self->generation) {
            recover(map, mine, run->owner);
            if (!mine->horizon)
                mine->horizon = 1; /* slots that never were used have stamp 0 */
            WB_STORE(&mine->generation, run->self->generation);
        }
        WB_STORE(&mine->guard, 0);
        return 0;
    }
    return -EBUSY;
}

/* --- transfers ----------------------------------------------------------------------------------------------------- */

/* With the source's guard held and its owner not busy: up to `slots` slots and `credits` credits into `mine`. */
static bool move(struct wb_map *map, struct wb_block *mine, uint32_t number, uint32_t slots, uint32_t credits) {
    struct wb_block *source = wb_block(map, number);
    uint32_t total = wb_slots(map), taken = 0, last = 0, at = WB_PEEK(&source->queue.head);
    if (credits > source->queue.credits)
        credits = source->queue.credits;
    if (slots > source->queue.count)
        slots = source->queue.count;
    uint32_t begin = at;
    for (; taken < slots && at && at < total; taken++) {
        last = at;
        at = wb_next_free(map, at);
    }
    if (taken < slots && !taken)
        slots = 0; /* a damaged queue */
    if (!taken && !credits)
        return false;
    mine->link_slot = taken && mine->queue.count ? last : 0;
    mine->link_after = mine->queue.head;
    mine->after.head = taken ? begin : mine->queue.head;
    mine->after.tail = taken && !mine->queue.count ? last : mine->queue.tail;
    mine->after.count = mine->queue.count + taken;
    mine->after.credits = mine->queue.credits + credits;
    mine->source = number;
    mine->source_head = taken ? at : source->queue.head;
    mine->source_count = source->queue.count - taken;
    mine->source_credits = source->queue.credits - credits;
    __atomic_fetch_add(&wb_header(map)->moves, 1, __ATOMIC_SEQ_CST);
    WB_STORE(&mine->word, WB_NO_WORD);
    WB_STORE(&mine->armed, 2);
    wb_block_apply(map, mine);
    WB_STORE(&mine->armed, 0);
    return true;
}

/* Take from the block `number`: all that is asked for from the store, half from a thread's. */
static bool steal(struct wb_run *run, struct wb_map *map, struct wb_block *mine, uint32_t number, uint32_t slots,
                  uint32_t credits) {
    struct wb_block *source = wb_block(map, number);
    if (source == mine)
        return false;
    uint32_t turn = 0;
    while (!guard(run, map, source, 0))
        if (turn > SPINS + YIELDS || !wb_wait(&turn))
            return false;
    bool quiet = true, moved = false;
    if (number) {
        if (wb_owner_dead(map, number)) {
            recover(map, source, number);
        } else {
            quiet = wb_barrier(run);
            while (quiet && !(quiet = !WB_LOAD(&source->busy)) && WB_PEEK(&source->busy) != 2 &&
                   turn < SPINS + YIELDS + 8 && wb_wait(&turn))
                if (wb_owner_dead(map, number)) {
                    recover(map, source, number);
                    quiet = true;
                    break;
                }
        }
        uint32_t half = (source->queue.count + 1) / 2;
        slots = !source->queue.count ? 0 : half < slots ? half : slots;
        credits = credits && source->queue.credits ? (source->queue.credits + 1) / 2 : 0;
    }
    if (quiet)
        moved = move(map, mine, number, slots, credits);
    WB_STORE(&source->guard, 0);
    return moved;
}

static bool ripe(struct wb_map *map, const struct wb_block *mine) {
    uint32_t head = WB_PEEK(&mine->queue.head);
    return mine->since < mine->queue.count && head && head < wb_slots(map) &&
           WB_PEEK(&wb_slot(map, head)->stamp) < mine->horizon;
}

/* Make the first slot of the queue free for use.
 *
 * Free is what no program that runs may hold, this thread's own among them; one that was given no pointer into a hash
 * map holds none. A thread keeps up to three batches in quarantine, less when it is alone, as finding out costs nothing
 * then and few slots stay in the cache. When none is free yet, the rest of the reserve and of the unused entries comes
 * next, then other threads' slots, then waiting for those who hold (little unless `patient`, not at all where it is the
 * caller), then -ENOMEM. */
int64_t wb_block_slots(struct wb_run *run, struct wb_map *map, struct wb_block *mine, bool patient) {
    uint32_t batch = wb_hash_batch(map), some = batch < CHUNK ? batch : CHUNK;
    bool alone = mine->queue.count >= some && mine->alone;
    if (!alone && mine->queue.count < 3 * batch && steal(run, map, mine, 0, some, 0) && ripe(map, mine))
        return 0;
    for (uint32_t turn = 0;;) {
        mine->horizon = wb_grace_of_holders(run, &alone);
        mine->alone = alone;
        if (!(WB_PEEK(&run->self->epoch) & WB_HOLDS) || mine->holding != WB_PEEK(&run->self->holdings))
            mine->since = 0;
        if (ripe(map, mine))
            return 0;
        if (steal(run, map, mine, 0, some, 0) && ripe(map, mine))
            return 0;
        if (run->flags & WB_RUN_FENCE && !alone)
            return -ENOMEM;
        if (turn > 1) {
            /* What another took out is judged by a grace period that began after it had. */
            uint32_t highest = WB_LOAD(&wb_shared(map->space)->highest);
            for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++)
                if (WB_PEEK(&wb_block(map, i)->queue.count) && steal(run, map, mine, i, batch, 0))
                    break;
        }
        if (turn > 2 && turn < SPINS)
            turn = SPINS;
        bool own = mine->since && mine->since >= mine->queue.count;
        if (turn >= (patient ? SPINS + YIELDS + NAPS : SPINS + 4) || (own && turn > 2) || !wb_wait(&turn))
            return -ENOMEM;
    }
}

/* No slot is free, because programs run very long and hold what was replaced, or BPF_F_LOCK: the bucket's owner writes
 * the value where it is, with the value's own lock where it has one, whose word is copied onto itself. A kill leaves the
 * old value or, from the log, the new. System calls read one or the other; a program that looks at this moment may see
 * some of both. */
int64_t wb_block_copy(struct wb_run *run, struct wb_map *map, struct wb_block *mine, uint32_t slot,
                      const void *value) {
    uint64_t *log = &wb_header(map)->log;
    for (uint32_t turn = 0;;) {
        uint64_t holder = WB_LOAD(log);
        bool free = !holder || (wb_absent(map->space, holder) &&
                                wb_block_reap(run, map, (uint32_t)holder % WB_PARTICIPANTS, 0));
        if (free && wb_exchange(log, holder, WB_NAME(run)))
            break;
        if (!wb_wait(&turn))
            return -EBUSY;
    }
    uint32_t *lock = wb_lock_of(map, wb_slot_value(map, slot, 0));
    wb_move(wb_slot_value(map, wb_slots(map), 0), value, map->value_size);
    if (lock) {
        wb_spin_acquire(run, lock);
        WB_PUT(lock + (wb_slot_value(map, wb_slots(map), 0) - wb_slot_value(map, slot, 0)) / 4, WB_PEEK(lock));
    }
    mine->link_slot = slot;
    __atomic_fetch_add(&wb_header(map)->copies, 1, __ATOMIC_SEQ_CST);
    WB_STORE(&mine->armed, 4);
    copy_from_log(map, slot);
    WB_STORE(&mine->word, WB_NO_WORD);
    WB_STORE(&mine->armed, 0);
    if (lock)
        wb_spin_release(run, lock);
    WB_STORE(log, 0);
    return 0;
}

/* At least one credit, from the store or from whoever has some. E2BIG only when there is none anywhere: a scan in which
 * nothing moved found none. */
int64_t wb_block_credits(struct wb_run *run, struct wb_map *map, struct wb_block *mine) {
    for (uint32_t turn = 0; wb_wait(&turn);) {
        uint64_t moves = WB_LOAD(&wb_header(map)->moves);
        uint32_t stored = WB_LOAD(&wb_block(map, 0)->queue.credits), wanted = stored / 4;
        wanted = wanted < 1 ? 1 : wanted > 64 ? 64 : wanted;
        if (stored && steal(run, map, mine, 0, 0, wanted))
            return 0;
        bool some = stored != 0;
        uint32_t highest = WB_LOAD(&wb_shared(map->space)->highest);
        for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++) {
            struct wb_block *other = wb_block(map, i);
            if (other == mine)
                continue;
            if (WB_LOAD(&other->busy) && wb_owner_dead(map, i))
                wb_block_reap(run, map, i, 0);
            uint32_t theirs = WB_LOAD(&other->queue.credits);
            if (theirs && steal(run, map, mine, i, 0, 1))
                return 0;
            some |= theirs || WB_LOAD(&other->armed) == 2;
        }
        if (!some && moves == WB_LOAD(&wb_header(map)->moves))
            return -E2BIG;
    }
    return -E2BIG;
}

/* Recover every dead thread's block now, not when somebody meets it: number of those that could not be. */
WB_EXPORT int64_t wb_hash_settle(struct wb_run *run, struct wb_map *map) {
    int64_t left = 0;
    for (uint32_t i = 0; i < WB_PARTICIPANTS; i++) {
        struct wb_block *block = wb_block(map, i);
        uint64_t holder = WB_LOAD(&block->guard);
        if (i && (WB_PEEK(&block->generation) || holder))
            left += !wb_block_reap(run, map, i, 0);
        if (holder && wb_absent(map->space, holder) && guard(run, map, block, 0))
            WB_STORE(&block->guard, 0);
    }
    return left;
}
