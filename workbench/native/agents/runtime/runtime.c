/* The agent: finds the thread, runs the programs of a site. */
#include "agent.h"
#include "linux.h"

struct wb_entry_of_table {
    uint64_t pointer;
    struct wb_task *thread; /* NULL while its thread is setting it up */
};

static struct wb_entry_of_table table[WB_TABLE];
/* A page that the kernel wipes in a forked child (MADV_WIPEONFORK, set by the workbench): 0 = a new process. */
WB_EXPORT uint64_t wb_alive[512] __attribute__((aligned(4096))) = {0};

static inline uint64_t thread_pointer(void) {
    uint64_t pointer;
    __asm__("rdfsbase %0" : "=r"(pointer));
    return pointer;
}

static inline uint32_t place_of(uint64_t pointer) {
    return (uint32_t)((pointer * 0x9e3779b97f4a7c15ull) >> 50);
}

static struct wb_task *begin_thread(uint64_t pointer) {
    struct wb_entry_of_table *entry = NULL;
    for (uint32_t i = 0; i < 64 && pointer; i++) {
        struct wb_entry_of_table *one = &table[(place_of(pointer) + i) % WB_TABLE];
        uint64_t empty = 0;
        if (WB_LOAD(&one->pointer) == pointer) /* a signal handler met its own thread being set up */
            break;
        if (__atomic_compare_exchange_n(&one->pointer, &empty, pointer, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            entry = one;
            break;
        }
    }
    if (!entry) {
        __atomic_fetch_add(&wb_agent.missed, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    struct wb_task *thread = linux_map(sizeof *thread);
    if (!thread) {
        __atomic_fetch_add(&wb_agent.missed, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    thread->pointer = pointer;
    thread->run.helpers = 0;
    thread->run.scratch = thread->scratch;
    uint64_t next = WB_LOAD(&wb_agent.threads);
    do
        thread->run.reserved[9] = next;
    while (!__atomic_compare_exchange_n(&wb_agent.threads, &next, (uint64_t)thread, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE));
    WB_STORE(&entry->thread, thread);
    return thread;
}

static inline struct wb_task *this_thread(void) {
    uint64_t pointer = thread_pointer();
    struct wb_entry_of_table *entry = &table[place_of(pointer)];
    if (__builtin_expect(entry->pointer == pointer && entry->thread != NULL, 1))
        return entry->thread;
    for (uint32_t i = 1; i < 64; i++) {
        entry = &table[(place_of(pointer) + i) % WB_TABLE];
        if (entry->pointer == pointer && entry->thread)
            return entry->thread;
        if (!entry->pointer)
            break;
    }
    return begin_thread(pointer);
}

uint64_t wb_hit(struct wb_site *site, struct wb_registers *image) {
    struct wb_chain *chain = WB_LOAD(&site->chain);
    if (!chain)
        return 0;
    struct wb_task *thread = this_thread();
    if (!thread)
        return 0;
    struct wb_run *run = &thread->run;
    if (run->busy) {
        for (uint32_t i = 0; i < chain->entries; i++)
            thread->missed[chain->links[i]->id % WB_LINKS]++;
        return 0;
    }
    run->busy = 1;
    for (uint32_t i = 0; i < chain->entries; i++) {
        struct wb_link *link = chain->links[i];
        struct wb_program *program = WB_LOAD(&link->program);
        thread->hits[link->id % WB_LINKS]++;
        run->maps = program->maps;
        run->budget = program->budget;
        run->ctx = image;
        run->link = link;
        WB_LOAD(&program->entry)(image, run);
    }
    run->busy = 0;
    return 0;
}

uint64_t wb_came_back(struct wb_registers *image) {
    (void)image;
    __builtin_trap();
}
