/* Drives maps from a process of its own: benchmarks, and the tests that kill it meanwhile. */
#include <string.h>

#include "runtime/maps.h"
#include "runtime/runtime.h"
#include "runtime/space.h"

#define LONGEST 4096

static uint64_t step(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* `count` program runs, each one operation on a key drawn from [first, first + keys): keys are the number, zeros behind.
 * what: 0 nothing (the loop's cost), 1 lookup and read of the value, 2 update, 3 insert and delete, 4 lookup of keys
 * that are not there, 5 add one to the value that the lookup gave. Returns a sum, for the compiler to keep everything. */
WB_EXPORT uint64_t wb_map_drive(struct wb_run *run, struct wb_map *map, int what, uint64_t first, uint64_t keys,
                                uint64_t count, uint64_t seed) {
    static _Thread_local uint8_t key[LONGEST] __attribute__((aligned(8))), value[65536] __attribute__((aligned(8)));
    const struct wb_map_ops *ops = map->ops;
    uint64_t state = seed | 1, sum = 0;
    if (map->key_size > LONGEST || map->value_size > sizeof value)
        return 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t number = first + (uint64_t)(((unsigned __int128)step(&state) * keys) >> 64), *found;
        if (what == 4)
            number += keys;
        memcpy(key, &number, 8);
        if (!wb_begin(run))
            continue;
        switch (what) {
        case 1:
        case 4:
            found = ops->lookup(run, map, key);
            if (found)
                sum += *found;
            break;
        case 2:
            memcpy(value, &number, 4);
            sum += (uint64_t)ops->update(run, map, key, value, 0);
            break;
        case 3:
            sum += (uint64_t)ops->update(run, map, key, value, 0);
            sum += (uint64_t)ops->erase(run, map, key);
            break;
        case 5:
            found = ops->lookup(run, map, key);
            if (found)
                ++*found;
            break;
        default:
            sum += number;
        }
        wb_end(run);
    }
    return sum;
}

/* One program run that is given the value of a key (8 bytes each) and then replaces it `count` times. Returns the errors,
 * or -1 when what it was given changed meanwhile. */
WB_EXPORT int64_t wb_map_drive_held(struct wb_run *run, struct wb_map *map, uint64_t key, uint64_t count) {
    int64_t errors = 0;
    if (!wb_begin(run))
        return -2;
    const uint64_t *held = map->ops->lookup(run, map, &key);
    uint64_t before = held ? *held : 0;
    for (uint64_t i = 1; i <= count; i++) {
        uint64_t value = before + i;
        errors += map->ops->update(run, map, &key, &value, 0) != 0;
    }
    if (!held || WB_PEEK(held) != before)
        errors = -1;
    wb_end(run);
    return errors;
}

/* Random updates, deletions and lookups until `*stop`; every value names its key and is whole or it is counted in
 * *wrong, also at the end of a program that holds it for a while. *made counts what was done. */
WB_EXPORT void wb_map_drive_checked(struct wb_run *run, struct wb_map *map, uint64_t keys, uint64_t seed,
                                    const uint32_t *stop, uint64_t *made, uint64_t *wrong, int writes) {
    static _Thread_local uint64_t key[LONGEST / 8], value[8192];
    uint64_t state = seed | 1, words = map->value_size / 8;
    if (map->key_size > LONGEST || map->value_size > sizeof value || map->key_size < 8)
        return;
    while (!WB_LOAD(stop)) {
        uint64_t choice = step(&state), number = step(&state) % keys;
        key[0] = number;
        if (!wb_begin(run))
            continue;
        if (writes && choice % 8 < 4) {
            uint64_t tag = number << 32 | (step(&state) & 0xffffffff);
            for (uint64_t i = 0; i < words; i++)
                value[i] = tag;
            map->ops->update(run, map, key, value, 0);
        } else if (writes && choice % 8 == 4) {
            map->ops->erase(run, map, key);
        } else {
            const uint64_t *found = map->ops->lookup(run, map, key);
            if (found) {
                for (uint64_t pass = 0; pass < 3; pass++) {
                    uint64_t tag = WB_PEEK(&found[0]);
                    uint64_t bad = tag >> 32 != number;
                    for (uint64_t i = 0; i < words; i++)
                        bad |= WB_PEEK(&found[i]) != tag;
                    if (bad)
                        __atomic_fetch_add(wrong, 1, __ATOMIC_RELAXED);
                    if (choice % 512 == 7 && !pass)
                        wb_yield();
                }
            }
        }
        wb_end(run);
        WB_PUT(made, WB_PEEK(made) + 1);
    }
}
