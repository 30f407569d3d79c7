/* snprintf, trace_printk, trace_vprintk (kernel/bpf/helpers.c, kernel/trace/bpf_trace.c).
 *
 * Printed lines go to a ring of the namespace that whoever loaded the program reads; never to the output of the process
 * in which it runs. A full ring loses the line and says so in its own counter; the program gets the length either way.
 */
#include "helpers.h"
#include "printk.h"
#include "thread.h"

#define ARGUMENTS_MAX 12 /* MAX_BPRINTF_VARARGS */

static void print(struct wb_run *run, const char *text, uint64_t length) {
    struct wb_map *ring = run->space ? run->space->printk : 0;
    struct task_struct *task = ring ? (struct task_struct *)wb_helper_get_current_task(run, 0, 0, 0, 0, 0) : 0;
    struct wb_printk_line *line =
        task && wb_ring_reserve ? wb_ring_reserve(run, ring, sizeof *line + length, 0) : 0;
    if (!line)
        return;
    line->time = wb_clock(1);
    line->pid = (uint32_t)task->tgid;
    line->tid = (uint32_t)task->pid;
    line->cpu = wb_current_cpu(0);
    line->length = (uint32_t)length;
    __builtin_memcpy(line->comm, task->comm, sizeof line->comm);
    __builtin_memcpy(line->text, text, length);
    wb_ring_commit(run, line, 0);
}

static uint64_t format_and_print(
    struct wb_run *run, const char *format, uint32_t size, const uint64_t *arguments, uint32_t count) {
    struct wb_thread *thread = wb_thread(run);
    if (!thread)
        return ERROR(WB_EBUSY);
    int64_t length = wb_format(run, thread->text, WB_FORMAT_TEXT, format, size, arguments, count);
    if (length >= 0)
        print(run, thread->text, length < WB_FORMAT_TEXT ? (uint64_t)length : WB_FORMAT_TEXT - 1);
    return (uint64_t)length;
}

HELPER(trace_printk) {
    uint64_t arguments[3] = {r3, r4, r5};
    return format_and_print(run, (const char *)r1, (uint32_t)r2, arguments, 3);
}

static bool bad_data(uint32_t size, const void *data) {
    return size % 8 || size > ARGUMENTS_MAX * 8 || (size && !data);
}

HELPER(trace_vprintk) {
    (void)r5;
    if (bad_data((uint32_t)r4, (const void *)r3))
        return ERROR(WB_EINVAL);
    return format_and_print(run, (const char *)r1, (uint32_t)r2, (const uint64_t *)r3, (uint32_t)r4 / 8);
}

HELPER(snprintf) {
    if (bad_data((uint32_t)r5, (const void *)r4))
        return ERROR(WB_EINVAL);
    int64_t length = wb_format(run, (char *)r1, (uint32_t)r2, (const char *)r3, UINT32_MAX,
                               (const uint64_t *)r4, (uint32_t)r5 / 8);
    return (uint64_t)(length < 0 ? length : length + 1);
}
