/* Program arrays, arrays of maps, hashes of maps (kernel/bpf/arraymap.c, map_in_map.c): the shared part holds ids. */
#include "nested.h"

#define FIRST_ENTRIES 256u

struct entry {
    uint64_t id;
    void *object;
};

/* Open addressing; grows by being replaced, the old one is kept for readers that are in it. */
struct table {
    uint64_t capacity, count;
    struct entry entries[];
};

struct shape {
    uint32_t set, type, key_size, value_size, max_entries, flags;
    uint8_t rest[WB_LINE - 24];
};

enum { ARRAY = 2, PROG_ARRAY = 3, ARRAY_OF_MAPS = 12 }; /* enum bpf_map_type */
/* Process-local, right before wb_map.local. */
struct offers {
    struct table *table;
    uint64_t lock;
};

static struct offers *offers(const struct wb_map *map)
{
    return (struct offers *)map->local - 1;
}

static struct table *table_of(const struct wb_map *map)
{
    return WB_LOAD(&offers(map)->table);
}

/* `local` with room for `bytes` of the type's own. */
static int64_t make_local(struct wb_map *map, uint64_t bytes)
{
    uint8_t *memory = wb_private_memory(sizeof(struct offers) + bytes, true);

    map->local = memory ? memory + sizeof(struct offers) : NULL;
    return memory ? 0 : -ENOMEM;
}

static struct entry *entry_of(struct table *table, uint32_t id)
{
    for (uint64_t i = id * 0x9e3779b1u, n = 0; n < table->capacity; i++, n++) {
        struct entry *e = &table->entries[i & (table->capacity - 1)];
        uint64_t have = WB_LOAD(&e->id);

        if (have == id || !have)
            return e;
    }
    return NULL;
}

static void *object_of(const struct wb_map *map, uint32_t id)
{
    struct table *table = table_of(map);
    struct entry *e = id && table ? entry_of(table, id) : NULL;

    return e && WB_LOAD(&e->id) == id ? WB_LOAD(&e->object) : NULL;
}

static struct table *new_table(uint64_t capacity)
{
    struct table *table = wb_private_memory(sizeof *table + capacity * sizeof(struct entry), true);

    if (table)
        table->capacity = capacity;
    return table;
}

static void put(struct table *table, uint32_t id, void *object)
{
    struct entry *e = entry_of(table, id);

    table->count += !e->id;
    WB_STORE(&e->object, object);
    WB_STORE(&e->id, (uint64_t)id);
}

WB_EXPORT int64_t wb_nested_offer(struct wb_map *outer, uint32_t id, void *object)
{
    uint64_t *lock = &offers(outer)->lock;
    int64_t error = 0;

    if (!id)
        return -EINVAL;
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
        wb_yield();
    struct table *table = table_of(outer);

    if (!table || table->count * 2 >= table->capacity) {
        struct table *larger = new_table(table ? table->capacity * 2 : FIRST_ENTRIES);

        for (uint64_t i = 0; larger && table && i < table->capacity; i++)
            if (table->entries[i].object)
                put(larger, (uint32_t)table->entries[i].id, table->entries[i].object);
        if (larger)
            WB_STORE(&offers(outer)->table, larger);
        else
            error = -ENOMEM;
        table = larger;
    }
    if (table)
        put(table, id, object);
    WB_STORE(lock, 0ull);
    if (!error && outer->type == PROG_ARRAY)
        wb_prog_array_refresh(outer);
    return error;
}

/* --- arrays of ids ------------------------------------------------------------------------------------------------- */

static uint64_t ids_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (s->key_size != 4 || s->value_size != 4 || !s->max_entries ||
        s->flags & ~(uint32_t)(WB_F_NUMA_NODE | WB_F_RDONLY | WB_F_WRONLY))
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_LINE) + sizeof(struct shape) + 4 * (uint64_t)s->max_entries;
}

static int64_t ids_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t ids_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = ids_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    map->values = map->segment + s->offset + sizeof(struct shape);
    map->stride = 4;
    return 0;
}

static int64_t programs_open(struct wb_map *map)
{
    int64_t error = ids_open(map);

    return error ? error : make_local(map, 8 * (uint64_t)map->max_entries);
}

static int64_t maps_open(struct wb_map *map)
{
    int64_t error = ids_open(map);

    return error ? error : make_local(map, 0);
}

static uint32_t word(const void *key)
{
    uint32_t value;

    __builtin_memcpy(&value, key, 4);
    return value;
}

static uint32_t *id_at(const struct wb_map *map, uint32_t index)
{
    return (uint32_t *)map->values + index;
}

static struct wb_program **local(const struct wb_map *map)
{
    return map->local;
}

WB_EXPORT int64_t wb_prog_array_refresh(struct wb_map *map)
{
    int64_t missing = 0;

    for (uint32_t i = 0; i < map->max_entries; i++) {
        uint32_t id = WB_LOAD(id_at(map, i));
        struct wb_program *program = object_of(map, id);

        missing += id && !program;
        if (WB_PEEK(&local(map)[i]) != program)
            WB_STORE(&local(map)[i], program);
    }
    return missing;
}

WB_EXPORT struct wb_program *wb_program_at(struct wb_run *run, struct wb_map *map, uint32_t index)
{
    (void)run;
    if (index >= map->max_entries)
        return NULL;
    uint32_t id = WB_LOAD(id_at(map, index));
    struct wb_program *program = WB_LOAD(&local(map)[index]);

    if (!id || (program && program->id == id))
        return id ? program : NULL;
    program = object_of(map, id);
    WB_STORE(&local(map)[index], program);
    return program;
}

static int64_t ids_check(const struct wb_map *map, const void *key, uint64_t flags)
{
    if (flags != WB_ANY)
        return -EINVAL;
    return word(key) >= map->max_entries ? -E2BIG : 0;
}

static int64_t programs_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                              uint64_t flags)
{
    (void)run;
    int64_t error = ids_check(map, key, flags);
    struct wb_program *program = object_of(map, word(value));

    if (error)
        return error;
    if (!program)
        return -EBADF;
    WB_STORE(&local(map)[word(key)], program);
    WB_STORE(id_at(map, word(key)), word(value));
    return 0;
}

static int64_t ids_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run;
    if (word(key) >= map->max_entries)
        return -E2BIG;
    return __atomic_exchange_n(id_at(map, word(key)), 0, __ATOMIC_ACQ_REL) ? 0 : -ENOENT;
}

static int64_t programs_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    int64_t error = ids_erase(run, map, key);

    if (!error)
        WB_STORE(&local(map)[word(key)], NULL);
    return error;
}

static int64_t ids_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    (void)run;
    if (flags)
        return -EINVAL;
    uint32_t id = word(key) < map->max_entries ? WB_LOAD(id_at(map, word(key))) : 0;

    if (id)
        __builtin_memcpy(value, &id, 4);
    return id ? 0 : -ENOENT;
}

static int64_t ids_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run;
    uint32_t index = key ? word(key) : UINT32_MAX;

    if (index == map->max_entries - 1)
        return -ENOENT;
    index = index >= map->max_entries ? 0 : index + 1;
    __builtin_memcpy(next, &index, 4);
    return 0;
}

static void *no_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return NULL;
}

static int64_t no_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run, (void)map, (void)key, (void)value, (void)flags;
    return -EINVAL;
}

/* --- maps of maps --------------------------------------------------------------------------------------------------- */

static struct shape *shape_of(const struct wb_map *map)
{
    return (struct shape *)(map->values - sizeof(struct shape));
}

WB_EXPORT int64_t wb_nested_shape(struct wb_map *outer, uint32_t type, uint32_t key_size, uint32_t value_size,
                                  uint32_t max_entries, uint32_t flags)
{
    if (outer->type != ARRAY_OF_MAPS)
        return -EOPNOTSUPP;
    *shape_of(outer) = (struct shape){1, type, key_size, value_size, max_entries, flags, {0}};
    return 0;
}

/* kernel/bpf/map_in_map.c, bpf_map_meta_equal */
static bool fits(const struct shape *shape, const struct wb_map *inner)
{
    return !shape->set ||
           (shape->type == inner->type && shape->key_size == inner->key_size &&
            shape->value_size == inner->value_size && shape->flags == inner->flags &&
            (shape->max_entries == inner->max_entries || inner->type != ARRAY || inner->flags & WB_F_INNER_MAP));
}

static int64_t maps_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    (void)run;
    int64_t error = ids_check(map, key, flags);
    struct wb_map *inner = object_of(map, word(value));

    if (error)
        return error;
    if (!inner)
        return -EBADF;
    if (!fits(shape_of(map), inner))
        return -EINVAL;
    WB_STORE(id_at(map, word(key)), word(value));
    return 0;
}

static void *maps_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run;
    uint32_t index = word(key);

    return index < map->max_entries ? object_of(map, WB_LOAD(id_at(map, index))) : NULL;
}

/* A hash of maps is a hash whose values are ids. */
extern const struct wb_map_ops wb_hash_ops __attribute__((visibility("hidden")));

static uint64_t hash_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    return s->value_size == 4 ? wb_hash_ops.size(s, error) : 0;
}

static int64_t hash_format(struct wb_segment *s)
{
    return wb_hash_ops.format(s);
}

static int64_t hash_open(struct wb_map *map)
{
    int64_t error = wb_hash_ops.open(map);

    return error ? error : make_local(map, 0);
}

static void *hash_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    const uint32_t *id = wb_hash_ops.lookup(run, map, key);

    return id ? object_of(map, WB_LOAD(id)) : NULL;
}

static int64_t hash_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    return object_of(map, word(value)) ? wb_hash_ops.write(run, map, key, value, flags) : -EBADF;
}

static int64_t hash_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    return wb_hash_ops.erase(run, map, key);
}

static int64_t hash_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    return wb_hash_ops.read(run, map, key, value, flags);
}

static int64_t hash_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    return wb_hash_ops.next_key(run, map, key, next);
}

const struct wb_map_ops wb_prog_array_ops = {
    .lookup = no_lookup,
    .update = no_update,
    .erase = programs_erase,
    .read = ids_read,
    .write = programs_write,
    .next_key = ids_next,
    .size = ids_size,
    .format = ids_format,
    .open = programs_open,
};

const struct wb_map_ops wb_array_of_maps_ops = {
    .lookup = maps_lookup,
    .update = no_update,
    .erase = ids_erase,
    .read = ids_read,
    .write = maps_write,
    .next_key = ids_next,
    .size = ids_size,
    .format = ids_format,
    .open = maps_open,
};

const struct wb_map_ops wb_hash_of_maps_ops = {
    .lookup = hash_lookup,
    .update = no_update,
    .erase = hash_erase,
    .read = hash_read,
    .write = hash_write,
    .next_key = hash_next,
    .size = hash_size,
    .format = hash_format,
    .open = hash_open,
};
