/* SIGTRAP that a perf event sends to the thread it counts (`sigtrap` of perf_event_open): a sample of the thread's CPU
 * time, for which programs run, or a hit of a watchpoint, which is recorded.
 *
 * The kernel sends it when the thread is about to go on in user code, so no system call of the target is ever cut short
 * by it. Should a signal come after its event is closed it is ignored here, which is why the handler stays until no
 * thread has one pending.
 */
#include "../../runtime/process.h"
#include "../../runtime/types.h"
#include "../watch_record.h"
#include "agent.h"
#include "run.h"
#include "table.h"

#define SIGNAL_TRAP 5
#define SIGNAL_BUS 7
#define SIGNAL_SEGV 11
#define SIGNALS_INFO 4u
#define SIGNALS_FLAGS 0x1c000004u /* SA_SIGINFO, SA_RESTART, SA_ONSTACK, SA_RESTORER */

/* A program that runs for the events whose signal data is `data`. Written by the workbench, `data` last. */
struct wb_sampled {
    uint64_t data;
    struct wb_link *link;
    uint64_t period;
    uint64_t runs, spent; /* how often, and ns in all */
};
#define WB_SAMPLED 64
WB_EXPORT struct wb_sampled wb_sampled[WB_SAMPLED];

/* struct bpf_perf_event_data (include/uapi/linux/bpf_perf_event.h) */
struct event_data {
    struct wb_registers registers;
    uint64_t period, address;
};

extern char wb_restorer[] __attribute__((visibility("hidden")));
static struct wb_kernel_sigaction previous;
WB_EXPORT uint32_t wb_trap_taken; /* the handler was installed, and not taken out again */

static uint64_t watch_time(void) { return wb_clock(1); }

static void sample(struct wb_sampled *one, uint64_t periods, const void *context) {
    struct event_data data;
    uint64_t frame;
    copy_registers(context, (uint64_t *)&data.registers, &frame);
    data.registers.orig_ax = ~0ull;
    data.registers.ss = 0x2b;
    data.period = one->period * periods;
    data.address = 0;
    struct wb_task *task = wb_task_of_this_thread();
    uint64_t result, start = wb_clock(1);
    if (!task || !wb_run_link(task, one->link, &data.registers, &result))
        return;
    __atomic_fetch_add(&one->runs, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&one->spent, wb_clock(1) - start, __ATOMIC_RELAXED);
}

bool wb_sample(uint64_t data, uint64_t periods, const void *context);

/* Run the program for events with this data: the first in so many periods. False = nobody's. */
bool wb_sample(uint64_t data, uint64_t periods, const void *context) {
    for (int i = 0; i < WB_SAMPLED; i++)
        if (WB_LOAD(&wb_sampled[i].data) == data) {
            sample(&wb_sampled[i], periods, context);
            return true;
        }
    return false;
}

static void hand_on(int number, const void *info, const void *context) {
    uint64_t handler = (uint64_t)previous.handler;
    if (handler == 1)
        return;
    if (!handler) { /* the trap ends the process as it would have without us */
        wb_system_call(SYS_rt_sigaction, number, (int64_t)&previous, 0, 8, 0, 0);
        wb_system_call(SYS_tgkill,
                       wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0),
                       wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0), number, 0, 0, 0);
    } else if (previous.flags & SIGNALS_INFO) {
        ((void (*)(int, const void *, const void *))handler)(number, info, context);
    } else {
        ((void (*)(int))handler)(number);
    }
}

static void on_trap(int number, const void *info, const void *context) {
    int32_t code;
    uint64_t data, address;
    uint32_t flags;
    __builtin_memcpy(&code, (const char *)info + 8, sizeof code);
    if (code != TRAP_PERF_CODE) {
        hand_on(number, info, context);
        return;
    }
    __builtin_memcpy(&address, (const char *)info + PERF_ADDRESS_OFFSET, sizeof address);
    __builtin_memcpy(&data, (const char *)info + PERF_DATA_OFFSET, sizeof data);
    __builtin_memcpy(&flags, (const char *)info + PERF_FLAGS_OFFSET, sizeof flags);
    if (wb_sample(data, 1, context))
        return;
    if (!take_hit(data, address, flags, context) && (uint64_t)previous.handler > 1)
        hand_on(number, info, context); /* the agent of another workbench */
}

/* Begin to receive signals. 0 or a negative errno. */
WB_EXPORT int64_t wb_agent_signals_begin(void) {
    struct wb_kernel_sigaction now;
    int64_t error = wb_system_call(SYS_rt_sigaction, SIGNAL_TRAP, 0, (int64_t)&now, 8, 0, 0);
    if (error || now.handler == (void *)on_trap)
        return error;
    previous = now;
    struct wb_kernel_sigaction own = {
        (void *)on_trap, SIGNALS_FLAGS, wb_restorer, ~(1ull << (SIGNAL_SEGV - 1) | 1ull << (SIGNAL_BUS - 1))};
    wb_trap_taken = 1;
    return wb_system_call(SYS_rt_sigaction, SIGNAL_TRAP, (int64_t)&own, 0, 8, 0, 0);
}

int64_t wb_signals_leave(void);

/* Put the previous handler back; 1 = another one was installed since, which stays. */
WB_EXPORT int64_t wb_agent_signals_end(void) {
    struct wb_kernel_sigaction now;
    int64_t error = wb_system_call(SYS_rt_sigaction, SIGNAL_TRAP, 0, (int64_t)&now, 8, 0, 0);
    if (error || now.handler != (void *)on_trap)
        return error ? error : 1;
    error = wb_system_call(SYS_rt_sigaction, SIGNAL_TRAP, (int64_t)&previous, 0, 8, 0, 0);
    if (!error)
        wb_trap_taken = 0;
    return error;
}

/* No event and no area is served any more. 1 = nobody knows the handler, 0 = another one may call it. */
int64_t wb_signals_leave(void) {
    for (int i = 0; i < WB_SAMPLED; i++)
        WB_STORE(&wb_sampled[i].data, 0);
    for (int i = 0; i < WATCH_AREAS; i++)
        atomic_store(&areas[i], NULL);
    return !wb_trap_taken || !wb_agent_signals_end();
}

/* Take hits for the area that is mapped at `memory`; its number or a negative errno. */
WB_EXPORT int64_t wb_agent_watch(struct watch_header *memory, uint64_t length) {
    if (!is_area(memory, length))
        return -22; /* EINVAL */
    for (int i = 0; i < WATCH_AREAS; i++)
        if (!atomic_load(&areas[i])) {
            atomic_store(&areas[i], memory);
            atomic_fetch_add(&memory->loads, 1);
            return i;
        }
    return -28; /* ENOSPC */
}

/* Stop; -EBUSY while a handler is at work in the area (then its memory must stay). */
WB_EXPORT int64_t wb_agent_unwatch(uint32_t number) {
    if (number >= WATCH_AREAS || !atomic_exchange(&areas[number], NULL))
        return -22; /* EINVAL */
    return atomic_load(&inside[number]) ? -16 /* EBUSY */ : 0;
}
