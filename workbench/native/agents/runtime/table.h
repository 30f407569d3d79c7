/* The fast way to a task, inlined where a probe is hit. */
#ifndef WB_AGENT_TABLE_H
#define WB_AGENT_TABLE_H

#include "agent.h"

struct wb_slot {
    uint64_t pointer;
    struct wb_task *task; /* NULL while it is being made */
};
extern struct wb_slot wb_table[WB_TABLE] __attribute__((visibility("hidden")));

static inline struct wb_slot *wb_slot(uint64_t pointer, uint32_t probe) {
    /* Blocks of threads lie on pages of their own, most often a stack's length apart. */
    return &wb_table[((pointer >> 10) + probe) % WB_TABLE];
}

/* Still the thread that joined: its futex word holds its id, and no fork came between (the era is wiped then). */
static inline bool wb_current(const struct wb_task *task) {
    return task->era == WB_PEEK(&wb_alive[0]) && WB_PEEK(task->word) == task->tid;
}

/* The task of a thread in the first slot that it could have; NULL = ask again, slowly. */
static inline __attribute__((always_inline)) struct wb_task *wb_task_at(uint64_t pointer) {
    struct wb_slot *slot = wb_slot(pointer, 0);
    if (__builtin_expect(slot->pointer == pointer, 1)) {
        struct wb_task *task = slot->task;
        if (__builtin_expect(task && wb_current(task), 1))
            return task;
    }
    return NULL;
}

static inline struct wb_task *wb_task_of_this_thread(void) {
    uint64_t pointer = wb_thread_pointer();
    struct wb_task *task = wb_task_at(pointer);
    return __builtin_expect(task != NULL, 1) ? task : wb_task_slow(pointer);
}

/* Where every thread has a thread control block (the workbench sets wb_site.only there alone). */
static inline __attribute__((always_inline)) struct wb_task *wb_known_task(void) {
    uint64_t pointer;
    __asm__ volatile("mov %%fs:0, %0" : "=r"(pointer));
    return wb_task_at(pointer);
}

#endif
