/* From a thread pointer to the thread's task: a table that only grows, and what becomes of threads that end.
 *
 * A thread pointer is used again by a later thread (the C library keeps stacks). That is noticed by the participant's
 * futex word, which no longer holds the thread's id (space.c), and in a forked child by a page that fork wipes. The task
 * is then begun anew, but for the return addresses that it swapped: the child of a fork returns through them.
 */
#include "../../runtime/space.h"
#include "../../runtime/system.h"
#include "agent.h"
#include "table.h"

#define PROBES 64
#define RETRY 1000 /* hits after a thread could not join the namespace */
#define PAGE 4096ull
#define ADVICE_DONTNEED 4
#define MEMORY_READ_WRITE 3
#define MEMORY_PRIVATE_ANONYMOUS_NORESERVE 0x4022

struct wb_slot wb_table[WB_TABLE];
__attribute__((aligned(4096))) WB_EXPORT uint64_t wb_alive[512];

static struct wb_task *allocate(void) {
    int64_t at = wb_system_call(
        SYS_mmap, 0, sizeof(struct wb_task), MEMORY_READ_WRITE, MEMORY_PRIVATE_ANONYMOUS_NORESERVE, -1, 0);
    return at < 0 && at > -4096 ? NULL : (struct wb_task *)at;
}

static struct wb_task *add(uint64_t pointer) {
    for (uint32_t i = 0; i < PROBES; i++) {
        struct wb_slot *slot = wb_slot(pointer, i);
        uint64_t empty = 0;
        if (WB_LOAD(&slot->pointer) == pointer)
            return NULL; /* a signal handler met its own thread being set up, or there was no memory */
        if (!__atomic_compare_exchange_n(
                &slot->pointer, &empty, pointer, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        struct wb_task *task = allocate();
        if (!task)
            return NULL;
        task->pointer = pointer;
        task->word = &task->tid;
        uint64_t first = WB_LOAD(&wb_agent.tasks);
        do
            task->run.next = first;
        while (!__atomic_compare_exchange_n(
            &wb_agent.tasks, &first, (uint64_t)task, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
        WB_STORE(&slot->task, task);
        return task;
    }
    return NULL;
}

/* The child of a fork counts anew; pages go back to the kernel rather than being written. */
static void count_anew(struct wb_task *task, uint64_t era) {
    uint64_t start = (uint64_t)task->hits, end = (uint64_t)(task->over_budget + WB_LINKS);
    uint64_t low = (start + PAGE - 1) & ~(PAGE - 1), high = end & ~(PAGE - 1);
    if (task->counted) {
        __builtin_memset((void *)start, 0, low - start);
        __builtin_memset((void *)high, 0, end - high);
        if (wb_system_call(SYS_madvise, (int64_t)low, (int64_t)(high - low), ADVICE_DONTNEED, 0, 0, 0))
            __builtin_memset((void *)low, 0, high - low);
    }
    WB_STORE(&task->counted, era);
}

static bool begin(struct wb_task *task, uint64_t era) {
    struct wb_run *run = &task->run;
    uint32_t tid = (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
    uint32_t pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    bool forked = task->era && task->era != era && tid == pid;
    uint64_t next = run->next;
    task->beginning = era;
    WB_STORE(&task->era, 0); /* a signal handler that comes in now is missed */
    if (!forked)
        task->depth = 0;
    if (task->counted != era)
        count_anew(task, era);
    __builtin_memset(run, 0, sizeof *run);
    __builtin_memset(task->scratch + WB_SCRATCH - WB_SCRATCH_THREAD, 0, WB_SCRATCH_THREAD);
    run->next = next;
    run->helpers = wb_helpers;
    run->scratch = task->scratch;
    run->random[0] = __builtin_ia32_rdtsc() * 0x9e3779b97f4a7c15ull | 1;
    run->random[1] = task->pointer ^ tid;
    task->tid = tid;
    task->word = &task->tid;
    task->epoch = task->mine = &task->reserved[0];
    if (wb_agent.named) {
        if (wb_join(run, &wb_agent.space)) {
            task->patience = RETRY;
            WB_STORE(&task->beginning, 0);
            return false;
        }
        task->word = &run->self->lock;
        task->epoch = run->space->epoch;
        task->mine = &run->self->epoch;
    }
    WB_STORE(&task->era, era);
    WB_STORE(&task->beginning, 0);
    return true;
}

static uint64_t this_era(void) {
    uint64_t none = 0, next = (uint64_t)wb_agent.era + 1;
    if (__atomic_compare_exchange_n(&wb_alive[0], &none, next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        wb_agent.era = (uint32_t)next;
        return next;
    }
    return none;
}

/* The task of a thread that is new, or was forked, or has a dead thread's pointer, or not the first slot of the table.
 * NULL = the hit is missed. */
struct wb_task *wb_task_slow(uint64_t pointer) {
    struct wb_task *task = NULL;
    bool busy = false;
    if (!pointer)
        goto missed; /* no C library yet */
    uint64_t era = this_era();
    for (uint32_t i = 0; i < PROBES && !task; i++) {
        struct wb_slot *slot = wb_slot(pointer, i);
        if (!WB_LOAD(&slot->pointer))
            break;
        if (slot->pointer == pointer) {
            task = WB_LOAD(&slot->task);
            busy = !task;
        }
    }
    if (task && wb_current(task))
        return task;
    if (!task && !busy)
        task = add(pointer);
    if (!task || task->beginning == era)
        goto missed;
    if (task->patience)
        task->patience--;
    else if (begin(task, era))
        return task;
missed:
    __atomic_fetch_add(&wb_agent.missed, 1, __ATOMIC_RELAXED);
    return NULL;
}
