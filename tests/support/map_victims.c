/* Processes that use maps and are killed: at a chosen instruction of one operation, or in the middle of many. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void *(*run_new)(void *space, int64_t *error);
typedef int64_t (*operation)(void *run, void *map, const void *a, const void *b, uint64_t flags);

/* Keeps this thread and the children it makes on the CPU that it is on; `before` is where they were allowed.
 * A step of a child beside its tracer is several times dearer: each wakes the other's CPU. */
static void stay_here(cpu_set_t *before)
{
    cpu_set_t here;

    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    sched_getaffinity(0, sizeof(*before), before);
    sched_setaffinity(0, sizeof(here), &here);
}

/* Whether `watch`, if there is one, holds a bit of `mask`: memory that the child shares with this process. */
static int begun(const uint64_t *watch, uint64_t mask)
{
    return !watch || __atomic_load_n(watch, __ATOMIC_ACQUIRE) & mask;
}

/* A child that does the operation `warm` times (on `warm_a` and `warm_b` where these are given), and once more up to its instruction number `steps`, and is killed.
 * With `watch` these are counted from the first instruction after which it holds a bit of `mask`.
 * Returns 1 when the operation was over before that, 0 when not, -1 when something else happened. */
int killed_at_step(run_new join, void *space, operation work, void *map, const void *a, const void *b, uint64_t flags,
                   const void *warm_a, const void *warm_b, long warm, long steps, const uint64_t *watch,
                   uint64_t mask)
{
    int status, over = 0, failed = 1;
    cpu_set_t before;

    stay_here(&before);
    pid_t child = fork();

    if (child == 0) {
        int64_t error;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        void *run = join(space, &error);

        if (!run)
            _exit(3);
        for (long i = 0; i < warm; i++)
            work(run, map, warm_a ? warm_a : a, warm_b ? warm_b : b, flags);
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(4);
        raise(SIGSTOP);
        work(run, map, a, b, flags);
        raise(SIGSTOP);
        _exit(5);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        goto out;
    if (!WIFSTOPPED(status))
        goto out;
    for (long i = 0; i < steps && !over; i += begun(watch, mask)) {
        if (ptrace(PTRACE_SINGLESTEP, child, 0, 0) || waitpid(child, &status, 0) != child)
            goto out;
        if (!WIFSTOPPED(status))
            goto out;
        over = WSTOPSIG(status) == SIGSTOP;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    failed = 0;
out:
    sched_setaffinity(0, sizeof(before), &before);
    return failed ? -1 : over;
}

/* A program run as an operation: `a` is wb_execute, `map` the program. */
int64_t run_program(void *run, void *program, const void *a, const void *b, uint64_t flags)
{
    (void)b, (void)flags;
    return ((int64_t (*)(void *, void *, void *))(uintptr_t)a)(program, 0, run);
}

struct functions {
    run_new join;
    int64_t (*push)(void *run, void *map, const void *value, uint64_t flags);
    int64_t (*pop)(void *run, void *map, void *value);
    int64_t (*peek)(void *run, void *map, void *value);
    operation write;
    int64_t (*erase)(void *run, void *map, const void *key);
    int64_t (*read)(void *run, void *map, const void *key, void *value, uint64_t flags);
    void *(*reserve)(void *run, void *map, uint64_t size, uint64_t flags);
    void (*commit)(void *run, void *record, uint64_t flags);
    int64_t (*stack)(void *run, void *map, const uint64_t *addresses, uint32_t count, uint64_t flags);
};

/* Of one worker, in memory that it shares with the test. */
struct progress {
    uint64_t done, bad, refused, records;
};

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void seal(uint64_t value[5], uint64_t producer, uint64_t number)
{
    value[0] = producer;
    value[1] = number;
    value[2] = ~number;
    value[3] = producer * 1000003 + number;
    value[4] = value[3] ^ 0x5555555555555555;
}

int sealed(const uint64_t value[5])
{
    return value[2] == ~value[1] && value[3] == value[0] * 1000003 + value[1] &&
           value[4] == (value[3] ^ 0x5555555555555555);
}

static void queue_turn(const struct functions *f, void *run, void *map, uint64_t r, uint64_t who,
                       struct progress *p)
{
    uint64_t value[5];
    int64_t result;

    if (r % 5 < 2) {
        seal(value, who, p->done);
        result = f->push(run, map, value, r & 64 ? 2 : 0);
        p->bad += result != 0 && result != -7;
    } else {
        result = r % 5 == 2 ? f->peek(run, map, value) : f->pop(run, map, value);
        p->bad += result ? result != -2 : !sealed(value);
    }
}

static void trie_turn(const struct functions *f, void *run, void *map, uint64_t r, struct progress *p)
{
    struct {
        uint32_t bits;
        uint8_t data[4];
    } key = {(uint32_t)(r % 33), {0, 0, 0, 0}};
    uint64_t value[5];
    uint32_t prefix = (uint32_t)(r >> 8) & 0x3f3f0f0f;
    int64_t result;

    memcpy(key.data, &prefix, 4);
    if (r >> 60 < 7) {
        seal(value, prefix, key.bits);
        result = f->write(run, map, &key, value, 0);
        p->bad += result != 0 && result != -28 && result != -12;
    } else if (r >> 60 < 12) {
        result = f->erase(run, map, &key);
        p->bad += result != 0 && result != -2;
    } else {
        key.bits = 32;
        result = f->read(run, map, &key, value, 0);
        p->bad += result ? result != -2 : !sealed(value);
    }
}

static void ring_turn(const struct functions *f, void *run, void *map, uint64_t r, uint64_t who, struct progress *p)
{
    uint64_t *record = f->reserve(run, map, 40, 0);

    (void)r;
    if (!record) {
        p->refused++;
        if (p->refused % 64 == 0)
            usleep(50);
        return;
    }
    seal(record, who, p->records);
    f->commit(run, record, 0);
    p->records++;
}

static void stack_turn(const struct functions *f, void *run, void *map, uint64_t r, struct progress *p)
{
    uint64_t value[5];
    uint32_t id = (uint32_t)(r >> 40) & 7;
    int64_t result;

    if (r % 4 < 2) {
        seal(value, r >> 20 & 31, r >> 30 & 3);
        result = f->stack(run, map, value, 5, r & 1024);
        p->bad += result < 0 && result != -17;
    } else if (r % 4 == 2) {
        result = f->erase(run, map, &id);
        p->bad += result != 0 && result != -2;
    } else {
        result = f->read(run, map, &id, value, 0);
        p->bad += result ? result != -2 : !sealed(value);
    }
}

/* Starts a process that works until it is killed; `kind`: 0 queue or stack, 1 trie, 2 ring, 3 stack traces. */
int start_worker(const struct functions *f, void *space, void *map, int kind, uint64_t who, struct progress *p)
{
    pid_t child = fork();

    if (child)
        return child;
    int64_t error;
    uint64_t state = who * 0x9e3779b97f4a7c15 | 1;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    void *run = f->join(space, &error);

    if (!run)
        _exit(3);
    for (;;) {
        uint64_t r = next(&state);

        if (kind == 0)
            queue_turn(f, run, map, r, who, p);
        else if (kind == 1)
            trie_turn(f, run, map, r, p);
        else if (kind == 2)
            ring_turn(f, run, map, r, who, p);
        else
            stack_turn(f, run, map, r, p);
        __atomic_store_n(&p->done, p->done + 1, __ATOMIC_RELEASE);
    }
}
