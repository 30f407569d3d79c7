/* Running a program on the calling thread: what a run begins and ends with.
 *
 * A program that is entered while another runs on the thread (a signal handler that hits a probe) does not run and is
 * counted as missed, as the kernel's bpf_prog_active does. A run that was left by longjmp or an exception is noticed by
 * the next one: it begins above the stack that the abandoned one had.
 */
#include "process.h"
#include "space.h"
#include "system.h"
#include "types.h"

#define ABANDONED_RANGE (8u << 20)
#define SS_ONSTACK_FLAG 1

struct alternate_stack {
    void *address;
    int32_t flags;
    uint64_t size;
};

static bool abandoned(const struct wb_run *run) {
    uint64_t here = (uint64_t)__builtin_frame_address(0);
    if (here <= run->stack || here - run->stack > ABANDONED_RANGE)
        return false;
    struct alternate_stack now = {0, 0, 0};
    if (wb_system_call(SYS_sigaltstack, 0, (int64_t)&now, 0, 0, 0, 0))
        return false;
    return !(now.flags & SS_ONSTACK_FLAG);
}

static void send(struct wb_run *run) {
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    int64_t tid = wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
    uint64_t process = run->signals[0], thread = run->signals[1];
    run->signals[0] = run->signals[1] = 0;
    for (; process; process &= process - 1)
        wb_system_call(SYS_kill, pid, __builtin_ctzll(process) + 1, 0, 0, 0, 0);
    for (; thread; thread &= thread - 1)
        wb_system_call(SYS_tgkill, pid, tid, __builtin_ctzll(thread) + 1, 0, 0, 0);
}

/* Begins a run: false = the thread is busy or has no slot for per-CPU maps; the program is missed. */
WB_EXPORT bool wb_execute_begin(struct wb_program *program, void *ctx, struct wb_run *run) {
    if (__builtin_expect(run->busy, 0)) {
        if (!abandoned(run))
            return false;
        wb_end(run);
    }
    run->busy = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->stack = (uint64_t)__builtin_frame_address(0);
    run->program = program;
    run->maps = program->maps;
    run->helpers = wb_helpers;
    run->budget = program->budget;
    run->ctx = ctx;
    run->tail_calls = 0;
    run->stopped = 0;
    run->overridden = 0;
    run->changed = 0;
    run->checked = 0;
    run->signals[0] = run->signals[1] = 0;
    if (__builtin_expect(!wb_begin(run), 0)) {
        run->busy = 0;
        return false;
    }
    return true;
}

WB_EXPORT void wb_execute_end(struct wb_run *run) {
    wb_end(run);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->busy = 0;
    if (__builtin_expect((run->signals[0] | run->signals[1]) != 0, 0))
        send(run);
}

/* Runs the program once; its r0. 0 when it was missed (counted at the link, which is the caller's to set). */
WB_EXPORT uint64_t wb_execute(struct wb_program *program, void *ctx, struct wb_run *run) {
    if (__builtin_expect(!wb_execute_begin(program, ctx, run), 0)) {
        if (run->link)
            __atomic_fetch_add((uint64_t *)&run->link->missed, 1, __ATOMIC_RELAXED);
        return 0;
    }
    uint64_t result = WB_LOAD(&program->entry)(ctx, run);
    wb_execute_end(run);
    return result;
}

/* Runs the program over `count` contexts that lie `stride` bytes apart. `results` may be NULL. Runs that were not missed. */
WB_EXPORT uint64_t wb_execute_many(struct wb_program *program,
                                   uint8_t *contexts,
                                   uint64_t stride,
                                   uint64_t count,
                                   uint64_t *results,
                                   struct wb_run *run) {
    uint64_t done = 0;
    for (uint64_t i = 0; i < count; i++) {
        void *ctx = contexts ? contexts + i * stride : 0;
        uint64_t result = 0;
        if (wb_execute_begin(program, ctx, run)) {
            result = WB_LOAD(&program->entry)(ctx, run);
            wb_execute_end(run);
            done++;
        }
        if (results)
            results[i] = result;
    }
    return done;
}

/* Runs the program `repeat` times on one context, like BPF_PROG_TEST_RUN; the whole time in ns. */
WB_EXPORT uint64_t wb_execute_repeat(
    struct wb_program *program, void *ctx, struct wb_run *run, uint64_t repeat, uint64_t *result) {
    uint64_t last = 0, began = wb_clock(1);
    for (uint64_t i = 0; i < repeat; i++)
        last = wb_execute(program, ctx, run);
    uint64_t time = wb_clock(1) - began;
    if (result)
        *result = last;
    return time;
}
