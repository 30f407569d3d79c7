/* Samples of CPU time by POSIX timers, where perf_event_open(2) is refused: a timer for each thread counts its CPU time
 * and sends it a real-time signal that nothing else in the process uses (attach/ticks.py chooses it).
 *
 * The kernel looks at such timers in its own tick, so they are no finer than that; periods that it let pass are counted
 * by the signal (si_overrun) and are in the sample's period. Timers are not inherited, by a thread or by a child, and
 * end with execve(2), which takes pending signals of theirs away as well.
 */
#include "../../runtime/process.h"
#include "../../runtime/system.h"
#include "agent.h"

#define CODE_TIMER (-2) /* SI_TIMER */
#define OVERRUN_OFFSET 20
#define VALUE_OFFSET 24
#define NOTIFY_THREAD 4 /* SIGEV_THREAD_ID */
#define THREAD_CLOCK 6  /* CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD_MASK: include/linux/posix-timers_types.h */
#define SIGNAL_BUS 7
#define SIGNAL_SEGV 11
#define SIGNALS_INFO 4u
#define SIGNALS_FLAGS 0x1c000004u /* SA_SIGINFO, SA_RESTART, SA_ONSTACK, SA_RESTORER */
#define EBUSY_NUMBER 16
#define ENOSPC_NUMBER 28

/* struct sigevent (include/uapi/asm-generic/siginfo.h) */
struct event {
    uint64_t value;
    int32_t signal, notify, thread;
    uint32_t rest[11];
};

struct tick {
    uint64_t data; /* 0 = free */
    int32_t timer;
    uint32_t thread;
};
#define TICKS 8192
static struct tick ticks[TICKS];
static uint32_t used;
static int64_t process; /* whose timers these are: the child of a fork has none */
static struct wb_kernel_sigaction previous;
WB_EXPORT int32_t wb_tick_signal; /* 0 = no handler of ours */

extern char wb_restorer[] __attribute__((visibility("hidden")));
bool wb_sample(uint64_t data, uint64_t periods, const void *context);
int64_t wb_ticks_leave(void);

static void on_tick(int signal, const void *info, const void *context) {
    int32_t code, overrun;
    uint64_t data;
    __builtin_memcpy(&code, (const char *)info + 8, sizeof code);
    __builtin_memcpy(&overrun, (const char *)info + OVERRUN_OFFSET, sizeof overrun);
    __builtin_memcpy(&data, (const char *)info + VALUE_OFFSET, sizeof data);
    uint64_t handler = (uint64_t)previous.handler;
    if (code == CODE_TIMER && (data >> 63 || handler <= 1)) { /* ours, perhaps of a timer that is gone */
        wb_sample(data, overrun > 0 ? 1 + (uint64_t)overrun : 1, context);
    } else if (handler > 1 && previous.flags & SIGNALS_INFO) {
        ((void (*)(int, const void *, const void *))handler)(signal, info, context);
    } else if (handler > 1) {
        ((void (*)(int))handler)(signal);
    } else if (!handler) { /* somebody's own: it ends the process as it would have without us */
        wb_system_call(SYS_rt_sigaction, signal, (int64_t)&previous, 0, 8, 0, 0);
        wb_system_call(SYS_tgkill, wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0),
                       wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0), signal, 0, 0, 0);
    }
}

static void forget_the_parents(void) {
    int64_t now = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    if (process == now)
        return;
    process = now;
    used = 0;
}

/* Receive that signal. 0 or a negative errno; -EBUSY: another one is ours already. */
WB_EXPORT int64_t wb_agent_ticks_begin(int32_t signal) {
    struct wb_kernel_sigaction now;
    forget_the_parents();
    if (wb_tick_signal && wb_tick_signal != signal)
        return -EBUSY_NUMBER;
    int64_t error = wb_system_call(SYS_rt_sigaction, signal, 0, (int64_t)&now, 8, 0, 0);
    if (error || now.handler == (void *)on_tick)
        return error;
    previous = now;
    wb_tick_signal = signal;
    struct wb_kernel_sigaction own = {
        (void *)on_tick, SIGNALS_FLAGS, wb_restorer, ~(1ull << (SIGNAL_SEGV - 1) | 1ull << (SIGNAL_BUS - 1))};
    return wb_system_call(SYS_rt_sigaction, signal, (int64_t)&own, 0, 8, 0, 0);
}

/* Begin a timer for a thread, by its id in the process's own namespace. 0 or a negative errno. */
WB_EXPORT int64_t wb_agent_tick(uint32_t thread, uint64_t data, uint64_t period) {
    forget_the_parents();
    uint32_t at = 0;
    while (at < used && ticks[at].data)
        at++;
    if (at == TICKS)
        return -ENOSPC_NUMBER;
    struct event event = {data, wb_tick_signal, NOTIFY_THREAD, (int32_t)thread, {0}};
    int32_t clock = (int32_t)(~thread << 3 | THREAD_CLOCK), timer = 0;
    int64_t error =
        wb_system_call(SYS_timer_create, clock, (int64_t)&event, (int64_t)&timer, 0, 0, 0);
    if (error)
        return error;
    int64_t seconds = (int64_t)(period / 1000000000), rest = (int64_t)(period % 1000000000);
    int64_t times[4] = {seconds, rest, seconds, rest};
    error = wb_system_call(SYS_timer_settime, timer, 0, (int64_t)times, 0, 0, 0);
    if (error) {
        wb_system_call(SYS_timer_delete, timer, 0, 0, 0, 0, 0);
        return error;
    }
    ticks[at] = (struct tick){data, timer, thread};
    if (at == used)
        used++;
    return 0;
}

/* End the timers of `data` (0: all), of one thread (0: of all). */
WB_EXPORT int64_t wb_agent_tick_end(uint64_t data, uint32_t thread) {
    forget_the_parents();
    for (uint32_t i = 0; i < used; i++) {
        struct tick *one = &ticks[i];
        if (!one->data || (data && one->data != data) || (thread && one->thread != thread))
            continue;
        wb_system_call(SYS_timer_delete, one->timer, 0, 0, 0, 0, 0);
        one->data = 0;
    }
    return 0;
}

/* End all timers and, when no signal of theirs can come any more (`last`), put the previous handler back; 1 = another
 * one was installed since, which stays. */
WB_EXPORT int64_t wb_agent_ticks_end(uint32_t last) {
    struct wb_kernel_sigaction now;
    wb_agent_tick_end(0, 0);
    if (!last || !wb_tick_signal)
        return 0;
    int64_t error = wb_system_call(SYS_rt_sigaction, wb_tick_signal, 0, (int64_t)&now, 8, 0, 0);
    if (error || now.handler != (void *)on_tick)
        return error ? error : 1;
    error = wb_system_call(SYS_rt_sigaction, wb_tick_signal, (int64_t)&previous, 0, 8, 0, 0);
    if (!error)
        wb_tick_signal = 0;
    return error;
}

/* The workbench leaves: 1 = nobody knows the handler, 0 = a signal may still come. */
int64_t wb_ticks_leave(void) {
    wb_agent_tick_end(0, 0);
    return !wb_tick_signal;
}
