/* User ring: user space reserves and submits records as a program does in a ring buffer; a program drains them
 * (kernel/bpf/ringbuf.c, bpf_user_ringbuf_drain). One thread drains at a time; a dead drainer's place is taken, and the
 * sample it was looking at is seen again. */
#include "ring.h"

#define MOST (128u * 1024)

static int64_t peek(struct wb_map *map, struct wb_ring_consumer *c, uint8_t **sample, uint32_t *size)
{
    struct wb_ring_producer *p = wb_ring_producer(map->values);
    const uint64_t end = WB_LOAD(&p->position), at = WB_PEEK(&c->position);

    if (end % 8)
        return -EINVAL;
    if (at >= end)
        return -ENODATA;
    uint8_t *header = map->values + (at & map->mask & ~7ull);
    const uint32_t word = WB_LOAD((uint32_t *)header), length = word & ~(WB_HEADER_BUSY | WB_HEADER_DISCARD);
    const uint64_t total = wb_up((uint64_t)length + WB_RING_HEADER, 8);

    if (total > end - at)
        return -EINVAL;
    if (total > (uint64_t)map->mask + 1 || length > WB_DYNPTR_MAX)
        return -E2BIG;
    if (word & WB_HEADER_DISCARD) {
        WB_STORE(&c->position, at + total);
        return -EAGAIN;
    }
    if (word & WB_HEADER_BUSY)
        return wb_ring_give_up_dead(map->space, (struct wb_ring){map->values, (uint64_t)map->mask + 1}) ? -ESTALE
                                                                                                          : -ENODATA;
    *sample = header + WB_RING_HEADER;
    *size = length;
    return 0;
}

WB_EXPORT int64_t wb_user_ring_drain(struct wb_run *run, struct wb_map *map, wb_callback callback, uint64_t context,
                                     uint64_t flags)
{
    struct wb_ring_consumer *c = wb_ring_consumer(map->values);
    const uint32_t me = wb_identity(run);
    uint32_t holder = 0;
    int64_t samples = 0, discarded = 0, stop = 0, error = 0;

    if (flags & ~(uint64_t)(WB_RING_NO_WAKEUP | WB_RING_FORCE_WAKEUP))
        return -EINVAL;
    if (!__atomic_compare_exchange_n(&c->draining, &holder, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) &&
        (holder == me || !wb_holder_gone(map->space, holder) ||
         !__atomic_compare_exchange_n(&c->draining, &holder, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
        return -EBUSY;
    for (; samples < MOST && !stop; samples++) {
        struct wb_dynptr pointer = {.offset = 0};
        uint32_t size;

        error = peek(map, c, (uint8_t **)&pointer.data, &size);
        if (error == -ESTALE) {
            samples--;
            continue;
        }
        if (error == -EAGAIN) {
            discarded++;
            continue;
        }
        if (error)
            break;
        pointer.size = size | WB_DYNPTR_LOCAL;
        stop = (int64_t)callback((uintptr_t)&pointer, context, 0, 0, 0, run);
        WB_STORE(&c->position, WB_PEEK(&c->position) + wb_up((uint64_t)size + WB_RING_HEADER, 8));
    }
    WB_STORE(&c->draining, 0u);
    if (flags & WB_RING_FORCE_WAKEUP || (!(flags & WB_RING_NO_WAKEUP) && samples > 0)) {
        __atomic_fetch_add(&c->space, 1, __ATOMIC_SEQ_CST);
        if (WB_LOAD(&c->producers))
            wb_system_call(SYS_futex, (int64_t)(uintptr_t)&c->space, 1 /* FUTEX_WAKE */, INT32_MAX, 0, 0, 0);
    }
    return error && error != -ENODATA && error != -EAGAIN ? error : samples - discarded;
}

/* Sleep until a program has drained something, at most `nanoseconds`: 1 = it has. `seen` is wb_user_ring_space before
 * the reserve that failed. */
WB_EXPORT uint32_t wb_user_ring_space(struct wb_map *map)
{
    return WB_LOAD(&wb_ring_consumer(map->values)->space);
}

WB_EXPORT int64_t wb_user_ring_wait(struct wb_map *map, uint32_t seen, uint64_t nanoseconds)
{
    struct wb_ring_consumer *c = wb_ring_consumer(map->values);
    int64_t time[2] = {(int64_t)(nanoseconds / 1000000000), (int64_t)(nanoseconds % 1000000000)};

    __atomic_fetch_add(&c->producers, 1, __ATOMIC_SEQ_CST);
    int64_t result = wb_system_call(SYS_futex, (int64_t)(uintptr_t)&c->space, 0 /* FUTEX_WAIT */, seen,
                                    (int64_t)(uintptr_t)time, 0, 0);
    __atomic_fetch_sub(&c->producers, 1, __ATOMIC_SEQ_CST);
    return result != -ETIMEDOUT;
}
