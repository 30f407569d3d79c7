/* Stacks of the probed code by frame pointers (arch/x86/events/core.c perf_callchain_user, kernel/bpf/stackmap.c).
 *
 * There is no kernel stack here: without BPF_F_USER_STACK both helpers give -EOPNOTSUPP. So they do without a frame (a
 * test run, a timer).
 */
#include "helpers.h"
#include "thread.h"

#define SKIP_MASK 0xffull
#define USER_STACK (1ull << 8)
#define FAST_COMPARE (1ull << 9)
#define REUSE (1ull << 10)

#if defined(__x86_64__)
#define PC(regs) ((regs)->ip)
#define FRAME_POINTER(regs) ((regs)->bp)
#else
#define PC(regs) ((regs)->pc)
#define FRAME_POINTER(regs) ((regs)->regs[29])
#endif

/* At a function's first instruction its caller is not yet in a frame: the return address is on top of the stack, or in
 * the link register. */
static uint64_t caller(struct wb_run *run, const struct pt_regs *regs) {
    if (!run->link || run->link->function != PC(regs))
        return 0;
#if defined(__x86_64__)
    uint64_t address = 0;
    return wb_safe_copy(run, &address, (const void *)regs->sp, 8) ? 0 : address;
#else
    return regs->regs[30];
#endif
}

/* Addresses innermost first; how many. */
static uint32_t walk(struct wb_run *run, const struct pt_regs *regs, uint64_t *to, uint32_t most) {
    uint32_t count = 0;
    if (count < most)
        to[count++] = PC(regs);
    uint64_t first = caller(run, regs), frame[2], fp = FRAME_POINTER(regs);
    if (first && count < most)
        to[count++] = first;
    while (count < most) {
        if (wb_safe_copy(run, frame, (const void *)fp, sizeof frame))
            break;
        to[count++] = frame[1];
        fp = frame[0];
    }
    return count;
}

static uint32_t current(struct wb_run *run, struct wb_thread *thread) {
    return walk(run, run->frame, thread->addresses, WB_STACK_DEPTH);
}

static int64_t stack(struct wb_run *run, uint8_t *to, uint32_t size, uint64_t flags) {
    struct wb_thread *thread = wb_thread(run);
    uint32_t skip = flags & SKIP_MASK;
    if (flags & ~(SKIP_MASK | USER_STACK) || size % 8)
        return -WB_EINVAL;
    if (!(flags & USER_STACK) || !run->frame || !thread)
        return -WB_EOPNOTSUPP;
    uint32_t count = current(run, thread);
    if (count < skip)
        return -WB_EFAULT;
    uint32_t bytes = (count - skip) * 8;
    if (bytes > size)
        bytes = size;
    __builtin_memcpy(to, thread->addresses + skip, bytes);
    __builtin_memset(to + bytes, 0, size - bytes);
    return bytes;
}

HELPER(get_stack) {
    (void)r1, (void)r5;
    int64_t bytes = stack(run, (uint8_t *)r2, (uint32_t)r3, r4);
    if (bytes < 0)
        __builtin_memset((void *)r2, 0, (uint32_t)r3);
    return (uint64_t)bytes;
}

HELPER(get_stackid) {
    (void)r1, (void)r4, (void)r5;
    struct wb_map *map = (struct wb_map *)r2;
    struct wb_thread *thread = wb_thread(run);
    uint32_t skip = r3 & SKIP_MASK;
    if (r3 & ~(SKIP_MASK | USER_STACK | FAST_COMPARE | REUSE))
        return ERROR(WB_EINVAL);
    if (!(r3 & USER_STACK) || !run->frame || !thread || !wb_stack_id)
        return ERROR(WB_EOPNOTSUPP);
    uint32_t count = current(run, thread), most = map->value_size / 8;
    if (count <= skip)
        return ERROR(WB_EFAULT);
    count -= skip;
    return (uint64_t)wb_stack_id(
        run, map, thread->addresses + skip, count < most ? count : most, r3 & (FAST_COMPARE | REUSE));
}
