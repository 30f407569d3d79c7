/* Helpers on maps: thin, the work is the map type's. */
#include "helpers.h"
#include "nested.h"

#define OPS(map) (((struct wb_map *)(map))->ops)
#define POINTER(x) ((void *)(x))

HELPER(map_lookup_elem) {
    UNUSED(r3, r4, r5);
    return OPS(r1)->lookup ? (uint64_t)OPS(r1)->lookup(run, POINTER(r1), POINTER(r2)) : 0;
}

HELPER(map_update_elem) {
    UNUSED(r5, 0, 0);
    return OPS(r1)->update ? (uint64_t)OPS(r1)->update(run, POINTER(r1), POINTER(r2), POINTER(r3), r4)
                           : ERROR(WB_EOPNOTSUPP);
}

HELPER(map_delete_elem) {
    UNUSED(r3, r4, r5);
    return OPS(r1)->erase ? (uint64_t)OPS(r1)->erase(run, POINTER(r1), POINTER(r2)) : ERROR(WB_EOPNOTSUPP);
}

HELPER(map_push_elem) {
    UNUSED(r4, r5, 0);
    return OPS(r1)->push ? (uint64_t)OPS(r1)->push(run, POINTER(r1), POINTER(r2), r3) : ERROR(WB_EOPNOTSUPP);
}

HELPER(map_pop_elem) {
    UNUSED(r3, r4, r5);
    return OPS(r1)->pop ? (uint64_t)OPS(r1)->pop(run, POINTER(r1), POINTER(r2)) : ERROR(WB_EOPNOTSUPP);
}

HELPER(map_peek_elem) {
    UNUSED(r3, r4, r5);
    return OPS(r1)->peek ? (uint64_t)OPS(r1)->peek(run, POINTER(r1), POINTER(r2)) : ERROR(WB_EOPNOTSUPP);
}

HELPER(map_lookup_percpu_elem) {
    UNUSED(r4, r5, 0);
    return OPS(r1)->lookup_percpu
               ? (uint64_t)OPS(r1)->lookup_percpu(run, POINTER(r1), POINTER(r2), (uint32_t)r3)
               : 0;
}

HELPER(for_each_map_elem) {
    UNUSED(r5, 0, 0);
    if (r4)
        return ERROR(WB_EINVAL);
    return OPS(r1)->for_each ? (uint64_t)OPS(r1)->for_each(run, POINTER(r1), (wb_callback)r2, POINTER(r3), r4)
                             : ERROR(WB_EINVAL);
}

/* The verifier gives the map and the callback's task; only the running thread's own storage can be had. */
HELPER(task_storage_get) {
    UNUSED(r2, r5, 0);
    if (r4 & ~1ull)
        return 0;
    return wb_storage_get ? (uint64_t)wb_storage_get(run, POINTER(r1), POINTER(r3), r4) : 0;
}

HELPER(task_storage_delete) {
    UNUSED(r3, r4, r5);
    (void)r2;
    return wb_storage_delete ? (uint64_t)wb_storage_delete(run, POINTER(r1)) : ERROR(WB_EOPNOTSUPP);
}

/* The entry of the program to go on with, 0 = go on with the next instruction (no such program, or 33 tail calls were
 * made): callers jump to it with the same context and do not return. The run is the target's from then on. */
HELPER(tail_call) {
    (void)r1, (void)r4, (void)r5;
    struct wb_map *array = (struct wb_map *)r2;
    if (run->tail_calls >= 33 || !array->local)
        return 0;
    struct wb_program *target = wb_program_at(run, array, (uint32_t)r3);
    if (!target)
        return 0;
    run->tail_calls++;
    run->program = target;
    run->maps = target->maps;
    return (uint64_t)WB_LOAD(&target->entry);
}
