/* Memory that may not be there (safe_read.c). */
#ifndef WB_SAFE_READ_H
#define WB_SAFE_READ_H

#include "types.h"

/* In a handler of SIGSEGV or SIGBUS: if the faulting instruction is one of ours, the context is changed so that it
 * returns an error, and the handler has only to return. */
bool wb_safe_recover(void *ucontext);

/* Whether 8 bytes at an aligned address can be read, asked in one of the ways WB_PROBE_*. */
bool wb_probe(uint32_t how, uint64_t address);

#endif
