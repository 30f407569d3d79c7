/* Timers in map values (kernel/bpf/helpers.c, bpf_timer_*).
 *
 * The timer's state is in the value itself, which is shared memory. Starting one puts a record into a ring of the
 * namespace; a thread of the process that loaded the program reads it, waits, and fires there, wherever it was started,
 * what is still armed as it was then: every start, cancel and run makes a new generation, so a record of an earlier one
 * fires nothing. Without that ring nobody would fire, and bpf_timer_init gives -EPERM, which is the kernel's answer for
 * a map that no process holds.
 */
#include "timer.h"

#include "hash.h"
#include "helpers.h"
#include "system.h"
#include "thread.h"

#define CLOCKS 16u
#define ABSOLUTE 1u
#define PINNED 2u
#define WAITS 4096
#define ENOMEM_NUMBER 12

bool wb_execute_begin(struct wb_program *program, void *ctx, struct wb_run *run);
void wb_execute_end(struct wb_run *run);

static uint64_t phase(uint64_t state) { return state & WB_TIMER_PHASE; }

static uint64_t next_state(uint64_t state, uint64_t to) {
    return (state & ~WB_TIMER_PHASE) + (1ull << 32) + to;
}

static bool change(struct wb_timer *timer, uint64_t *old, uint64_t new) {
    return __atomic_compare_exchange_n(
        &timer->state, old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

HELPER(timer_init) {
    (void)r2, (void)r4, (void)r5;
    struct wb_timer *timer = (struct wb_timer *)r1;
    uint64_t none = WB_LOAD(&timer->state);
    if (r3 >= CLOCKS || (r3 != 0 && r3 != 1 && r3 != 7))
        return ERROR(WB_EINVAL);
    if (phase(none))
        return ERROR(WB_EBUSY);
    if (!run->space || !run->space->timers)
        return ERROR(WB_EPERM);
    WB_STORE(&timer->callback, 0);
    /* An earlier timer may have been in this memory: its records must not be taken for this one's. */
    uint64_t generation = wb_clock(1) / 1024 << 32;
    return change(timer, &none, generation | r3 << 4 | WB_TIMER_IDLE) ? 0 : ERROR(WB_EBUSY);
}

HELPER(timer_set_callback) {
    UNUSED(r3, r4, r5);
    struct wb_timer *timer = (struct wb_timer *)r1;
    if (!phase(WB_LOAD(&timer->state)))
        return ERROR(WB_EINVAL);
    WB_STORE(&timer->callback, r2);
    return 0;
}

static uint64_t monotonic(uint64_t state, uint64_t time, bool absolute) {
    uint64_t now = wb_clock(1), clock = state >> 4 & 15;
    uint64_t from = absolute ? wb_clock((int32_t)clock) : 0;
    uint64_t wait = time > from ? time - from : 0;
    return now + wait < now ? UINT64_MAX : now + wait;
}

HELPER(timer_start) {
    (void)r4, (void)r5;
    struct wb_timer *timer = (struct wb_timer *)r1;
    uint64_t old = WB_LOAD(&timer->state), callback = WB_LOAD(&timer->callback);
    if (r3 & ~(uint64_t)(ABSOLUTE | PINNED) || !phase(old) || !callback)
        return ERROR(WB_EINVAL);
    struct wb_map *ring = run->space ? run->space->timers : 0;
    struct wb_timer_start *record = ring && wb_ring_reserve ? wb_ring_reserve(run, ring, sizeof *record, 0) : 0;
    if (!record)
        return ERROR(ENOMEM_NUMBER);
    uint64_t new;
    do
        new = next_state(old, WB_TIMER_ARMED);
    while (!change(timer, &old, new));
    *record = (struct wb_timer_start){
        monotonic(new, r2, r3 & ABSOLUTE), r1, new, callback, (uint64_t)run->program,
        (uint32_t)wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0), 0};
    wb_ring_commit(run, record, 0);
    return 0;
}

/* The timer that this run serves is in run->reserved2. */
HELPER(timer_cancel) {
    UNUSED(r2, r3, r4);
    (void)r5;
    struct wb_timer *timer = (struct wb_timer *)r1;
    uint64_t old = WB_LOAD(&timer->state), seen;
    if (!phase(old))
        return ERROR(WB_EINVAL);
    if (run->reserved2 == r1)
        return ERROR(WB_EDEADLK);
    WB_STORE(&timer->callback, 0);
    for (int i = 0; i < WAITS && phase(old) == WB_TIMER_RUNNING; i++) {
        wb_yield();
        old = WB_LOAD(&timer->state);
    }
    do
        seen = old;
    while (!change(timer, &old, next_state(old, WB_TIMER_IDLE)));
    return phase(seen) == WB_TIMER_ARMED;
}

/* Key and start of the value that an address lies in; false for a map that has no timers. */
static bool element(struct wb_map *map, uint64_t at, uint32_t *index, void **key, void **value) {
    uint64_t first = (uint64_t)map->values;
    if (at < first || !map->stride || at - first >= map->length)
        return false;
    *index = (uint32_t)((at - first) / map->stride);
    uint8_t *start = map->values + (uint64_t)*index * map->stride;
    if (map->type == 2) {
        *key = index;
        *value = start;
        return *index < map->max_entries;
    }
    *key = wb_slot_key((struct wb_slot *)start);
    *value = start + wb_value_at(map);
    return (map->type == 1 || map->type == 9) && *index < wb_slots(map);
}

/* Runs the callback of a timer if it is still armed as the record says: 1 = it ran, 0 = not any more, -EBUSY = this
 * thread runs a program, -EINVAL = no such timer. */
WB_EXPORT int64_t wb_timer_fire(
    struct wb_run *run, struct wb_map *map, const struct wb_timer_start *record) {
    struct wb_timer *timer = (struct wb_timer *)record->timer;
    struct wb_program *program = (struct wb_program *)record->program;
    uint32_t index;
    void *key, *value;
    if (record->timer % 8 || !element(map, record->timer, &index, &key, &value))
        return -WB_EINVAL;
    if (!wb_execute_begin(program, 0, run))
        return -WB_EBUSY;
    uint64_t state = record->state, running = next_state(state, WB_TIMER_RUNNING);
    int64_t ran = 0;
    /* A deleted element's timer is cancelled. */
    if (map->ops->lookup(run, map, key) == value && change(timer, &state, running)) {
        run->reserved2 = record->timer;
        ((wb_callback)record->callback)((uint64_t)map, (uint64_t)key, (uint64_t)value, 0, 0, run);
        run->reserved2 = 0;
        change(timer, &running, next_state(running, WB_TIMER_IDLE));
        ran = 1;
    }
    wb_execute_end(run);
    return ran;
}
