/* One program of one attachment on the calling thread. */
#ifndef WB_AGENT_RUN_H
#define WB_AGENT_RUN_H

#include "../../runtime/space.h"
#include "agent.h"

bool wb_execute_begin(struct wb_program *program, void *ctx, struct wb_run *run);
void wb_execute_end(struct wb_run *run);

/* wb_execute_begin and wb_execute_end (execute.c) for the usual case, inlined; what they leave zero is not set again. */
static inline __attribute__((always_inline)) bool wb_enter_program(struct wb_run *run, struct wb_program *program, struct wb_registers *image) {
    if (__builtin_expect(run->busy, 0))
        return wb_execute_begin(program, image, run);
    run->busy = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->tail_calls = 0;
    run->stack = (uint64_t)__builtin_frame_address(0);
    run->program = program;
    run->maps = program->maps;
    run->budget = program->budget;
    run->ctx = image;
    run->stopped = 0;
    run->overridden = 0;
    run->checked = 0;
    if (__builtin_expect(wb_begin(run), 1))
        return true;
    run->busy = 0;
    return false;
}

static inline void wb_leave_program(struct wb_run *run) {
    if (__builtin_expect((run->signals[0] | run->signals[1]) != 0, 0)) {
        wb_execute_end(run);
        return;
    }
    wb_end(run);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->busy = 0;
}

/* The run-time budget ended the program that has just returned; wb_hit expects that nothing is left of it. */
static inline void wb_count_stop(struct wb_run *run) {
    struct wb_task *task = (struct wb_task *)run;
    task->over_budget[run->link->id % WB_LINKS]++;
    run->stopped = 0;
}

/* False = it did not run: detached, or the thread is in another program. */
static inline __attribute__((always_inline)) bool wb_run_link(
    struct wb_task *task, struct wb_link *link, struct wb_registers *image, uint64_t *result) {
    struct wb_run *run = &task->run;
    struct wb_program *program = WB_LOAD(&link->program);
    if (__builtin_expect(!program, 0))
        return false;
    if (__builtin_expect(!wb_enter_program(run, program, image), 0)) {
        task->missed[link->id % WB_LINKS]++;
        return false;
    }
    task->hits[link->id % WB_LINKS]++;
    run->link = link;
    run->frame = image;
    *result = WB_LOAD(&program->entry)(image, run);
    if (__builtin_expect(run->stopped, 0))
        wb_count_stop(run);
    wb_leave_program(run);
    return true;
}

#endif
