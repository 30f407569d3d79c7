/* Return probes: the return address on the stack is swapped for one in the trampoline, the true one kept in the task.
 *
 * The trampoline swaps it by a call instruction, and comes back by a return instruction, so that the processor predicts
 * both. A frame is known by its place on the stack. Functions left by longjmp or an exception leave their frames behind.
 * A frame is dropped only when it is certainly left (its place was overwritten, or has a later frame): to drop one that
 * is alive, on the stack of a coroutine or of a signal handler, would leave its function nowhere to return to. A tail
 * call finds our address where it looks for its return address: both frames have one place, and both programs run when
 * that place is returned through.
 */
#include "../../runtime/system.h"
#include "agent.h"
#include "run.h"
#include "table.h"

#define UNWOUND (64u << 20)
#define UNFINISHED 1 /* the place of a frame that is being written: no stack has it */

/* What lies at a place of this process that may be unmapped. */
static bool read_word(uint64_t place, uint64_t *word) {
    uint64_t local[2] = {(uint64_t)word, 8}, remote[2] = {place, 8};
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    return wb_system_call(SYS_process_vm_readv, pid, (int64_t)local, 1, (int64_t)remote, 1, 0) == 8;
}

/* Forgets frames that are certainly left: their place holds something else now, or a later frame has it. */
static void prune(struct wb_task *task) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < task->depth; i++) {
        const struct wb_frame *frame = &task->frames[i];
        uint64_t word = 0;
        bool later = false;
        for (uint32_t k = i + 1; !later && k < task->depth; k++)
            if (task->frames[k].place == frame->place) {
                later = true;
                word = task->frames[k].address; /* a tail call took our address for its return address */
            }
        bool live = frame->place == UNFINISHED ||
                    ((later || read_word(frame->place, &word)) && word == frame->back);
        if (live)
            task->frames[kept++] = *frame;
    }
    task->depth = kept;
}

static void count_lost(struct wb_task *task, const struct wb_chain *chain) {
    task->lost++;
    for (uint32_t i = 0; i < chain->returns; i++)
        task->missed[chain->links[chain->entries + i]->id % WB_LINKS]++;
}

/* True: the trampoline is to swap the return address. */
bool wb_push_return(
    struct wb_task *task, struct wb_site *site, struct wb_chain *chain, struct wb_registers *image) {
    if (__builtin_expect(task->depth == WB_FRAMES, 0)) {
        prune(task);
        if (task->depth == WB_FRAMES) {
            count_lost(task, chain);
            return false;
        }
    }
    /* A signal handler that comes in here probes as well, and uses the frame at `depth`: this one is taken first, and has
     * its place last. */
    struct wb_frame *frame = &task->frames[task->depth];
    frame->place = UNFINISHED;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    task->depth++;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    frame->address = *(uint64_t *)image->sp;
    frame->chain = chain;
    frame->back = site->back;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    WB_STORE(&frame->place, image->sp);
    return true;
}

/* An unwinder is about to read this thread's stack from `stack` upwards: it must see true addresses. */
void wb_put_back(struct wb_task *task, uint64_t stack) {
    uint32_t kept = 0;
    for (uint32_t i = task->depth; i--;) { /* of chained frames the first has the true address: it is written last */
        struct wb_frame *frame = &task->frames[i];
        uint64_t word = 0;
        if (frame->place < stack || frame->place - stack > UNWOUND)
            continue;
        if (read_word(frame->place, &word) && word == frame->back) {
            *(uint64_t *)frame->place = frame->address;
            count_lost(task, frame->chain);
        }
        frame->place = 0;
    }
    for (uint32_t i = 0; i < task->depth; i++)
        if (task->frames[i].place)
            task->frames[kept++] = task->frames[i];
    task->depth = kept;
}

/* The task that has a frame at this place: this thread's, else (its thread pointer was changed) anybody's. */
static struct wb_task *owner(uint64_t place, uint32_t *index) {
    uint64_t pointer = wb_thread_pointer();
    for (int pass = 0; pass < 2; pass++)
        for (struct wb_task *task = (struct wb_task *)WB_LOAD(&wb_agent.tasks); task;
             task = (struct wb_task *)task->run.next)
            if (pass || task->pointer == pointer)
                for (uint32_t i = task->depth; i--;)
                    if (task->frames[i].place == place) {
                        *index = i;
                        return task;
                    }
    __builtin_trap(); /* nobody knows where this function was called from */
}

static __attribute__((noinline)) uint64_t came_back_any(struct wb_registers *image) {
    uint64_t place = image->sp - 8;
    uint32_t at = 0;
    struct wb_slot *slot = wb_slot(wb_thread_pointer(), 0);
    struct wb_task *task = slot->task;
    if (__builtin_expect(slot->pointer == wb_thread_pointer() && task && task->depth &&
                             task->frames[task->depth - 1].place == place,
                         1))
        at = task->depth - 1;
    else
        task = owner(place, &at);
    struct wb_chain *chains[16];
    uint32_t count = 0;
    uint64_t address;
    for (;;) {
        struct wb_frame *frame = &task->frames[at];
        address = frame->address;
        if (count < 16)
            chains[count++] = frame->chain;
        else
            count_lost(task, frame->chain);
        uint32_t deeper_frames = task->depth - at - 1;
        if (__builtin_expect(deeper_frames != 0, 0))
            __builtin_memmove(frame, frame + 1, deeper_frames * sizeof *frame);
        task->depth--;
        while (at && task->frames[at - 1].place != place)
            at--;
        if (!at || task->frames[at - 1].back != address)
            break;
        at--;
    }
    image->ip = address;
    if (!wb_current(task))
        task = wb_task_of_this_thread(); /* the child of a fork returns for the first time */
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < chains[i]->returns; k++) {
            uint64_t result;
            struct wb_link *link = chains[i]->links[chains[i]->entries + k];
            if (task)
                wb_run_link(task, link, image, &result);
        }
    return address;
}

/* A probed function returned; the result is the true return address. The usual case is inlined: the innermost frame, no
 * tail call, one program. */
uint64_t wb_came_back(struct wb_registers *image) {
    struct wb_task *task = wb_task_at(wb_thread_pointer());
    if (__builtin_expect(!task || !task->depth, 0))
        return came_back_any(image);
    struct wb_frame *frame = &task->frames[task->depth - 1];
    struct wb_chain *chain = frame->chain;
    uint64_t address = frame->address, place = image->sp - 8, result;
    if (__builtin_expect(frame->place != place || chain->returns != 1 ||
                             (task->depth > 1 && frame[-1].place == place),
                         0))
        return came_back_any(image);
    task->depth--;
    image->ip = address;
    wb_run_link(task, chain->links[chain->entries], image, &result);
    return address;
}
