/* Queue and stack (kernel/bpf/queue_stack_maps.c), safe against writers that die.
 *
 * A ring of max_entries + 1 slots, of which one is always free. A push fills the free slot at `head` and then commits
 * with one store: `version` goes up by one and names by its lowest bit which of two states (head, tail) counts. A
 * writer that dies before that store has changed nothing that anybody sees; the lock is taken from it. A peek takes no
 * lock: it copies, and looks whether the version is still the same.
 */
#include "map_type.h"

struct queue {
    uint64_t version;
    struct {
        uint32_t head, tail; /* next free slot, oldest element; equal = empty */
    } state[2];
    uint32_t lock, reserved;
    uint8_t rest[WB_LINE - 32];
};

static uint64_t stride(uint32_t value_size)
{
    return wb_up(value_size, 8);
}

static uint64_t queue_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (!s->max_entries || !s->value_size || s->key_size || !wb_flags_allowed(s, WB_F_NUMA_NODE | WB_F_ACCESS))
        return 0;
    *error = -E2BIG;
    if (s->value_size > WB_MAX_VALUE || s->max_entries == UINT32_MAX)
        return 0;
    *error = 0;
    return wb_data_offset(s, WB_LINE) + sizeof(struct queue) + ((uint64_t)s->max_entries + 1) * stride(s->value_size);
}

static int64_t queue_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t queue_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = queue_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    map->values = map->segment + s->offset + sizeof(struct queue);
    map->stride = (uint32_t)stride(s->value_size);
    map->local = map->segment + s->offset;
    return 0;
}

static void *slot(const struct wb_map *map, uint32_t index)
{
    return map->values + (uint64_t)(index <= map->max_entries ? index : 0) * map->stride;
}

static uint32_t after(const struct wb_map *map, uint32_t index)
{
    return index >= map->max_entries ? 0 : index + 1;
}

static uint32_t before(const struct wb_map *map, uint32_t index)
{
    return index == 0 || index > map->max_entries ? map->max_entries : index - 1;
}

/* The one store that makes a change. */
static void commit(struct queue *q, uint32_t head, uint32_t tail)
{
    uint64_t version = WB_PEEK(&q->version) + 1;

    WB_PUT(&q->state[version & 1].head, head);
    WB_PUT(&q->state[version & 1].tail, tail);
    WB_STORE(&q->version, version);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* whoever writes a slot next does it after the version */
}

static int64_t queue_push(struct wb_run *run, struct wb_map *map, const void *value, uint64_t flags)
{
    struct queue *q = map->local;

    if (flags & WB_NOEXIST || flags > WB_EXIST)
        return -EINVAL;
    int64_t taken = wb_take_word(run, map->space, &q->lock);

    if (taken < 0)
        return taken;
    uint32_t head = q->state[q->version & 1].head, tail = q->state[q->version & 1].tail;

    if (after(map, head) == tail) {
        if (flags != WB_EXIST) {
            wb_give_word(&q->lock);
            return -E2BIG;
        }
        tail = after(map, tail);
    }
    wb_copy(slot(map, head), value, map->value_size);
    commit(q, after(map, head), tail);
    wb_give_word(&q->lock);
    return 0;
}

static int64_t look(struct wb_map *map, void *value, bool stack)
{
    struct queue *q = map->local;

    for (;;) {
        uint64_t version = WB_LOAD(&q->version);
        uint32_t head = WB_PEEK(&q->state[version & 1].head), tail = WB_PEEK(&q->state[version & 1].tail);

        if (head == tail)
            wb_clear(value, map->value_size);
        else
            wb_copy(value, slot(map, stack ? before(map, head) : tail), map->value_size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (WB_PEEK(&q->version) == version)
            return head == tail ? -ENOENT : 0;
        wb_relax();
    }
}

static int64_t take(struct wb_run *run, struct wb_map *map, void *value, bool stack)
{
    struct queue *q = map->local;
    int64_t taken = wb_take_word(run, map->space, &q->lock);

    if (taken < 0)
        return taken;
    uint32_t head = q->state[q->version & 1].head, tail = q->state[q->version & 1].tail;

    if (head == tail) {
        wb_give_word(&q->lock);
        wb_clear(value, map->value_size);
        return -ENOENT;
    }
    if (stack) {
        head = before(map, head);
        wb_copy(value, slot(map, head), map->value_size);
    } else {
        wb_copy(value, slot(map, tail), map->value_size);
        tail = after(map, tail);
    }
    commit(q, head, tail);
    wb_give_word(&q->lock);
    return 0;
}

static int64_t queue_pop(struct wb_run *run, struct wb_map *map, void *value)
{
    return take(run, map, value, false);
}

static int64_t stack_pop(struct wb_run *run, struct wb_map *map, void *value)
{
    return take(run, map, value, true);
}

static int64_t queue_peek(struct wb_run *run, struct wb_map *map, void *value)
{
    (void)run;
    return look(map, value, false);
}

static int64_t stack_peek(struct wb_run *run, struct wb_map *map, void *value)
{
    (void)run;
    return look(map, value, true);
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

static int64_t no_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run, (void)map, (void)key;
    return -EINVAL;
}

static int64_t no_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    (void)run, (void)map, (void)key, (void)next;
    return -EINVAL;
}

static int64_t queue_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    return key || flags ? -EINVAL : queue_peek(run, map, value);
}

static int64_t stack_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    return key || flags ? -EINVAL : stack_peek(run, map, value);
}

static int64_t queue_write(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    return key ? -EINVAL : queue_push(run, map, value, flags);
}

static int64_t queue_take(struct wb_run *run, struct wb_map *map, const void *key, void *value)
{
    return key ? -EINVAL : queue_pop(run, map, value);
}

static int64_t stack_take(struct wb_run *run, struct wb_map *map, const void *key, void *value)
{
    return key ? -EINVAL : stack_pop(run, map, value);
}

const struct wb_map_ops wb_queue_ops = {
    .lookup = no_lookup,
    .update = no_update,
    .erase = no_erase,
    .push = queue_push,
    .pop = queue_pop,
    .peek = queue_peek,
    .read = queue_read,
    .write = queue_write,
    .take = queue_take,
    .next_key = no_next,
    .size = queue_size,
    .format = queue_format,
    .open = queue_open,
};

const struct wb_map_ops wb_stack_ops = {
    .lookup = no_lookup,
    .update = no_update,
    .erase = no_erase,
    .push = queue_push,
    .pop = stack_pop,
    .peek = stack_peek,
    .read = stack_read,
    .write = queue_write,
    .take = stack_take,
    .next_key = no_next,
    .size = queue_size,
    .format = queue_format,
    .open = queue_open,
};
