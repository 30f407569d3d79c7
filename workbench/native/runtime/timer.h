/* struct bpf_timer in a map value, and what is told to whoever fires timers (timer.c). */
#ifndef WB_TIMER_H
#define WB_TIMER_H

#include <stdint.h>

struct wb_timer {
    uint64_t state;    /* phase in bits 0-3, clock in 4-7, generation in 32-63 */
    uint64_t callback; /* address in the process that set it; 0 = none */
};

enum wb_timer_phase { WB_TIMER_NONE, WB_TIMER_IDLE, WB_TIMER_ARMED, WB_TIMER_RUNNING };
#define WB_TIMER_PHASE 15ull

/* A record of the namespace's ring `.timers`: a timer was started. Addresses are those of process `pid`. */
struct wb_timer_start {
    uint64_t expires; /* ns, CLOCK_MONOTONIC */
    uint64_t timer, state, callback, program;
    uint32_t pid, unused;
};

#endif
