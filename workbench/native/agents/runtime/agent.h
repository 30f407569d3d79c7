/* What the agent shares with the workbench process that put it into a target (workbench/runtime/attach/layout.py).
 *
 * The agent has no libc, no thread-local storage and no undefined symbol. A thread makes system calls in it only when
 * it is met for the first time (and in the first child of a fork). All of it lies in private memory of the target.
 */
#ifndef WB_AGENT_H
#define WB_AGENT_H

#include "../../runtime/runtime.h"

#define WB_LINKS 16384 /* attachments of one agent: link->id indexes a thread's counters */
#define WB_FRAMES 512  /* probed functions with a return probe that one thread is inside of */
#define WB_TABLE 16384 /* threads at a time, and room to spare */

/* struct pt_regs of x86-64: what programs see. */
struct wb_registers {
    uint64_t r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

/* What runs at a site, in order; replaced as a whole by one store to wb_site.chain. */
struct wb_chain {
    uint32_t entries, returns;
    struct wb_link *links[]; /* entries first, then returns */
};

#define WB_SITE_MIDDLE 1u   /* not at a function's first instruction: flags are alive */
#define WB_SITE_UNWINDER 2u /* an unwinder's entry: swapped return addresses are put back before it looks */

/* One patched place. Offsets are part of the contract with the trampolines. */
struct wb_site {
    uint64_t address;       /*  0 */
    uint64_t red_zone;      /*  8  bytes that the trampoline left free below the stack pointer */
    struct wb_chain *chain; /* 16 */
    uint32_t flags, pad;    /* 24 28 */
    struct wb_link *only;   /* 32  the chain is this entry probe, flags and wb_agent.early are 0: the fast way; else NULL */
    uint64_t back;          /* 40  where the trampoline lets the function return to */
};

/* What wb_hit tells the trampoline (entry_x86_64.c makes flags of it): run the function; */
#define WB_SKIP 1   /* do not; */
#define WB_FOLLOW 2 /* swap its return address. */

/* kinds of wb_link */
#define WB_LINK_ENTRY 1
#define WB_LINK_RETURN 2
#define WB_LINK_OVERRIDE 3
#define WB_LINK_REPLACE 4

/* A probed function that has not returned: where on the stack its return address was, and what it was. */
struct wb_frame {
    uint64_t place, address;
    struct wb_chain *chain; /* as it was at entry */
    uint64_t back;          /* what is at `place` instead */
};

/* A thread of the target, found by its thread pointer. Offsets are part of the contract with layout.py. */
struct wb_task {
    struct wb_run run;       /* first; run.next: the list of all tasks */
    uint64_t pointer;        /* 256 */
    uint64_t era;            /* 264  that the thread joined in, see wb_alive; 0 = it has not */
    uint32_t *word;          /* 272  holds `tid` while the thread lives: the participant's futex word */
    uint32_t tid, depth;     /* 280  depth: frames in use */
    uint64_t lost;           /* 288  returns that could not be followed */
    uint64_t beginning;      /* 296  era that the thread is joining in */
    uint64_t patience;       /* 304  hits until it is tried again */
    uint64_t *epoch, *mine;  /* 312  the namespace's epoch and this thread's; words of no meaning without one */
    uint64_t reserved[5];    /* 328 */
    uint64_t counted;        /* 368  era that `hits` and `missed` belong to; another one: they are the parent's */
    uint64_t forking;        /* 376  between a call that makes a child in this memory and its return */
    struct wb_frame frames[WB_FRAMES]; /* 384 */
    uint64_t hits[WB_LINKS], missed[WB_LINKS], over_budget[WB_LINKS]; /* the last: hits whose program was cut short */
    uint64_t call[12]; /* what a program at a system call gets (calls.c) */
    uint8_t scratch[WB_SCRATCH] __attribute__((aligned(64)));
};

/* The agent's state as the workbench reads and writes it. */
struct wb_agent {
    uint64_t enter, returned; /*  0  addresses of the code that trampolines call and jump to */
    uint64_t tasks;           /* 16  first of the list of struct wb_task */
    uint64_t missed;          /* 24  hits of threads that could not be given a task */
    uint32_t era, named;      /* 32  the last one; 1 = `space` is open */
    uint64_t early;           /* 40  1 = the process may have threads without a thread control block */
    struct wb_space space;    /* 48 */
};
extern struct wb_agent wb_agent;
/* The first word is the process's era. Fork wipes it in the child (MADV_WIPEONFORK, set by the workbench): 0 is a new
 * process, which begins the next era. */
extern uint64_t wb_alive[512];

struct wb_task *wb_task_slow(uint64_t pointer);
bool wb_push_return(struct wb_task *task, struct wb_site *site, struct wb_chain *chain, struct wb_registers *image);
void wb_put_back(struct wb_task *task, uint64_t stack);
__attribute__((used)) uint64_t wb_hit(struct wb_site *site, struct wb_registers *image);
__attribute__((used)) uint64_t wb_came_back(struct wb_registers *image);

/* A thread control block begins with its own address. `early`: some thread may not have one yet, and reading it would
 * be a fault; rdfsbase costs 2 ns more. */
static inline uint64_t wb_thread_pointer(void) {
    uint64_t pointer;
    if (__builtin_expect(wb_agent.early, 0))
        __asm__ volatile("rdfsbase %0" : "=r"(pointer));
    else
        __asm__ volatile("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
}

#endif
