/* One program of one attachment on the calling thread. */
#ifndef WB_AGENT_RUN_H
#define WB_AGENT_RUN_H

#include "agent.h"

bool wb_execute_begin(struct wb_program *program, void *ctx, struct wb_run *run);
void wb_execute_end(struct wb_run *run);

/* False = it did not run: detached, or the thread is in another program. */
static inline bool wb_run_link(
    struct wb_task *task, struct wb_link *link, struct wb_registers *image, uint64_t *result) {
    struct wb_run *run = &task->run;
    struct wb_program *program = WB_LOAD(&link->program);
    if (__builtin_expect(!program, 0))
        return false;
    if (__builtin_expect(!wb_execute_begin(program, image, run), 0)) {
        task->missed[link->id % WB_LINKS]++;
        return false;
    }
    task->hits[link->id % WB_LINKS]++;
    run->link = link;
    run->frame = image;
    *result = WB_LOAD(&program->entry)(image, run);
    run->frame = NULL;
    wb_execute_end(run);
    return true;
}

#endif
