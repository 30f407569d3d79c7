/* Task storage (kernel/bpf/bpf_task_storage.c): a value for every thread of the namespace, found by its number.
 *
 * A value counts while the identity in front of it is its thread's: it is gone when the thread is, and when its number
 * belongs to the next. Each number has two places, used in turn, so that a program that still holds a value which was
 * deleted does not see the next one come into being.
 * The key of the system call side is a thread id; the kernel's is a pidfd.
 */
#include "map_type.h"

#define CREATE 1u

struct owner {
    uint32_t lock;
    uint32_t place;       /* 0 or 1: the one that counts */
    uint32_t identity[2]; /* of the thread whose value this is, 0 = none */
};

static uint64_t stride(uint32_t value_size)
{
    return wb_up(sizeof(struct owner) + 2 * wb_up(value_size, 8), 16);
}

static uint64_t storage_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (s->max_entries || s->key_size != 4 || !s->value_size || !(s->flags & WB_F_NO_PREALLOC) ||
        s->flags & ~(uint32_t)(WB_F_NO_PREALLOC | (1 << 9) /* BPF_F_CLONE */))
        return 0;
    *error = -E2BIG;
    if (s->value_size > 65536)
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_LINE) + stride(s->value_size) * WB_PARTICIPANTS;
}

static int64_t storage_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t storage_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = storage_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    map->values = map->segment + s->offset;
    map->stride = (uint32_t)stride(map->value_size);
    return 0;
}

static struct owner *owner_at(const struct wb_map *map, uint32_t number)
{
    return (struct owner *)(map->values + (uint64_t)(number % WB_PARTICIPANTS) * map->stride);
}

static void *value_at(const struct wb_map *map, struct owner *o, uint32_t place)
{
    return (uint8_t *)(o + 1) + (place & 1) * wb_up(map->value_size, 8);
}

static void *find(const struct wb_map *map, uint32_t identity)
{
    struct owner *o = owner_at(map, identity);
    uint32_t place = WB_LOAD(&o->place) & 1;

    return WB_LOAD(&o->identity[place]) == identity ? value_at(map, o, place) : NULL;
}

static int64_t make(struct wb_run *run, struct wb_map *map, uint32_t identity, const void *value, void **made)
{
    struct owner *o = owner_at(map, identity);
    int64_t taken = wb_take_word(run, map->space, &o->lock);

    if (taken < 0)
        return taken;
    *made = find(map, identity); /* another thread may have been first */
    if (!*made) {
        uint32_t place = !(o->place & 1);

        WB_STORE(&o->identity[place], 0u);
        *made = value_at(map, o, place);
        if (value)
            wb_copy(*made, value, map->value_size);
        else
            wb_clear(*made, map->value_size);
        WB_STORE(&o->identity[place], identity);
        WB_STORE(&o->place, place);
    }
    wb_give_word(&o->lock);
    return 0;
}

static int64_t drop(struct wb_run *run, struct wb_map *map, uint32_t identity)
{
    struct owner *o = owner_at(map, identity);
    int64_t taken = wb_take_word(run, map->space, &o->lock), error = -ENOENT;

    if (taken < 0)
        return taken;
    if (o->identity[o->place & 1] == identity) {
        WB_STORE(&o->identity[o->place & 1], 0u);
        error = 0;
    }
    wb_give_word(&o->lock);
    return error;
}

WB_EXPORT void *wb_storage_get(struct wb_run *run, struct wb_map *map, const void *initial, uint64_t flags)
{
    const uint32_t me = wb_identity(run);
    void *value = find(map, me);

    if (value || flags != CREATE)
        return flags & ~(uint64_t)CREATE ? NULL : value;
    return make(run, map, me, initial, &value) ? NULL : value;
}

WB_EXPORT int64_t wb_storage_delete(struct wb_run *run, struct wb_map *map)
{
    return drop(run, map, wb_identity(run));
}

/* --- the system call side: by thread id ---------------------------------------------------------------------------- */

static uint32_t identity_of(const struct wb_map *map, uint32_t number)
{
    return number | map->space->participants[number].generation << 12;
}

/* The live thread with this id; 0 = none in the namespace. */
static uint32_t thread(const struct wb_map *map, const void *key)
{
    uint32_t tid, highest = map->space ? WB_LOAD(&wb_shared(map->space)->highest) : 0;

    __builtin_memcpy(&tid, key, 4);
    for (uint32_t i = 1; i <= highest && i < WB_PARTICIPANTS; i++)
        if (WB_PEEK(&map->space->participants[i].tid) == tid && !wb_dead(map->space, i))
            return identity_of(map, i);
    return 0;
}

static int64_t storage_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run;
    uint32_t identity = thread(map, key);
    void *found = identity ? find(map, identity) : NULL;

    if (flags)
        return -EINVAL;
    if (!identity)
        return -ESRCH;
    if (!found)
        return -ENOENT;
    wb_copy(value, found, map->value_size);
    return 0;
}

static int64_t storage_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                             uint64_t flags)
{
    uint32_t identity = thread(map, key);
    void *found = identity ? find(map, identity) : NULL;

    if (flags > WB_EXIST)
        return -EINVAL;
    if (!identity)
        return -ESRCH;
    if (found && flags == WB_NOEXIST)
        return -EEXIST;
    if (!found && flags == WB_EXIST)
        return -ENOENT;
    if (found) { /* a whole new value, as the kernel does */
        int64_t error = drop(run, map, identity);

        if (error && error != -ENOENT)
            return error;
    }
    return make(run, map, identity, value, &found);
}

static int64_t storage_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    uint32_t identity = thread(map, key);

    return identity ? drop(run, map, identity) : -ESRCH;
}

static int64_t storage_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run;
    uint32_t after = key ? thread(map, key) % WB_PARTICIPANTS : 0;
    uint32_t highest = map->space ? WB_LOAD(&wb_shared(map->space)->highest) : 0;

    for (uint32_t i = after + 1; i <= highest && i < WB_PARTICIPANTS; i++)
        if (!wb_dead(map->space, i) && find(map, identity_of(map, i))) {
            __builtin_memcpy(next, &map->space->participants[i].tid, 4);
            return 0;
        }
    return -ENOENT;
}

static void *storage_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t storage_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                              uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -EINVAL;
}

const struct wb_map_ops wb_task_storage_ops = {
    .lookup = storage_lookup,
    .update = storage_update,
    .erase = storage_erase,
    .read = storage_read,
    .write = storage_write,
    .next_key = storage_next,
    .size = storage_size,
    .format = storage_format,
    .open = storage_open,
};
