/* What bpf_trace_printk writes: records of a ring buffer in the namespace, one a line. */
#ifndef WB_PRINTK_H
#define WB_PRINTK_H

#include <stdint.h>

struct wb_printk_line {
    uint64_t time; /* ns, CLOCK_MONOTONIC */
    uint32_t pid, tid, cpu, length;
    char comm[16];
    char text[]; /* `length` bytes, no NUL */
};

#endif
