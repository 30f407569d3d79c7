/* Functions that helpers, maps and execution share across files, beyond the tables of runtime.h. */
#ifndef WB_TYPES_H
#define WB_TYPES_H

#include "runtime.h"

/* Errors and flags, the kernel's numbers (include/uapi/asm-generic/errno*.h, include/uapi/linux/bpf.h). */
#define WB_EPERM 1
#define WB_ENOENT 2
#define WB_E2BIG 7
#define WB_EAGAIN 11
#define WB_EFAULT 14
#define WB_EBUSY 16
#define WB_EINVAL 22
#define WB_ENOSPC 28
#define WB_ERANGE 34
#define WB_EDEADLK 35
#define WB_EOPNOTSUPP 95

/* --- rings, perf arrays, stack traces, program arrays, task storage: the rooms of these map types ------------------ */

#define WB_LATER __attribute__((weak)) /* helpers do without it where it is not linked in */

/* A record of `size` bytes, NULL = full or a bad map. It must be committed: flags BPF_RB_NO_WAKEUP, BPF_RB_FORCE_WAKEUP,
 * WB_RING_DISCARD. */
WB_LATER void *wb_ring_reserve(struct wb_run *run, struct wb_map *map, uint64_t size, uint64_t flags);
WB_LATER void wb_ring_commit(struct wb_run *run, void *record, uint64_t flags);
#define WB_RING_DISCARD (1ull << 32)
/* bpf_ringbuf_query: BPF_RB_AVAIL_DATA, _RING_SIZE, _CONS_POS, _PROD_POS; 0 for another flag. */
WB_LATER uint64_t wb_ring_query(struct wb_run *run, struct wb_map *map, uint64_t flags);
/* bpf_user_ringbuf_drain: calls back with a struct wb_dynptr for each sample; samples seen or an error. */
WB_LATER int64_t wb_user_ring_drain(
    struct wb_run *run, struct wb_map *map, wb_callback callback, uint64_t context, uint64_t flags);
/* bpf_perf_event_output once flags were checked for unknown bits. */
WB_LATER int64_t wb_perf_output(
    struct wb_run *run, struct wb_map *map, uint64_t flags, const void *data, uint64_t size);
/* The id of a stack after bpf_get_stackid: `flags` are BPF_F_FAST_STACK_CMP and BPF_F_REUSE_STACKID. */
WB_LATER int64_t wb_stack_id(
    struct wb_run *run, struct wb_map *map, const uint64_t *addresses, uint32_t count, uint64_t flags);
/* The running thread's value in a task storage map; `initial` may be NULL. */
WB_LATER void *wb_storage_get(struct wb_run *run, struct wb_map *map, const void *initial, uint64_t flags);
WB_LATER int64_t wb_storage_delete(struct wb_run *run, struct wb_map *map);

/* --- locks ----------------------------------------------------------------------------------------------------------- */

/* struct bpf_spin_lock in shared memory: 0 = free, else who has it. A dead holder's lock is taken over. */
void wb_spin_acquire(struct wb_run *run, uint32_t *lock);
void wb_spin_release(struct wb_run *run, uint32_t *lock);

/* Offset of the lock in the values of a map, + 1; 0 = none. Whoever can write the segment can change it at any time. */
static inline uint32_t wb_lock_offset(const struct wb_map *map) {
    uint32_t at = __atomic_load_n(&((const struct wb_segment *)map->segment)->spin_lock, __ATOMIC_RELAXED);
    return at && (at - 1) % 4 == 0 && map->value_size >= 4 && at - 1 <= map->value_size - 4 ? at : 0;
}

/* The lock of a value; NULL = values have none. What leaves the map has 0 there, what enters does not change it. */
static inline uint32_t *wb_lock_of(const struct wb_map *map, void *value) {
    uint32_t at = wb_lock_offset(map);
    return at ? (uint32_t *)((uint8_t *)value + at - 1) : (uint32_t *)0;
}

/* --- dynptrs ---------------------------------------------------------------------------------------------------------- */

/* What a struct bpf_dynptr holds, in the kernel's layout: size in 24 bits, type in bits 28-30, bit 31 = read only. */
struct wb_dynptr {
    void *data;
    uint32_t size, offset;
};
#define WB_DYNPTR_LOCAL (1u << 28)
#define WB_DYNPTR_RINGBUF (2u << 28)
#define WB_DYNPTR_READ_ONLY (1u << 31)
#define WB_DYNPTR_MAX 0xffffffu

/* --- memory that may not be there ------------------------------------------------------------------------------------- */

/* Copies from memory of this process that may not be readable: 0 or -EFAULT, with `to` undefined. */
int64_t wb_safe_copy(struct wb_run *run, void *to, const void *from, uint64_t size);
/* After strncpy_from_user_nofault: bytes copied with the NUL that is always written, or -EFAULT. */
int64_t wb_safe_string(struct wb_run *run, char *to, const char *from, uint64_t size);
/* Writes: 0 or -EFAULT. */
int64_t wb_safe_write(struct wb_run *run, void *to, const void *from, uint64_t size);

/* --- time, ids ---------------------------------------------------------------------------------------------------------- */

uint64_t wb_clock(int32_t clock); /* ns; CLOCK_* */
uint32_t wb_current_cpu(uint32_t *node);

/* --- text ---------------------------------------------------------------------------------------------------------------- */

/* snprintf after the kernel's bpf_bprintf_prepare and bstr_printf: the length that the whole text has, without NUL, or
 * a negative errno. At most `size` bytes with NUL are written. */
int64_t wb_format(struct wb_run *run, char *to, uint64_t size, const char *format, uint64_t format_size,
                  const uint64_t *arguments, uint32_t count);

#endif
