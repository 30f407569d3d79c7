/* The workbench leaves: threads, kernel and tables forget this memory, and it is unmapped (attach/leaving.py).
 *
 * Called by a held thread of the target while all others are held too and none is inside a program or this code, but
 * for threads that sleep in a system call that the agent or a trampoline makes: they find no programs when they wake.
 */
#include "../../runtime/process.h"
#include "../../runtime/space.h"
#include "../../runtime/system.h"
#include "calls.h"
#include "table.h"

#define HANDLER_LOST 1 /* other handlers were installed since, and may call ours */
#define HEAD_IS_OURS 2 /* a thread without a C library has the head of its robust list in its task */

int64_t wb_signals_leave(void);
int64_t wb_ticks_leave(void);

WB_EXPORT const uint64_t wb_task_size = sizeof(struct wb_task);
#if defined(__x86_64__)
extern char wb_restorer[] __attribute__((visibility("hidden")));
WB_EXPORT const uint64_t wb_handlers_return = (uint64_t)wb_restorer; /* where the handlers of signals return to */
#endif
static struct wb_chain no_programs;
static int64_t lost;

static bool has_head(const struct wb_task *task) {
    uint64_t head = 0, size = 0;
    return task->tid &&
           !wb_system_call(SYS_get_robust_list, task->tid, (int64_t)&head, (int64_t)&size, 0, 0, 0) &&
           head - (uint64_t)task < sizeof *task;
}

/* Bits of the above, or -EBUSY: a thread is in the middle of a change of its robust list, or a timer's signal may come.
 * `copied`: return addresses may have been copied, so functions may still return to trampolines. */
WB_EXPORT int64_t wb_agent_leave(uint32_t copied) {
    int64_t found = 0;
    if (!wb_ticks_leave())
        return -16;
    for (struct wb_task *task = (struct wb_task *)wb_agent.tasks; task; task = (struct wb_task *)task->run.next) {
        if (wb_current(task) && wb_leave_of(&task->run, task->tid))
            return -16;
        task->run.self = NULL;
        task->run.busy = 0;
        task->epoch = task->mine = &task->reserved[0];
        task->word = &task->tid;
        WB_STORE(&task->era, 0);
        for (uint32_t i = 0; i < task->depth; i++)
            task->frames[i].chain = &no_programs;
        if (!copied)
            task->depth = 0;
        if (has_head(task))
            found |= HEAD_IS_OURS;
    }
#if defined(__x86_64__)
    WB_STORE(&wb_calls.chain, NULL);
#endif
    wb_agent.named = 0;
    __builtin_memset(&wb_agent.space, 0, sizeof wb_agent.space);
    if (!wb_process_stop())
        lost = HANDLER_LOST;
    if (!wb_signals_leave())
        lost = HANDLER_LOST;
    return found | lost;
}

/* Unmap ranges, each first and end; `tasks`: what threads have as well. 0 or the first error. */
WB_EXPORT int64_t wb_agent_free(const uint64_t (*ranges)[2], uint64_t count, uint32_t tasks) {
    int64_t error = 0;
    for (uint64_t i = 0; i < count; i++) {
        int64_t now = wb_system_call(
            SYS_munmap, (int64_t)ranges[i][0], (int64_t)(ranges[i][1] - ranges[i][0]), 0, 0, 0, 0);
        error = error ? error : now;
    }
    if (!tasks)
        return error;
    struct wb_task *task = (struct wb_task *)wb_agent.tasks;
    wb_agent.tasks = 0;
    while (task) {
        struct wb_task *next = (struct wb_task *)task->run.next;
        int64_t now = wb_system_call(SYS_munmap, (int64_t)task, sizeof *task, 0, 0, 0, 0);
        error = error ? error : now;
        task = next;
    }
    return error;
}
