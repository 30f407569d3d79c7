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
    return &wb_table[(((pointer >> 6) * 0x9e3779b97f4a7c15ull >> 50) + probe) % WB_TABLE];
}

/* Still the thread that joined: its futex word holds its id, and no fork came between. */
static inline bool wb_current(const struct wb_task *task) {
    return task->state == WB_TASK_READY && WB_PEEK(&wb_alive[0]) &&
           (!task->run.self || WB_PEEK(&task->run.self->lock) == task->tid) && task->era == wb_agent.era;
}

static inline struct wb_task *wb_task_of_this_thread(void) {
    uint64_t pointer = wb_thread_pointer();
    for (uint32_t i = 0; i < 64; i++) {
        struct wb_slot *slot = wb_slot(pointer, i);
        if (__builtin_expect(slot->pointer == pointer, 1)) {
            struct wb_task *task = slot->task;
            if (__builtin_expect(task && wb_current(task), 1))
                return task;
            break;
        }
        if (!slot->pointer)
            break;
    }
    return wb_task_slow(pointer);
}

#endif
