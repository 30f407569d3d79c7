/* System calls of the target: what the trampolines of syscalls.py, the agent and the workbench share. */
#ifndef WB_AGENT_CALLS_H
#define WB_AGENT_CALLS_H

#include "agent.h"

#define WB_CALL_ANY (~0ull)

/* What a program gets. */
#define WB_CALL_RAW 0    /* two arguments of a raw tracepoint: registers; number (at entry) or result (at exit) */
#define WB_CALL_RECORD 1 /* the record of tracepoint/syscalls/ and tracepoint/raw_syscalls/ */

struct wb_call_hook {
    struct wb_link *link;
    uint64_t number; /* or WB_CALL_ANY */
    uint64_t form;
};

/* What runs at system calls, entries first; replaced as a whole while the process is held. */
struct wb_call_chain {
    uint32_t entries, exits;
    struct wb_call_hook hooks[];
};

/* Offsets are part of the contract with syscalls.py. */
struct wb_calls {
    uint64_t enter, leave, child; /*  0  addresses of the code that trampolines call */
    uint64_t wanted;              /* 24  of wb_call_wanted */
    struct wb_call_chain *chain;  /* 32 */
    uint64_t made;                /* 40  where a thread is that sleeps in a call that wb_call_enter makes */
};
extern struct wb_calls wb_calls;

/* By the low 16 bits of a number: 0 = the call goes straight on. */
extern uint8_t wb_call_wanted[1 << 16];

/* What wb_call_entered says: make the call with the image on the stack; */
#define WB_CALL_STRAIGHT 1 /* the trampoline makes it, with nothing of ours on the stack; */
#define WB_CALL_VFORK 2    /* the same, and tells the child from the parent (these are numbers of exits there); */
#define WB_CALL_CLONE 3
#define WB_CALL_CLONE3 4
#define WB_CALL_SKIP 5 /* it is not made: image->ax is its result */

#endif
