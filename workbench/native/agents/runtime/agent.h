/* What the agent shares with the workbench process that put it into a target (workbench/runtime/attach/layout.py).
 *
 * The agent has no libc, no thread-local storage and no undefined symbol. It never makes a system call on a path that a
 * thread takes more than once. All of it lies in private memory of the target.
 */
#ifndef WB_AGENT_H
#define WB_AGENT_H

#include "../../runtime/runtime.h"

#define WB_LINKS 4096  /* attachments of one agent: link->id indexes a thread's counters */
#define WB_FRAMES 512  /* probed functions that one thread is inside of, with a return probe */
#define WB_TABLE 16384 /* threads at a time, twice */

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
};

/* kinds of wb_link */
#define WB_LINK_ENTRY 1
#define WB_LINK_RETURN 2
#define WB_LINK_OVERRIDE 3
#define WB_LINK_REPLACE 4

/* A probed function that has not returned: where its return address was, what it was. */
struct wb_frame {
    uint64_t place, address;
    struct wb_site *site;
    struct wb_chain *chain; /* as it was at entry */
};

/* A thread of the target, found by its thread pointer. */
struct wb_task {
    struct wb_run run; /* first */
    uint64_t pointer;
    uint32_t era, depth; /* of the process (fork makes a new one); frames in use */
    uint64_t lost;       /* returns that could not be followed */
    uint64_t reserved[4];
    struct wb_frame frames[WB_FRAMES];
    uint64_t hits[WB_LINKS], missed[WB_LINKS];
    uint8_t scratch[WB_SCRATCH];
};

/* The agent's state as the workbench reads and writes it; at the symbol wb_agent. */
struct wb_agent {
    uint64_t enter, returned; /* addresses of the code that trampolines call */
    uint64_t threads;         /* first of the list of blocks of threads, by run.reserved[9] */
    uint64_t missed;          /* hits of threads without a block */
    struct wb_space *space;   /* NULL: no namespace */
    uint32_t era, pad;
    uint64_t lost_threads;
};

extern struct wb_agent wb_agent;

uint64_t wb_hit(struct wb_site *site, struct wb_registers *image);
uint64_t wb_came_back(struct wb_registers *image);

#endif
