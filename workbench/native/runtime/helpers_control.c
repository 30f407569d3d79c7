/* Helpers that steer programs and the code they are attached to: loops, results, signals, arguments, locks. */
#include "helpers.h"
#include "space.h"
#include "system.h"

#define LOOPS_MAX (1u << 23)
#define SIGNALS 64
#define SPINS 64
#define NOBODY_FLAG 0x80000000u /* a lock holder without a number in a namespace: its thread id */

HELPER(loop) {
    (void)r5;
    uint32_t count = (uint32_t)r1;
    wb_callback callback = (wb_callback)r2;
    if (r4)
        return ERROR(WB_EINVAL);
    if (count > LOOPS_MAX)
        return ERROR(WB_E2BIG);
    for (uint32_t i = 0; i < count; i++) {
        if (!run->budget || run->stopped) {
            run->stopped |= WB_STOP_BUDGET;
            return i;
        }
        run->budget--;
        if (callback(i, r3, 0, 0, 0, run))
            return i + 1;
    }
    return count;
}

HELPER(override_return) {
    UNUSED(r1, r3, r4);
    (void)r5;
    run->changed = r2;
    run->overridden = 1;
    return 0;
}

HELPER(set_retval) {
    UNUSED(r2, r3, r4);
    (void)r5;
    run->changed = (uint64_t)(int64_t)(int32_t)r1;
    run->overridden = 1;
    return 0;
}

HELPER(get_retval) { NO_ARGUMENTS; return run->changed; }

/* Sent when the program has ended: a handler that leaves by longjmp must not leave a program behind. */
static uint64_t signal_later(uint64_t *pending, uint32_t number) {
    if (number > SIGNALS)
        return ERROR(WB_EINVAL);
    if (number)
        *pending |= 1ull << (number - 1);
    return 0;
}

HELPER(send_signal) {
    UNUSED(r2, r3, r4);
    (void)r5;
    return signal_later(&run->signals[0], (uint32_t)r1);
}

HELPER(send_signal_thread) {
    UNUSED(r2, r3, r4);
    (void)r5;
    return signal_later(&run->signals[1], (uint32_t)r1);
}

HELPER(get_attach_cookie) { NO_ARGUMENTS; return run->link ? run->link->cookie : 0; }
HELPER(get_func_ip) { NO_ARGUMENTS; return run->link ? run->link->function : 0; }

/* The context of tracing programs: the arguments, then the result; their number lies before them. */
HELPER(get_func_arg) {
    UNUSED(r4, r5, 0);
    const uint64_t *ctx = (const uint64_t *)r1;
    if ((uint32_t)r2 >= ctx[-1])
        return ERROR(WB_EINVAL);
    *(uint64_t *)r3 = ctx[(uint32_t)r2];
    return 0;
}

HELPER(get_func_ret) {
    UNUSED(r3, r4, r5);
    const uint64_t *ctx = (const uint64_t *)r1;
    *(uint64_t *)r2 = ctx[ctx[-1]];
    return 0;
}

HELPER(get_func_arg_cnt) { UNUSED(r2, r3, r4); (void)r5; return ((const uint64_t *)r1)[-1]; }

/* --- spin locks ------------------------------------------------------------------------------------------------------------ */

/* A participant's number and the low bits of its generation: a dead thread's number may be another's by now. */
#define NUMBER_BITS 12
#define GENERATION_MASK 0x7ffffu

static uint32_t lock_name(const struct wb_run *run) {
    if (run->self)
        return (run->self->generation & GENERATION_MASK) << NUMBER_BITS | run->owner;
    return NOBODY_FLAG | (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

/* A holder outside a namespace is a thread of this process: a lock in a private map. */
static bool holder_gone(const struct wb_run *run, uint32_t holder) {
    if (!(holder & NOBODY_FLAG)) {
        uint32_t number = holder % WB_PARTICIPANTS, generation = holder >> NUMBER_BITS;
        return run->space &&
               (wb_dead(run->space, number) ||
                (WB_LOAD(&run->space->participants[number].generation) & GENERATION_MASK) != generation);
    }
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    return wb_system_call(SYS_tgkill, pid, holder & ~NOBODY_FLAG, 0, 0, 0, 0) == -3;
}

WB_EXPORT void wb_spin_acquire(struct wb_run *run, uint32_t *lock) {
    uint32_t name = lock_name(run);
    for (uint64_t tries = 1;; tries++) {
        uint32_t holder = 0;
        if (__atomic_compare_exchange_n(
                lock, &holder, name, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        if (tries % SPINS)
            continue;
        if (holder_gone(run, holder) &&
            __atomic_compare_exchange_n(
                lock, &holder, name, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        wb_yield();
    }
}

WB_EXPORT void wb_spin_release(struct wb_run *run, uint32_t *lock) {
    (void)run;
    WB_STORE(lock, 0);
}

HELPER(spin_lock) { UNUSED(r2, r3, r4); (void)r5; wb_spin_acquire(run, (uint32_t *)r1); return 0; }
HELPER(spin_unlock) { UNUSED(r2, r3, r4); (void)r5; wb_spin_release(run, (uint32_t *)r1); return 0; }
