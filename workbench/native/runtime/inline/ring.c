/* Giving a ring buffer's record to its reader, for the JIT to inline: compiled to bitcode only. */
#include "../ring.c"

#define INLINE(name, more)                                                                                              \
    uint64_t wb_inline_##name(struct wb_run *, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);                      \
    uint64_t wb_inline_##name(                                                                                         \
        struct wb_run *run, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {                         \
        (void)r3, (void)r4, (void)r5;                                                                                  \
        wb_ring_commit(run, (void *)r1, (r2 & 3) | (more));                                                            \
        return 0;                                                                                                      \
    }

INLINE(submit, 0)
INLINE(discard, WB_RING_DISCARD)
