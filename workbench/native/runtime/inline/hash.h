/* Lookups in the hash family for the JIT to inline, for keys of WB_KEY bytes: compiled to bitcode only. */
#define WB_KEY_SIZE(map) ((void)(map), (uint32_t)WB_KEY)
#include "../hash.c"

#define NAME_(name, size) wb_inline_##name##_##size
#define NAME(name, size) NAME_(name, size)
#define INLINE(name, function)                                                                                         \
    void *NAME(name, WB_KEY)(struct wb_run *run, struct wb_map *map, const void *key);                                 \
    __attribute__((flatten)) void *NAME(name, WB_KEY)(                                                                 \
        struct wb_run *run, struct wb_map *map, const void *key) {                                                     \
        return function(run, map, key);                                                                                \
    }

INLINE(hash, hash_lookup)
INLINE(lru, lru_lookup)
INLINE(percpu, percpu_lookup)
