/* State of the process: the one written global of this folder (process.c).
 *
 * A signal handler is given nothing but the signal, so the previous handlers to chain to must be found without an
 * argument. Functions that the JIT inlines as bitcode do not touch it. wb_process_start fills it once per process; it
 * is its own again after fork, and gone after exec.
 */
#ifndef WB_PROCESS_H
#define WB_PROCESS_H

#include "runtime.h"

struct wb_kernel_sigaction {
    void *handler;
    uint64_t flags;
    void *restorer;
    uint64_t mask;
};

struct wb_process {
    int64_t (*clock_gettime)(int64_t clock, int64_t time[2]); /* of the vDSO; NULL = by system call */
    int64_t (*getcpu)(uint32_t *cpu, uint32_t *node, void *);
    uint32_t started; /* 0 no, 1 in work, 2 yes */
    uint32_t has_rdpid;
    uint64_t tick_rate;       /* of the kernel's jiffies; 0 = unknown */
    uint32_t probe;           /* how pages are tried: WB_PROBE_* */
    uint64_t start_stack;     /* of the first thread, as in struct mm_struct */
    uint64_t pid_ns[2];       /* device and inode of /proc/self/ns/pid */
    uint32_t handlers;        /* 1 = our fault handlers are installed */
    uint32_t faults;          /* bad reads that our handler caught */
    struct wb_kernel_sigaction previous[2]; /* of SIGSEGV, SIGBUS: to chain to */
};
#define WB_PROBE_NONE 0 /* not at all: only reads that our handler would catch are done */
#define WB_PROBE_MASK 1 /* rt_sigprocmask with an operation that does not exist, which Linux copies the mask for first */
#define WB_PROBE_READ 2 /* process_vm_readv */
extern struct wb_process wb_process;

/* Fills wb_process; installs the fault handlers when asked. 0 or a negative errno. Safe to call again, from any thread. */
int64_t wb_process_start(uint32_t with_handlers);
static inline void wb_process_ready(void) {
    if (__builtin_expect(WB_LOAD(&wb_process.started) != 2, 0))
        wb_process_start(0);
}
/* Puts the previous handlers back, if ours are still in place: 1 = done, 0 = others are installed now. */
int64_t wb_process_stop(void);
/* Whether a fault of the calling thread would reach our handler: two or three system calls. */
uint32_t wb_process_armed(void);

#endif
