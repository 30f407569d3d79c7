/* Memory that may not be there (safe_read.c). */
#ifndef WB_SAFE_READ_H
#define WB_SAFE_READ_H

#include "types.h"

/* In a handler of SIGSEGV or SIGBUS: if the faulting instruction is one of ours, the context is changed so that it
 * returns an error, and the handler has only to return. */
bool wb_safe_recover(void *ucontext);

#endif
