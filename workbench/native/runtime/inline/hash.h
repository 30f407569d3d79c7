/* Lookups and updates of the hash family for the JIT to inline, for keys of WB_KEY bytes: compiled to bitcode only. */
#define WB_KEY_SIZE(map) ((void)(map), (uint32_t)WB_KEY)
#define WB_COPY(to, from, size) __builtin_memcpy(to, from, size) /* of constant, small size when it is inlined */
#include "../hash.c"

#define NAME_(name, size) wb_inline_##name##_##size
#define NAME(name, size) NAME_(name, size)
#define FUNCTION(name, function)                                                                                         \
    void *NAME(name, WB_KEY)(struct wb_run *run, struct wb_map *map, const void *key);                                 \
    __attribute__((flatten)) void *NAME(name, WB_KEY)(                                                                 \
        struct wb_run *run, struct wb_map *map, const void *key) {                                                     \
        return function(run, map, key);                                                                                \
    }

FUNCTION(hash, hash_lookup)
FUNCTION(lru, lru_lookup)
FUNCTION(percpu, percpu_lookup)

/* The usual update; `size` of the value is a constant where this is called. Everything else is the type's own. */
int64_t NAME(update, WB_KEY)(struct wb_run *run, struct wb_map *map, const void *key, const void *value,
                             uint64_t flags, uint32_t size);
__attribute__((flatten)) int64_t NAME(update, WB_KEY)(
    struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags, uint32_t size) {
    if (__builtin_expect(replace(run, map, key, value, flags, size), 1))
        return 0;
    return map->ops->update(run, map, key, value, flags);
}
