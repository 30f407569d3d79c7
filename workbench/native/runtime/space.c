/* Participants of a namespace: joining, liveness, grace periods, slots of per-CPU maps.
 *
 * A thread takes a line and makes its futex word an element of the thread's robust list, so that the kernel sets
 * FUTEX_OWNER_DIED in it when the thread dies, however it dies (kernel/futex/core.c, exit_robust_list). The list belongs
 * to the C library where there is one: our element is laid out like a mutex of glibc or musl, whose lists differ in the
 * distance from element to word only; both keep a back pointer right before the forward one.
 */
#include "space.h"

#include "system.h"

#define MEMBARRIER_GLOBAL_EXPEDITED 2
#define MEMBARRIER_REGISTER_GLOBAL_EXPEDITED 4
#define BARRIER_NAP 2000000 /* nanoseconds */
#define LIST_LIMIT 2048
#define TRIES 4096
#define LAG (1u << 30)

struct robust_head {
    uint64_t next;
    int64_t word; /* from an element to its futex word */
    uint64_t pending;
};

void wb_yield(void) { wb_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0); }

static bool same(uint32_t *word, uint32_t old, uint32_t new) {
    return __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool same64(uint64_t *word, uint64_t old, uint64_t new) {
    return __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

WB_EXPORT int64_t wb_space_format(void *memory, uint64_t length, uint32_t cpus) {
    struct wb_shared *shared = memory;
    if (length < WB_SPACE_LENGTH || (uintptr_t)memory % 4096)
        return -22;
    uint32_t slots = cpus < 16 ? 16 : cpus;
    if (slots > WB_SPACE_CPUS)
        slots = WB_SPACE_CPUS;
    shared->version = WB_SPACE_VERSION;
    shared->cpus = slots;
    shared->leases = slots - slots / 4;
    shared->next_id = 1;
    shared->epoch = 1;
    WB_STORE(&shared->magic, WB_SPACE_MAGIC);
    return 0;
}

WB_EXPORT int64_t wb_space_open(struct wb_space *space, void *memory, uint64_t length) {
    struct wb_shared *shared = memory;
    if (length < WB_SPACE_LENGTH || (uintptr_t)memory % 4096 ||
        WB_LOAD(&shared->magic) != WB_SPACE_MAGIC || shared->version != WB_SPACE_VERSION ||
        !shared->cpus || shared->cpus > WB_SPACE_CPUS || shared->leases > shared->cpus ||
        !WB_PEEK(&shared->epoch))
        return -22;
    space->participants = shared->participants;
    space->epoch = &shared->epoch;
    space->shared = shared;
    space->length = length;
    return 0;
}

/* --- the robust list ---------------------------------------------------------------------------------------------- */

static struct robust_head *robust_list(struct wb_run *run, int64_t *error) {
    struct robust_head *head = 0;
    uint64_t size = 0;
    *error = wb_system_call(SYS_get_robust_list, 0, (int64_t)&head, (int64_t)&size, 0, 0, 0);
    if (*error < 0 || head)
        return head;
    /* A thread without a C library: the list's head lives as long as the run, that is, as long as the thread. */
    head = (struct robust_head *)&run->reserved[0];
    head->next = (uint64_t)head;
    head->word = -32;
    head->pending = 0;
    *error = wb_system_call(SYS_set_robust_list, (int64_t)head, sizeof *head, 0, 0, 0, 0);
    return *error ? 0 : head;
}

static uint64_t *element(const struct wb_participant *line, const struct robust_head *head) {
    return (uint64_t *)((uint8_t *)line + offsetof(struct wb_participant, lock) - head->word);
}

/* The element and the back pointer before it must lie in the line's `rest`. */
static bool fits(const struct robust_head *head) {
    int64_t at = (int64_t)offsetof(struct wb_participant, lock) - head->word;
    return at - 8 >= (int64_t)offsetof(struct wb_participant, rest) &&
           at + 8 <= (int64_t)offsetof(struct wb_participant, holdings);
}

static void link_element(struct robust_head *head, uint64_t *mine) {
    uint64_t first = head->next;
    mine[0] = first;
    __builtin_memcpy((uint8_t *)mine - 8, &(uint64_t){(uint64_t)head}, 8);
    if ((first & ~1ull) != (uint64_t)head)
        __builtin_memcpy((uint8_t *)(first & ~1ull) - 8, &(uint64_t){(uint64_t)mine}, 8);
    WB_STORE(&head->next, (uint64_t)mine);
}

/* 1 = done, 0 = it is not in the list, -1 = the list is too long to know. */
static int unlink_element(struct robust_head *head, const uint64_t *mine) {
    uint64_t *at = &head->next;
    for (int i = 0; i < LIST_LIMIT; i++) {
        uint64_t next = *at & ~1ull;
        if (!next || next == (uint64_t)head)
            return 0;
        if (next == (uint64_t)mine) {
            uint64_t after = mine[0];
            WB_STORE(at, after);
            if ((after & ~1ull) != (uint64_t)head)
                __builtin_memcpy((uint8_t *)(after & ~1ull) - 8, &(uint64_t){(uint64_t)at}, 8);
            return 1;
        }
        at = (uint64_t *)next;
    }
    return -1;
}

/* --- joining and leaving ------------------------------------------------------------------------------------------ */

static void lease(struct wb_run *run, struct wb_shared *shared) {
    uint64_t name = WB_NAME(run);
    run->flags |= WB_RUN_CLAIM;
    for (uint32_t i = 0; i < shared->leases; i++) {
        uint64_t old = WB_LOAD(&shared->slots[i]);
        if ((!old || wb_absent(run->space, old)) && same64(&shared->slots[i], old, name)) {
            run->cpu = i;
            run->self->cpu = i + 1;
            run->flags &= ~WB_RUN_CLAIM;
            return;
        }
    }
}

/* The calling thread becomes a participant. -EAGAIN: it was interrupted inside its C library's list, try at the next
 * occasion; -EUSERS: every number is taken; -EOPNOTSUPP: an unknown layout of the list; -ENOSYS: membarrier(2) is denied,
 * by a seccomp filter as a rule, and nobody could tell what this thread's programs hold. */
WB_EXPORT int64_t wb_join(struct wb_run *run, struct wb_space *space) {
    struct wb_shared *shared = wb_shared(space);
    int64_t error = 0;
    struct robust_head *head = robust_list(run, &error);
    if (!head)
        return error ? error : -95;
    if (!fits(head))
        return -95;
    if (head->pending)
        return -11;
    if (wb_system_call(SYS_membarrier, MEMBARRIER_REGISTER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0) ||
        wb_system_call(SYS_membarrier, MEMBARRIER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0))
        return -38;
    uint32_t tid = (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
    uint32_t pid = (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    for (uint32_t i = 1; i < WB_PARTICIPANTS; i++) {
        struct wb_participant *line = &space->participants[i];
        uint32_t old = WB_LOAD(&line->lock);
        if (old && !(old & WB_LOCK_DIED))
            continue;
        uint64_t *mine = element(line, head);
        WB_STORE(&head->pending, (uint64_t)mine); /* dying right after the exchange is noticed too */
        if (!same(&line->lock, old, tid)) {
            WB_STORE(&head->pending, 0);
            continue;
        }
        WB_PUT(&line->epoch, 0);
        WB_STORE(&line->generation, line->generation + 1);
        line->pid = pid;
        line->tid = tid;
        line->cpu = 0;
        link_element(head, mine);
        WB_STORE(&head->pending, 0);
        uint32_t highest = WB_LOAD(&shared->highest);
        while (highest < i && !same(&shared->highest, highest, i))
            highest = WB_LOAD(&shared->highest);
        run->space = space;
        run->owner = i;
        run->self = line;
        run->flags &= ~WB_RUN_SLOW;
        lease(run, shared);
        return 0;
    }
    return -87;
}

static int64_t leave(struct wb_run *run, struct robust_head *head) {
    struct wb_participant *self = run->self;
    if (head->pending)
        return -11;
    if (self->cpu && self->cpu <= WB_SPACE_CPUS)
        same64(&wb_shared(run->space)->slots[self->cpu - 1], WB_NAME(run), 0);
    WB_STORE(&self->epoch, 0);
    uint64_t *mine = element(self, head);
    WB_STORE(&head->pending, (uint64_t)mine);
    int found = unlink_element(head, mine);
    run->self = 0;
    WB_STORE(&self->lock, 0);
    WB_STORE(&head->pending, 0);
    return found < 0 ? -75 : 0;
}

/* To be called by the thread that joined. What it holds in maps stays with its number, for the next to have it. */
WB_EXPORT int64_t wb_leave(struct wb_run *run) {
    struct wb_participant *self = run->self;
    if (!self)
        return 0;
    int64_t error = 0;
    if (self->tid != (uint32_t)wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0))
        return -1;
    struct robust_head *head = robust_list(run, &error);
    if (!head)
        return error ? error : -95;
    return leave(run, head);
}

static bool read_word(uint64_t at, uint64_t *word) {
    uint64_t local[2] = {(uint64_t)word, 8}, remote[2] = {at, 8};
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    return wb_system_call(SYS_process_vm_readv, pid, (int64_t)local, 1, (int64_t)remote, 1, 0) == 8;
}

/* Everything that unlinking touches is mapped: a program may have unmapped a mutex that a thread still has. */
static bool is_whole(const struct robust_head *head, const struct wb_participant *line) {
    uint64_t at = (uint64_t)head, next = 0, last;
    if (!read_word(at, &next) || !read_word((uint64_t)&head->pending, &last))
        return false;
    for (int i = 0; i < LIST_LIMIT; i++) {
        next &= ~1ull;
        if (!next || next == (uint64_t)head)
            return true;
        if (at == (uint64_t)element(line, head))
            return read_word(next - 8, &last);
        at = next;
        if (!read_word(at, &next))
            return false;
    }
    return false;
}

/* For a thread of this process that is held still. -EOVERFLOW: it may still have the element in its list. */
int64_t wb_leave_of(struct wb_run *run, uint32_t tid) {
    struct robust_head *head = 0;
    uint64_t size = 0;
    if (!run->self)
        return 0;
    if (run->self->tid != tid)
        return -1;
    int64_t error = wb_system_call(SYS_get_robust_list, tid, (int64_t)&head, (int64_t)&size, 0, 0, 0);
    if (error || !head)
        return error ? error : -95;
    return is_whole(head, run->self) ? leave(run, head) : -75;
}

/* --- programs ------------------------------------------------------------------------------------------------------ */

static uint32_t current_cpu(void) {
    uint32_t cpu = 0;
    wb_system_call(SYS_getcpu, (int64_t)&cpu, 0, 0, 0, 0, 0);
    return cpu;
}

/* A raw CPU number loses updates when the thread moves in the middle of a program: the slot is claimed by exchange. */
bool wb_begin_slow(struct wb_run *run) {
    struct wb_shared *shared = wb_shared(run->space);
    if (run->flags & WB_RUN_FENCE)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(run->flags & WB_RUN_CLAIM))
        return true;
    uint32_t first = shared->leases, count = shared->cpus - first;
    uint32_t at = run->cpu >= first && run->cpu < shared->cpus ? run->cpu - first : current_cpu();
    for (int tries = 0; count && tries < TRIES; tries++, at++) {
        uint32_t slot = first + at % count;
        uint64_t old = WB_LOAD(&shared->slots[slot]);
        if ((!old || (tries >= 64 && wb_absent(run->space, old))) &&
            same64(&shared->slots[slot], old, WB_NAME(run))) {
            run->cpu = slot;
            return true;
        }
        if (tries % 64 == 63)
            wb_yield();
    }
    WB_STORE(&run->self->epoch, 0);
    return false;
}

void wb_end_slow(struct wb_run *run) {
    struct wb_shared *shared = wb_shared(run->space);
    if (run->cpu < shared->cpus)
        same64(&shared->slots[run->cpu], WB_NAME(run), 0);
}

/* --- grace periods ------------------------------------------------------------------------------------------------- */

/* Every other thread's stores so far are seen by us, and ours by them. False: a filter that was installed after joining
 * denies the call; no processor keeps a store to itself for as long as we slept instead, but that is no promise. */
bool wb_barrier(struct wb_run *run) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int64_t error = wb_system_call(SYS_membarrier, MEMBARRIER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0);
    if (__builtin_expect(error, 0)) {
        int64_t nap[2] = {0, BARRIER_NAP};
        run->flags |= WB_RUN_FENCE;
        wb_system_call(SYS_nanosleep, (int64_t)nap, 0, 0, 0, 0, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !error;
}

/* What this thread unlinked while the epoch was s is held by no program any more when s is below the result.
 *
 * The barrier makes every program either visible here or begin after the unlinking. A program of epoch e can hold what
 * was unlinked at e - 1: the unlinking store may have waited in the store buffer while the epoch moved on, but not for
 * two steps, as a barrier lies between them. `but_mine`: the caller's own running program is not waited for.
 */
static uint64_t grace(struct wb_run *run, bool but_mine, bool holders) {
    struct wb_space *space = run->space;
    struct wb_shared *shared = wb_shared(space);
    uint64_t epoch = WB_LOAD(space->epoch), lowest = UINT64_MAX;
    uint32_t highest = WB_LOAD(&shared->highest);
    for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++) {
        struct wb_participant *line = &space->participants[i];
        if (but_mine && line == run->self)
            continue;
        uint64_t theirs = WB_LOAD(&line->epoch), began = theirs & ~WB_HOLDS;
        if (began && began < lowest && (!holders || theirs & WB_HOLDS) && !wb_dead(space, i))
            lowest = began;
    }
    if (lowest == UINT64_MAX || epoch - lowest < LAG)
        same64(space->epoch, epoch, epoch + 1);
    return lowest == UINT64_MAX ? epoch + 1 : lowest - 1;
}

uint64_t wb_grace(struct wb_run *run, bool but_mine) { return wb_barrier(run) ? grace(run, but_mine, false) : 0; }

/* The same for what only programs that say so (wb_hold) can hold, the caller's not counted. Who is alone in the
 * namespace needs no system call: a thread that joins meanwhile does so by an exchange, after our fence. */
uint64_t wb_grace_of_holders(struct wb_run *run, bool *alone) {
    struct wb_space *space = run->space;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t highest = WB_LOAD(&wb_shared(space)->highest);
    *alone = true;
    for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS && *alone; i++)
        *alone = i == run->owner || wb_dead(space, i);
    return *alone || (!(run->flags & WB_RUN_FENCE) && wb_barrier(run)) ? grace(run, true, true) : 0;
}
