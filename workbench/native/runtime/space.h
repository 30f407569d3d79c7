/* A namespace: the threads that use it, the global epoch, and the slots of per-CPU maps (space.c). */
#ifndef WB_SPACE_H
#define WB_SPACE_H

#include "runtime.h"

#define WB_SPACE_MAGIC 0x3165636170736277ull
#define WB_SPACE_VERSION 1
#define WB_SPACE_CPUS 1024 /* most slots of a per-CPU value */
#define WB_SPACE_LENGTH (sizeof(struct wb_shared))

/* What entering a program has to do besides storing the epoch: bits of run->flags. */
#define WB_RUN_FENCE 0x10000u /* membarrier(2) was denied to this thread after it had joined */
#define WB_RUN_CLAIM 0x20000u /* no leased slot of per-CPU maps: claim one for each program */
#define WB_RUN_SLOW (WB_RUN_FENCE | WB_RUN_CLAIM)

#define WB_LOCK_DIED 0x40000000u /* FUTEX_OWNER_DIED */
#define WB_LOCK_TID 0x3fffffffu

/* A thread for ever: generation << 32 | number. 0 is nobody. */
#define WB_NAME(run) ((uint64_t)(run)->self->generation << 32 | (run)->owner)

struct wb_shared {
    uint64_t magic; /* written last */
    uint32_t version, cpus;
    uint32_t leases;  /* slots below are leased to threads for life, the others claimed for one program */
    uint32_t highest; /* no participant above this number */
    uint32_t next_id; /* of the next map */
    uint32_t unused[9];
    _Alignas(WB_LINE) uint64_t epoch;
    _Alignas(WB_LINE) uint64_t slots[WB_SPACE_CPUS]; /* name of the thread that has it, 0 = free */
    _Alignas(4096) struct wb_participant participants[WB_PARTICIPANTS];
};

int64_t wb_space_format(void *memory, uint64_t length, uint32_t cpus);
int64_t wb_space_open(struct wb_space *space, void *memory, uint64_t length);
int64_t wb_join(struct wb_run *run, struct wb_space *space);
int64_t wb_leave(struct wb_run *run);
int64_t wb_leave_of(struct wb_run *run, uint32_t tid);
uint64_t wb_grace(struct wb_run *run, bool but_mine);
uint64_t wb_grace_of_holders(struct wb_run *run, bool *alone);
bool wb_barrier(struct wb_run *run);
bool wb_begin_slow(struct wb_run *run);
void wb_end_slow(struct wb_run *run);
void wb_yield(void);

static inline struct wb_shared *wb_shared(const struct wb_space *space) { return space->shared; }

/* Whether the thread with this number is dead: one load. */
static inline bool wb_dead(const struct wb_space *space, uint32_t number) {
    uint32_t lock = WB_LOAD(&space->participants[number % WB_PARTICIPANTS].lock);
    return lock & WB_LOCK_DIED || !lock;
}

/* Whether the thread of this name (WB_NAME) is dead, also when another has its number now. */
static inline bool wb_absent(const struct wb_space *space, uint64_t name) {
    uint32_t number = (uint32_t)name % WB_PARTICIPANTS;
    return wb_dead(space, number) ||
           WB_LOAD(&space->participants[number].generation) != (uint32_t)(name >> 32);
}

/* Before a program is given a pointer into a hash map: what is taken out from now on is kept until the program ends. */
static inline void wb_hold(struct wb_run *run) {
    struct wb_participant *self = run->self;
    if (__builtin_expect(!self, 0))
        return;
    uint64_t epoch = WB_PEEK(&self->epoch);
    if ((int64_t)epoch > 0) {
        WB_PUT(&self->epoch, epoch | WB_HOLDS);
        WB_PUT(&self->holdings, WB_PEEK(&self->holdings) + 1);
    }
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Around every program: two plain stores. False = no slot for per-CPU maps is to be had, the program is missed. */
static inline bool wb_begin(struct wb_run *run) {
    struct wb_participant *self = run->self;
    if (!self)
        return true;
    WB_PUT(&self->epoch, WB_LOAD(run->space->epoch));
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(run->flags & WB_RUN_SLOW, 0))
        return wb_begin_slow(run);
    return true;
}

static inline void wb_end(struct wb_run *run) {
    if (!run->self)
        return;
    if (__builtin_expect(run->flags & WB_RUN_CLAIM, 0))
        wb_end_slow(run);
    WB_STORE(&run->self->epoch, 0);
}

#endif
