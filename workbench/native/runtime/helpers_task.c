/* Who runs, where and when (kernel/bpf/helpers.c). */
#include "helpers.h"
#include "process.h"
#include "system.h"
#include "thread.h"

#define PR_GET_NAME_NUMBER 16

HELPER(ktime_get_ns) { NO_ARGUMENTS; return wb_clock(1); }
HELPER(ktime_get_boot_ns) { NO_ARGUMENTS; return wb_clock(7); }
HELPER(ktime_get_coarse_ns) { NO_ARGUMENTS; return wb_clock(6); }
HELPER(ktime_get_tai_ns) { NO_ARGUMENTS; return wb_clock(11); }

/* jiffies start at -300 s as an unsigned 32-bit number (INITIAL_JIFFIES) and follow CLOCK_MONOTONIC. */
HELPER(jiffies64) {
    NO_ARGUMENTS;
    uint64_t now = wb_clock(6), rate = wb_process.tick_rate;
    return (uint32_t)-(300 * rate) + now / 1000000000u * rate + now % 1000000000u * rate / 1000000000u;
}

/* Not a helper of the kernel: the thread sleeps for `r1` ns, a signal or DELAY_MAX, whichever is over first; ns that it
 * really did. Bounded, so that whoever leaves the process need not wait for long and a program that asks for too much
 * does no lasting harm. The thread counts as inside its program meanwhile. */
#define DELAY_MAX 20000000u

HELPER(delay) {
    UNUSED(r2, r3, r4);
    (void)r5;
    int64_t time[2] = {0, (int64_t)(r1 < DELAY_MAX ? r1 : DELAY_MAX)};
    uint64_t began = wb_clock(1);
    wb_system_call(SYS_clock_nanosleep, 1, 0, (int64_t)time, 0, 0, 0);
    return wb_clock(1) - began;
}

HELPER(get_smp_processor_id) { NO_ARGUMENTS; return wb_current_cpu(0); }

HELPER(get_numa_node_id) {
    NO_ARGUMENTS;
    uint32_t node;
    wb_current_cpu(&node);
    return node;
}

static uint64_t next_random(uint64_t state[2]) {
    /* xoroshiro128+ (Blackman and Vigna); its high half is given out. */
    uint64_t a = state[0], b = state[1], result = a + b;
    b ^= a;
    state[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
    state[1] = b << 37 | b >> 27;
    return result;
}

HELPER(get_prandom_u32) {
    NO_ARGUMENTS;
    if (!(run->random[0] | run->random[1])) {
        if (wb_system_call(SYS_getrandom, (int64_t)run->random, sizeof run->random, 1, 0, 0, 0) !=
            sizeof run->random)
            run->random[0] = wb_clock(1) ^ (uint64_t)run;
        run->random[1] |= 1;
    }
    return next_random(run->random) >> 32;
}

/* The participant's line has both numbers; a child of fork joins anew before it runs programs. */
static void ids(const struct wb_run *run, uint32_t *pid, uint32_t *tid) {
    if (run->self) {
        *pid = run->self->pid;
        *tid = run->self->tid;
    } else {
        *pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
        *tid = (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
    }
}

HELPER(get_current_pid_tgid) {
    NO_ARGUMENTS;
    uint32_t pid, tid;
    ids(run, &pid, &tid);
    return (uint64_t)pid << 32 | tid;
}

HELPER(get_current_uid_gid) {
    NO_ARGUMENTS;
    uint64_t uid = (uint32_t)wb_system_call(SYS_getuid, 0, 0, 0, 0, 0, 0);
    uint64_t gid = (uint32_t)wb_system_call(SYS_getgid, 0, 0, 0, 0, 0, 0);
    return gid << 32 | uid;
}

static void comm(char name[16]) {
    __builtin_memset(name, 0, 16);
    wb_system_call(SYS_prctl, PR_GET_NAME_NUMBER, (int64_t)name, 0, 0, 0, 0);
}

HELPER(get_current_comm) {
    UNUSED(r3, r4, r5);
    char name[16], *to = (char *)r1;
    uint32_t size = (uint32_t)r2;
    comm(name);
    if (!size)
        return ERROR(WB_EINVAL);
    for (uint32_t i = 0; i < size; i++)
        to[i] = i < 15 && i + 1 < size ? name[i] : 0;
    return 0;
}

HELPER(get_ns_current_pid_tgid) {
    (void)r5;
    struct {
        uint32_t pid, tgid;
    } *to = (void *)r3;
    uint32_t size = (uint32_t)r4, pid, tid;
    wb_process_ready();
    /* The kernel packs a device as 12 bits major, 20 bits minor; stat(2) in the old layout of both. */
    uint64_t stat = wb_process.pid_ns[0];
    uint64_t device = (stat >> 8 & 0xfff) << 20 | (stat >> 12 & 0xfff00) | (stat & 0xff);
    if (size != 8 || (uint32_t)r1 != r1 || (r1 != device && r1 != stat) || r2 != wb_process.pid_ns[1]) {
        __builtin_memset(to, 0, size);
        return ERROR(WB_EINVAL);
    }
    ids(run, &pid, &tid);
    to->pid = tid;
    to->tgid = pid;
    return 0;
}

/* The running thread in the kernel's shape (platform.h). NULL without memory to keep it in. */
static struct task_struct *current_task(struct wb_run *run) {
    struct wb_thread *thread = wb_thread(run);
    if (!thread)
        return 0;
    wb_process_ready();
    uint32_t pid, tid;
    ids(run, &pid, &tid);
    thread->mm.start_stack = wb_process.start_stack;
    thread->signal.live.counter = 1;
    thread->task.mm = &thread->mm;
    thread->task.signal = &thread->signal;
    thread->task.utask = &thread->probes;
    thread->task.pid = (int)tid;
    thread->task.tgid = (int)pid;
    comm(thread->task.comm);
    return &thread->task;
}

/* The registers of the probed code; zeros where no code was interrupted (a test run, a timer). */
HELPER(task_pt_regs) {
    UNUSED(r3, r4, r5);
    (void)r2;
    struct wb_thread *thread = wb_thread(run);
    if (run->frame || !thread || !r1)
        return (uint64_t)run->frame;
    return (uint64_t)&thread->no_registers;
}
HELPER(get_current_task) { NO_ARGUMENTS; return (uint64_t)current_task(run); }
HELPER(get_current_task_btf) { NO_ARGUMENTS; return (uint64_t)current_task(run); }
