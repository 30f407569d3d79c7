/* probe_read and its kin (kernel/trace/bpf_trace.c).
 *
 * There is one address space here: the _kernel variants read memory of the process as well, which is what the stack and
 * the map values of a program are. A page that the process has but that is not resident is read, where the kernel's
 * variants that may not sleep would fail.
 */
#include "helpers.h"

#define TO ((uint8_t *)r1)
#define SIZE ((uint32_t)r2)
#define FROM ((const void *)r3)

static uint64_t read_bytes(struct wb_run *run, uint8_t *to, uint32_t size, const void *from) {
    int64_t error = wb_safe_copy(run, to, from, size);
    if (error)
        __builtin_memset(to, 0, size);
    return (uint64_t)error;
}

static uint64_t read_text(struct wb_run *run, uint8_t *to, uint32_t size, const void *from) {
    int64_t length = wb_safe_string(run, (char *)to, from, size);
    if (length < 0)
        __builtin_memset(to, 0, size);
    return (uint64_t)length;
}

HELPER(probe_read) { UNUSED(r4, r5, 0); return read_bytes(run, TO, SIZE, FROM); }
HELPER(probe_read_user) { UNUSED(r4, r5, 0); return read_bytes(run, TO, SIZE, FROM); }
HELPER(probe_read_kernel) { UNUSED(r4, r5, 0); return read_bytes(run, TO, SIZE, FROM); }
HELPER(copy_from_user) { UNUSED(r4, r5, 0); return read_bytes(run, TO, SIZE, FROM); }
HELPER(probe_read_str) { UNUSED(r4, r5, 0); return read_text(run, TO, SIZE, FROM); }
HELPER(probe_read_user_str) { UNUSED(r4, r5, 0); return read_text(run, TO, SIZE, FROM); }
HELPER(probe_read_kernel_str) { UNUSED(r4, r5, 0); return read_text(run, TO, SIZE, FROM); }

HELPER(probe_write_user) {
    UNUSED(r4, r5, 0);
    return (uint64_t)wb_safe_write(run, (void *)r1, (const void *)r2, (uint32_t)r3);
}
