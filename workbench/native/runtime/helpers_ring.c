/* Ring buffers, dynptrs, perf output (kernel/bpf/ringbuf.c, helpers.c; kernel/trace/bpf_trace.c). */
#include "helpers.h"

#define NO_WAKEUP 1u
#define FORCE_WAKEUP 2u
#define INDEX_MASK 0xffffffffull
#define RECORD_MAX 0x3fffffffu

#define MAP ((struct wb_map *)r1)

HELPER(ringbuf_reserve) {
    UNUSED(r4, r5, 0);
    return r3 || !wb_ring_reserve ? 0 : (uint64_t)wb_ring_reserve(run, MAP, r2, 0);
}

HELPER(ringbuf_submit) {
    UNUSED(r3, r4, r5);
    if (wb_ring_commit)
        wb_ring_commit(run, (void *)r1, r2 & (NO_WAKEUP | FORCE_WAKEUP));
    return 0;
}

HELPER(ringbuf_discard) {
    UNUSED(r3, r4, r5);
    if (wb_ring_commit)
        wb_ring_commit(run, (void *)r1, (r2 & (NO_WAKEUP | FORCE_WAKEUP)) | WB_RING_DISCARD);
    return 0;
}

HELPER(ringbuf_output) {
    (void)r5;
    if (r4 & ~(uint64_t)(NO_WAKEUP | FORCE_WAKEUP))
        return ERROR(WB_EINVAL);
    void *record = wb_ring_reserve ? wb_ring_reserve(run, MAP, r3, 0) : 0;
    if (!record)
        return ERROR(WB_EAGAIN);
    __builtin_memcpy(record, (const void *)r2, r3);
    wb_ring_commit(run, record, r4);
    return 0;
}

HELPER(ringbuf_query) {
    UNUSED(r3, r4, r5);
    return wb_ring_query ? wb_ring_query(run, MAP, r2) : 0;
}

HELPER(user_ringbuf_drain) {
    (void)r5;
    if (r4 & ~(uint64_t)(NO_WAKEUP | FORCE_WAKEUP))
        return ERROR(WB_EINVAL);
    return wb_user_ring_drain ? (uint64_t)wb_user_ring_drain(run, MAP, (wb_callback)r2, r3, r4)
                              : ERROR(WB_EOPNOTSUPP);
}

/* --- dynptrs ---------------------------------------------------------------------------------------------------------------- */

static void clear(struct wb_dynptr *pointer) { *pointer = (struct wb_dynptr){0, 0, 0}; }

HELPER(ringbuf_reserve_dynptr) {
    (void)r5;
    struct wb_dynptr *to = (struct wb_dynptr *)r4;
    uint32_t size = (uint32_t)r2;
    clear(to);
    if (r3)
        return ERROR(WB_EINVAL);
    if (size > WB_DYNPTR_MAX)
        return ERROR(WB_E2BIG);
    void *record = wb_ring_reserve ? wb_ring_reserve(run, MAP, size, 0) : 0;
    if (!record)
        return ERROR(WB_EINVAL);
    *to = (struct wb_dynptr){record, size | WB_DYNPTR_RINGBUF, 0};
    return 0;
}

static uint64_t finish(struct wb_run *run, struct wb_dynptr *pointer, uint64_t flags) {
    if (pointer->data && wb_ring_commit)
        wb_ring_commit(run, pointer->data, flags);
    clear(pointer);
    return 0;
}

HELPER(ringbuf_submit_dynptr) {
    UNUSED(r3, r4, r5);
    return finish(run, (struct wb_dynptr *)r1, r2 & (NO_WAKEUP | FORCE_WAKEUP));
}

HELPER(ringbuf_discard_dynptr) {
    UNUSED(r3, r4, r5);
    return finish(run, (struct wb_dynptr *)r1, (r2 & (NO_WAKEUP | FORCE_WAKEUP)) | WB_RING_DISCARD);
}

HELPER(dynptr_from_mem) {
    (void)run, (void)r5;
    struct wb_dynptr *to = (struct wb_dynptr *)r4;
    uint32_t size = (uint32_t)r2;
    clear(to);
    if (size > WB_DYNPTR_MAX)
        return ERROR(WB_E2BIG);
    if (r3)
        return ERROR(WB_EINVAL);
    *to = (struct wb_dynptr){(void *)r1, size | WB_DYNPTR_LOCAL, 0};
    return 0;
}

static bool inside(const struct wb_dynptr *pointer, uint32_t offset, uint32_t length) {
    uint32_t size = pointer->size & WB_DYNPTR_MAX;
    return length <= size && offset <= size - length;
}

static uint8_t *at(const struct wb_dynptr *pointer, uint32_t offset) {
    return (uint8_t *)pointer->data + pointer->offset + offset;
}

HELPER(dynptr_read) {
    (void)run;
    const struct wb_dynptr *from = (const struct wb_dynptr *)r3;
    if (!from->data || r5)
        return ERROR(WB_EINVAL);
    if (!inside(from, (uint32_t)r4, (uint32_t)r2))
        return ERROR(WB_E2BIG);
    __builtin_memmove((void *)r1, at(from, (uint32_t)r4), (uint32_t)r2);
    return 0;
}

HELPER(dynptr_write) {
    (void)run;
    const struct wb_dynptr *to = (const struct wb_dynptr *)r1;
    if (!to->data || to->size & WB_DYNPTR_READ_ONLY)
        return ERROR(WB_EINVAL);
    if (!inside(to, (uint32_t)r2, (uint32_t)r4))
        return ERROR(WB_E2BIG);
    if (r5)
        return ERROR(WB_EINVAL);
    __builtin_memmove(at(to, (uint32_t)r2), (const void *)r3, (uint32_t)r4);
    return 0;
}

HELPER(dynptr_data) {
    UNUSED(r4, r5, 0);
    const struct wb_dynptr *from = (const struct wb_dynptr *)r1;
    if (!from->data || from->size & WB_DYNPTR_READ_ONLY || !inside(from, (uint32_t)r2, (uint32_t)r3))
        return 0;
    return (uint64_t)at(from, (uint32_t)r2);
}

/* --- perf arrays -------------------------------------------------------------------------------------------------------------- */

HELPER(perf_event_output) {
    (void)r1;
    if (r3 & ~INDEX_MASK)
        return ERROR(WB_EINVAL);
    return wb_perf_output
               ? (uint64_t)wb_perf_output(run, (struct wb_map *)r2, r3, (const void *)r4, r5)
               : ERROR(WB_EOPNOTSUPP);
}
