/* A site was hit: run its programs; and what the workbench has done by a thread of the target (wb_agent_*). */
#include "../../runtime/maps.h"
#include "../../runtime/process.h"
#include "../../runtime/space.h"
#include "agent.h"
#include "run.h"
#include "table.h"

static __attribute__((noinline)) uint64_t hit_any(struct wb_site *site, struct wb_registers *image) {
    if (site->flags & WB_SITE_MIDDLE)
        __asm__ volatile("cld");
    struct wb_chain *chain = WB_LOAD(&site->chain);
    struct wb_task *task = wb_task_of_this_thread();
    if (__builtin_expect(!task, 0))
        return 0;
    if (__builtin_expect(site->flags & WB_SITE_UNWINDER, 0))
        wb_put_back(task, image->sp);
    if (__builtin_expect(!chain, 0))
        return 0;
    uint64_t skip = 0;
    for (uint32_t i = 0; i < chain->entries; i++) {
        struct wb_link *link = chain->links[i];
        uint64_t result;
        if (!wb_run_link(task, link, image, &result))
            continue;
        if (link->kind == WB_LINK_REPLACE) {
            image->ax = result;
            skip = WB_SKIP;
        } else if (task->run.overridden && link->kind == WB_LINK_OVERRIDE) {
            image->ax = task->run.changed;
            skip = WB_SKIP;
        }
    }
    if (chain->returns && !skip && wb_push_return(task, site, chain, image))
        return WB_FOLLOW;
    return skip;
}

_Static_assert(offsetof(struct wb_run, tail_calls) == offsetof(struct wb_run, busy) + 4, "wb_hit reads both at once");

/* WB_SKIP, WB_FOLLOW or 0; image->ax is the result of a function that is skipped.
 *
 * The usual case is inlined: one entry probe, a known thread that runs no program. A hit costs as much as it stores, so
 * nothing is stored that is there already, and no value but `run` lives across a call (which would be saved once more).
 */
uint64_t wb_hit(struct wb_site *site, struct wb_registers *image) {
    struct wb_link *link = WB_LOAD(&site->only);
    if (__builtin_expect(!link, 0))
        return hit_any(site, image);
    struct wb_task *task = wb_known_task();
    if (__builtin_expect(!task, 0))
        return hit_any(site, image);
    struct wb_run *run = &task->run;
    struct wb_program *program = WB_LOAD(&link->program);
    uint64_t state; /* busy and tail_calls */
    __builtin_memcpy(&state, &run->busy, sizeof state);
    if (__builtin_expect(!program || state || run->flags & WB_RUN_SLOW, 0))
        return hit_any(site, image);
    run->busy = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->stack = (uint64_t)image;
    run->ctx = image;
    run->frame = image;
    run->link = link;
    if (__builtin_expect(run->program != program, 0)) {
        run->program = program;
        run->maps = program->maps;
    }
    if (__builtin_expect(run->budget != program->budget, 0))
        run->budget = program->budget;
    WB_PUT(task->mine, WB_LOAD(task->epoch));
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    task->hits[link->id]++;
    WB_LOAD(&program->entry)(image, run);
    if (__builtin_expect((run->signals[0] | run->signals[1] | run->checked | run->stopped) != 0, 0)) {
        if (run->stopped)
            wb_count_stop(run);
        run->checked = 0;
        wb_execute_end(run);
        return 0;
    }
    WB_STORE(task->mine, 0);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    run->busy = 0;
    return 0;
}

/* Called by a held thread of the target (remote.py). */
WB_EXPORT int64_t wb_agent_start(uint32_t with_handlers) { return wb_process_start(with_handlers); }

WB_EXPORT int64_t wb_agent_stop(void) { return wb_process_stop(); }

WB_EXPORT int64_t wb_agent_space(void *memory, uint64_t length) {
    int64_t error = wb_space_open(&wb_agent.space, memory, length);
    if (!error)
        WB_STORE(&wb_agent.named, 1);
    return error;
}

WB_EXPORT int64_t wb_agent_map(struct wb_map *map, void *memory, uint64_t length) {
    return wb_map_open(map, memory, length, &wb_agent.space);
}
