/* What the map types of this folder are made of: identities of threads, a lock that survives its holder, copying,
 * the few system calls. Freestanding; everything is inline. */
#ifndef WB_RUNTIME_MAP_TYPE_H
#define WB_RUNTIME_MAP_TYPE_H

#include "space.h"
#include "system.h"
#include "types.h"

#include <errno.h>

extern const struct wb_map_ops wb_array_ops, wb_percpu_array_ops, wb_queue_ops, wb_stack_ops, wb_bloom_ops, wb_lpm_ops;
extern const struct wb_map_ops wb_ring_ops, wb_user_ring_ops, wb_perf_array_ops, wb_stack_trace_ops;
extern const struct wb_map_ops wb_prog_array_ops, wb_array_of_maps_ops, wb_hash_of_maps_ops, wb_task_storage_ops;

#define WB_ENOTSUPP 524 /* the kernel's own; not in errno.h */
#if defined(__x86_64__)
#define WB_PAGE 4096u
#else
#define WB_PAGE 65536u /* the largest page of the other architectures */
#endif
#define WB_MAX_VALUE (1u << 22) /* about KMALLOC_MAX_SIZE */

enum { WB_ANY, WB_NOEXIST, WB_EXIST, WB_F_LOCK = 4 };
enum {
    WB_F_NO_PREALLOC = 1 << 0,
    WB_F_NUMA_NODE = 1 << 2,
    WB_F_RDONLY = 1 << 3,
    WB_F_WRONLY = 1 << 4,
    WB_F_ZERO_SEED = 1 << 6,
    WB_F_RDONLY_PROG = 1 << 7,
    WB_F_WRONLY_PROG = 1 << 8,
    WB_F_MMAPABLE = 1 << 10,
    WB_F_PRESERVE_ELEMS = 1 << 11,
    WB_F_INNER_MAP = 1 << 12,
};
#define WB_F_ACCESS (WB_F_RDONLY | WB_F_WRONLY | WB_F_RDONLY_PROG | WB_F_WRONLY_PROG)

static inline bool wb_flags_allowed(const struct wb_segment *s, uint32_t allowed)
{
    const uint32_t program = WB_F_RDONLY_PROG | WB_F_WRONLY_PROG;

    return !(s->flags & ~allowed) && (s->flags & program) != program &&
           (s->flags & (WB_F_RDONLY | WB_F_WRONLY)) != (WB_F_RDONLY | WB_F_WRONLY);
}

static inline uint64_t wb_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static inline uint64_t wb_power(uint64_t value)
{
    uint64_t power = 1;

    while (power < value)
        power <<= 1;
    return power;
}

/* The type's data in the segment: what the creator chose, else the first place that fits. */
static inline uint64_t wb_data_offset(const struct wb_segment *s, uint64_t alignment)
{
    return wb_up(s->offset ? s->offset : sizeof(struct wb_segment), alignment);
}

/* Loops the compiler must not turn into calls of a libc that is not there. */
static inline void wb_copy(void *to, const void *from, uint64_t size)
{
#if defined(__x86_64__)
    if (size > 128) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
        return;
    }
#endif
    uint8_t *t = to;
    const uint8_t *f = from;

    for (; size >= 8; size -= 8, t += 8, f += 8) {
        __builtin_memcpy(t, f, 8);
        __asm__ volatile("" : : : "memory");
    }
    for (; size; size--) {
        *t++ = *f++;
        __asm__ volatile("" : : : "memory");
    }
}

static inline void wb_clear(void *to, uint64_t size)
{
    uint8_t *t = to;

    for (; size >= 8; size -= 8, t += 8) {
        __builtin_memset(t, 0, 8);
        __asm__ volatile("" : : : "memory");
    }
    for (; size; size--) {
        *t++ = 0;
        __asm__ volatile("" : : : "memory");
    }
}

static inline bool wb_equal(const void *a, const void *b, uint64_t size)
{
    const uint8_t *x = a, *y = b;

    for (; size; size--)
        if (*x++ != *y++)
            return false;
    return true;
}

static inline void wb_relax(void)
{
#if defined(__x86_64__)
    __asm__ volatile("pause" : : : "memory");
#elif defined(__aarch64__)
    __asm__ volatile("yield" : : : "memory");
#else
    __asm__ volatile("" : : : "memory");
#endif
}

/* Anonymous memory of this process; NULL = none. Without access it only keeps the addresses. */
static inline void *wb_private_memory(uint64_t bytes, bool access)
{
    int64_t at = wb_system_call(SYS_mmap, 0, (int64_t)bytes, access ? 3 : 0, 0x4022 /* private, anonymous, no reserve */,
                                -1, 0);

    return at < 0 && at > -4096 ? NULL : (void *)(uintptr_t)at;
}

/* A thread's name for ever: 12 bits of its number, 20 of the number's generation. Never 0. */
static inline uint32_t wb_identity(const struct wb_run *run)
{
    uint32_t owner = run->owner % WB_PARTICIPANTS;

    return run->self && owner ? owner | run->self->generation << 12 : 1u << 12;
}

/* Has the thread of this identity died? One load where it lives. Without a namespace nobody can tell: no. */
static inline bool wb_holder_gone(const struct wb_space *space, uint32_t identity)
{
    uint32_t owner = identity % WB_PARTICIPANTS;

    if (!space || !space->participants)
        return false;
    if (!owner)
        return identity != 1u << 12; /* no thread: somebody damaged the word */
    return wb_dead(space, owner) || WB_LOAD(&space->participants[owner].generation) << 12 != (identity & ~0xfffu);
}

/* A lock word names its holder. 0: taken; 1: taken from a dead holder, whose half-done work must be looked after;
 * -EBUSY: this thread holds it already (a signal handler interrupted itself). */
static inline int64_t wb_take_word(const struct wb_run *run, const struct wb_space *space, uint32_t *word)
{
    const uint32_t me = wb_identity(run);

    for (uint32_t spins = 0;; spins++) {
        uint32_t holder = 0;

        if (__atomic_compare_exchange_n(word, &holder, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return 0;
        if (holder == me)
            return -EBUSY;
        if (wb_holder_gone(space, holder) &&
            __atomic_compare_exchange_n(word, &holder, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return 1;
        wb_relax();
        if (spins % 64 == 63)
            wb_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
}

/* Around what reads by index what others may free, outside programs: true = it began one. */
static inline bool wb_read_begin(struct wb_run *run)
{
    if (!run->self || WB_PEEK(&run->self->epoch))
        return false;
    WB_PUT(&run->self->epoch, WB_LOAD(run->space->epoch));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return true;
}

static inline void wb_read_end(struct wb_run *run, bool began)
{
    if (began)
        WB_STORE(&run->self->epoch, 0ull);
}

static inline void wb_give_word(uint32_t *word)
{
    WB_STORE(word, 0u);
}

#endif
