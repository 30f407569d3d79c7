/* A ring buffer's record, from reserving it to giving it to its reader, for the JIT to inline: compiled to bitcode only.
 * What is not the usual case is the table's helper's. */
#include "../ring.c"

#define RESERVE 131
#define OUTPUT 130

uint64_t wb_inline_reserve(struct wb_run *, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
uint64_t wb_inline_reserve(
    struct wb_run *run, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
    void *record = r3 ? NULL : take_biased(run, ring_of((const struct wb_map *)r1), r2);
    return __builtin_expect(record != NULL, 1) ? (uint64_t)record : run->helpers[RESERVE](run, r1, r2, r3, r4, r5);
}

uint64_t wb_inline_output(struct wb_run *, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
uint64_t wb_inline_output(
    struct wb_run *run, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5) {
    void *record = r4 & ~(uint64_t)(WB_RING_NO_WAKEUP | WB_RING_FORCE_WAKEUP)
                       ? NULL
                       : take_biased(run, ring_of((const struct wb_map *)r1), r3);
    if (__builtin_expect(record == NULL, 0))
        return run->helpers[OUTPUT](run, r1, r2, r3, r4, r5);
    wb_copy(record, (const void *)r2, r3);
    wb_ring_commit(run, record, r4);
    return 0;
}

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
