/* Entry and exit of system calls: which programs run, and the calls that are made in a way of their own.
 *
 * The image of the registers stays on the stack, below the red zone, while the call is made: a signal handler that makes
 * calls itself has its own. Calls that do not return, or return twice in one memory, are made by the trampoline with
 * nothing on the stack (WB_CALL_STRAIGHT and following).
 */
#include "../../runtime/maps.h"
#include "../../runtime/space.h"
#include "../../runtime/system.h"
#include "calls.h"
#include "run.h"
#include "table.h"

#if defined(__x86_64__)
#define CLONE_VM_FLAG 0x100

WB_EXPORT uint8_t wb_call_wanted[1 << 16] __attribute__((aligned(4096)));

uint64_t wb_call_entered(struct wb_registers *image);
void wb_call_left(struct wb_registers *image);
void wb_call_parent(struct wb_registers *image);
void wb_call_child(void);

/* The kernel looks at the low half of rax (do_syscall_64). */
static inline uint64_t number_of(const struct wb_registers *image) {
    return (uint64_t)(int64_t)(int32_t)image->orig_ax;
}

/* The record of a tracepoint: 8 bytes of common fields, the number, then arguments or result. */
static void *context(
    struct wb_task *task, const struct wb_call_hook *hook, struct wb_registers *image, bool entering) {
    uint64_t *words = task->call;
    if (hook->form == WB_CALL_RAW) {
        words[0] = (uint64_t)image;
        words[1] = entering ? number_of(image) : image->ax;
        return words;
    }
    words[0] = (uint64_t)task->tid << 32;
    words[1] = number_of(image);
    if (entering) {
        words[2] = image->di;
        words[3] = image->si;
        words[4] = image->dx;
        words[5] = image->r10;
        words[6] = image->r8;
        words[7] = image->r9;
    } else
        words[2] = image->ax;
    return words;
}

static inline __attribute__((always_inline)) bool run_hook(
    struct wb_task *task, const struct wb_call_hook *hook, struct wb_registers *image, bool entering) {
    struct wb_run *run = &task->run;
    struct wb_link *link = hook->link;
    struct wb_program *program = WB_LOAD(&link->program);
    if (__builtin_expect(!program, 0))
        return false;
    if (__builtin_expect(!wb_enter_program(run, program, image), 0)) {
        task->missed[link->id % WB_LINKS]++;
        return false;
    }
    task->hits[link->id % WB_LINKS]++;
    run->link = link;
    run->frame = image;
    void *ctx = context(task, hook, image, entering);
    run->ctx = ctx;
    WB_LOAD(&program->entry)(ctx, run);
    bool overridden = run->overridden;
    if (__builtin_expect(run->stopped, 0))
        wb_count_stop(run);
    run->checked = run->overridden = 0; /* wb_hit expects that */
    wb_leave_program(run);
    return overridden;
}

/* How the call is made that is about to be. */
static inline uint64_t manner(const struct wb_registers *image) {
    switch (number_of(image)) {
    case SYS_rt_sigreturn:
    case SYS_exit:
    case SYS_exit_group:
        return WB_CALL_STRAIGHT;
    case SYS_vfork:
        return WB_CALL_VFORK;
    case SYS_clone: /* without a stack of its own and with memory of its own, the child finds the image where it was */
        return image->di & CLONE_VM_FLAG || image->si ? WB_CALL_CLONE : 0;
    case 435: /* clone3 */
        return WB_CALL_CLONE3;
    default:
        return 0;
    }
}

__attribute__((used)) uint64_t wb_call_entered(struct wb_registers *image) {
    uint64_t number = number_of(image), how = manner(image);
    struct wb_call_chain *chain = WB_LOAD(&wb_calls.chain);
    if (__builtin_expect(!chain, 0))
        return how;
    struct wb_task *task = wb_task_of_this_thread();
    if (__builtin_expect(!task, 0))
        return how;
    bool skip = false;
    for (uint32_t i = 0; i < chain->entries; i++) {
        const struct wb_call_hook *hook = &chain->hooks[i];
        if (hook->number != WB_CALL_ANY && hook->number != number)
            continue;
        if (__builtin_expect(run_hook(task, hook, image, true), 0)) {
            image->ax = task->run.changed;
            skip = true;
        }
    }
    if (__builtin_expect(skip, 0))
        return WB_CALL_SKIP;
    if (how > WB_CALL_STRAIGHT)
        task->forking = 1;
    return how;
}

__attribute__((used)) void wb_call_left(struct wb_registers *image) {
    struct wb_call_chain *chain = WB_LOAD(&wb_calls.chain);
    if (__builtin_expect(!chain, 0))
        return;
    struct wb_task *task = wb_task_of_this_thread();
    if (__builtin_expect(!task, 0))
        return;
    uint64_t number = number_of(image);
    for (uint32_t i = chain->entries; i < chain->entries + chain->exits; i++) {
        const struct wb_call_hook *hook = &chain->hooks[i];
        if (hook->number == WB_CALL_ANY || hook->number == number)
            run_hook(task, hook, image, false);
    }
    /* The C library began its robust list (a new thread, the child of a fork), which our element is not in: the thread
     * joins anew at its next hit. */
    if (__builtin_expect(number == SYS_set_robust_list && !image->ax && task->run.self && !task->run.busy, 0) &&
        !wb_leave(&task->run))
        WB_STORE(&task->era, 0);
}

/* In the caller of vfork, clone or clone3. A child that had its memory and thread pointer ran programs under its own
 * numbers. */
__attribute__((used)) void wb_call_parent(struct wb_registers *image) {
    struct wb_task *task = WB_LOAD(&wb_calls.chain) ? wb_task_of_this_thread() : NULL;
    if (task && task->forking) {
        struct wb_participant *self = task->run.self;
        task->forking = 0;
        if (self && self->tid != task->tid) {
            self->pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
            self->tid = task->tid;
        }
    }
    wb_call_left(image);
}

/* In the child of vfork, clone or clone3. A new thread has a thread pointer, and so a task, of its own. */
__attribute__((used)) void wb_call_child(void) {
    uint64_t pointer = wb_thread_pointer();
    if (!pointer)
        return;
    struct wb_slot *slot = wb_slot(pointer, 0);
    struct wb_task *task = slot->pointer == pointer ? slot->task : NULL;
    struct wb_participant *self = task && task->forking ? task->run.self : NULL;
    if (!self)
        return;
    self->pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    self->tid = (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}
#endif
