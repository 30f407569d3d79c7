/* The hash family's segments: what the kernel refuses (htab_map_alloc_check), where things are, opening. */
#include "hash.h"
#include "system.h"

#define HASH_FLAGS (1u | 2u | 4u | 8u | 16u | 64u | 128u | 256u) /* HTAB_CREATE_FLAG_MASK */
#define NO_PREALLOC 1u
#define NO_COMMON_LRU 2u
#define NUMA_NODE 4u
#define CALL_ACCESS (8u | 16u)
#define PROGRAM_ACCESS (128u | 256u)
#define LARGEST (1u << 22)       /* KMALLOC_MAX_SIZE */
#define LARGEST_PERCPU (1u << 15) /* PCPU_MIN_UNIT_SIZE */
#define KEPT (96u << 10)          /* bytes of slots that a thread takes at a time */

static uint64_t up(uint64_t size, uint64_t to) { return (size + to - 1) / to * to; }

/* A grace period per batch: membarrier(2) interrupts the processors that run participants, microseconds in a guest.
 * Small maps have small batches: an object has many of them. */
static uint32_t batch_of(uint64_t bytes, uint32_t entries) {
    uint64_t batch = KEPT / bytes, most = entries < 128 ? 128 : entries < 1024 ? entries : 1024;
    return batch < 4 ? 4 : batch > most ? (uint32_t)most : (uint32_t)batch;
}

static int64_t refused(const struct wb_segment *s) {
    bool lru = s->type == 9 || s->type == 10, percpu = s->type == 5 || s->type == 10;
    if (s->flags & ~HASH_FLAGS || (s->flags & PROGRAM_ACCESS) == PROGRAM_ACCESS ||
        (s->flags & CALL_ACCESS) == CALL_ACCESS)
        return -EINVAL;
    if (!lru && s->flags & NO_COMMON_LRU)
        return -EINVAL;
    if (lru && s->flags & NO_PREALLOC)
        return -WB_HASH_ENOTSUPP;
    if (s->flags & NUMA_NODE && (percpu || s->flags & NO_COMMON_LRU))
        return -EINVAL;
    if (!s->max_entries || !s->key_size || !s->value_size)
        return -EINVAL;
    if ((uint64_t)s->key_size + s->value_size >= LARGEST - 48)
        return -E2BIG;
    if (percpu && up(s->value_size, 8) > LARGEST_PERCPU)
        return -E2BIG;
    return s->max_entries > 1u << 31 ? -E2BIG : 0;
}

int64_t wb_hash_layout(const struct wb_segment *s, struct wb_hash *layout) {
    bool percpu = s->type == 5 || s->type == 10;
    int64_t error = refused(s);
    if (error)
        return error;
    uint64_t buckets = 1; /* two to four entries in each */
    while (buckets < ((uint64_t)s->max_entries + 3) / 4)
        buckets <<= 1;
    layout->buckets = (uint32_t)buckets;
    layout->value = (uint32_t)(sizeof(struct wb_slot) + up(s->key_size, 8));
    layout->stride = (uint32_t)(layout->value + (percpu ? 0 : up(s->value_size, 8)));
    /* Besides the entries: what a few threads that update at full speed keep in quarantine. */
    layout->batch = batch_of(layout->stride + (percpu ? up(s->value_size, 8) * s->cpus : 0), s->max_entries);
    uint64_t count = (uint64_t)s->max_entries + 8 * layout->batch + 1;
    if (buckets > UINT32_MAX || count >= UINT32_MAX)
        return -E2BIG;
    layout->count = (uint32_t)count;
    layout->heads = up(WB_SEGMENT_HEADER + sizeof(struct wb_hash_header), WB_LINE);
    layout->slots = layout->heads + buckets * sizeof(struct wb_bucket);
    layout->values = up(layout->slots + (count + 1) * layout->stride, WB_LINE);
    layout->row = percpu ? count * up(s->value_size, 8) : 0;
    layout->blocks = up(layout->values + layout->row * (percpu ? s->cpus : 0), WB_LINE);
    layout->length = layout->blocks + sizeof(struct wb_block) * WB_PARTICIPANTS;
    return 0;
}

uint64_t wb_hash_size(const struct wb_segment *segment, int64_t *error) {
    struct wb_hash layout;
    *error = wb_hash_layout(segment, &layout);
    return *error ? 0 : layout.length;
}

int64_t wb_hash_format(struct wb_segment *segment) {
    struct wb_hash layout;
    int64_t error = wb_hash_layout(segment, &layout);
    if (error)
        return error;
    uint8_t *base = (uint8_t *)segment;
    struct wb_hash_header *header = (struct wb_hash_header *)(base + WB_SEGMENT_HEADER);
    header->bias = WB_BIAS_NONE;
    header->seed = 0x2545f4914f6cdd1dull;
    if (!(segment->flags & 64u)) /* BPF_F_ZERO_SEED */
        wb_system_call(SYS_getrandom, (int64_t)&header->seed, 8, 1, 0, 0, 0);
    struct wb_block *store = (struct wb_block *)(base + layout.blocks);
    store->queue.head = 1;
    store->queue.tail = layout.count - 1;
    store->queue.count = layout.count - 1;
    store->queue.credits = segment->max_entries;
    return 0;
}

int64_t wb_hash_open(struct wb_map *map) {
    struct wb_segment attributes = {
        .type = map->type,
        .key_size = map->key_size,
        .value_size = map->value_size,
        .max_entries = map->max_entries,
        .flags = map->flags,
        .cpus = map->cpus,
    };
    struct wb_hash layout;
    int64_t error = wb_hash_layout(&attributes, &layout);
    if (error)
        return error;
    if (layout.length > map->length)
        return -EINVAL;
    map->values = map->segment + layout.slots;
    map->stride = layout.stride;
    map->mask = layout.buckets - 1;
    map->cpu_stride = layout.row ? (uint32_t)up(map->value_size, 8) : 0;
    map->reserved[WB_HASH_BUCKETS] = (uint64_t)(map->segment + layout.heads);
    map->reserved[WB_HASH_BLOCKS] = (uint64_t)(map->segment + layout.blocks);
    map->reserved[WB_HASH_SEED] = ((struct wb_hash_header *)(map->segment + WB_SEGMENT_HEADER))->seed;
    map->reserved[WB_HASH_SIZES] = layout.count | (uint64_t)layout.value << 32;
    map->reserved[WB_HASH_ROWS] = layout.row ? (uint64_t)(map->segment + layout.values) : 0;
    return 0;
}

uint32_t wb_hash_batch(const struct wb_map *map) {
    return batch_of(map->stride + (uint64_t)map->cpu_stride * map->cpus, map->max_entries);
}
