/* What a thread that runs programs keeps between runs: the last bytes of run->scratch. */
#ifndef WB_THREAD_H
#define WB_THREAD_H

#include "platform.h"
#include "types.h"

#define WB_PAGES 64       /* entries of the cache of readable pages */
#define WB_STACK_DEPTH 127 /* kernel.perf_event_max_stack */
#define WB_FORMAT_BINARY 512
#define WB_FORMAT_TEXT 1024

struct wb_thread {
    uint64_t pages[WB_PAGES]; /* page number | 1 << 63: readable when it was last tried */
    uint64_t pages_at;        /* CLOCK_MONOTONIC_COARSE when the cache was emptied */
    uint32_t armed;           /* a fault of this thread reached our handler when that was last looked at */
    uint32_t formats;         /* nesting of formatting: 0 or 1 */
    struct task_struct task;
    struct mm_struct mm;
    struct signal_struct signal;
    struct uprobe_task probes;
    struct pt_regs no_registers; /* always zero */
    uint64_t addresses[WB_STACK_DEPTH + 1];
    char binary[WB_FORMAT_BINARY];
    char text[WB_FORMAT_TEXT];
};
_Static_assert(sizeof(struct wb_thread) <= WB_SCRATCH_THREAD, "the thread's state must fit its place");

static inline struct wb_thread *wb_thread(struct wb_run *run) {
    return run->scratch ? (struct wb_thread *)(run->scratch + WB_SCRATCH - WB_SCRATCH_THREAD) : 0;
}

#endif
