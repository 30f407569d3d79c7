/* Nodes of a trie: free ones, those that wait for a grace period, and what becomes of all of them when a writer died. */
#include "lpm.h"

static uint32_t *free_stack(const struct wb_map *map)
{
    return (uint32_t *)(map->segment + layout((const void *)map->segment).at_free);
}

static struct waiting *limbo_ring(const struct wb_map *map)
{
    return (struct waiting *)(map->segment + layout((const void *)map->segment).at_limbo);
}

static void reclaim(struct wb_run *run, struct wb_map *map)
{
    struct trie *t = map->local;
    struct waiting *ring = limbo_ring(map);
    uint32_t *stack = free_stack(map);
    uint64_t safe = run->self ? wb_grace(run, false) : UINT64_MAX;

    while (t->limbo && t->limbo <= map->mask && t->free < map->mask) {
        struct waiting w = ring[t->first % (map->mask + 1)];

        if (w.epoch >= safe)
            break;
        if (node_at(map, (uint32_t)w.node)) {
            stack[t->free] = (uint32_t)w.node;
            WB_STORE(&t->free, t->free + 1);
        }
        WB_STORE(&t->first, (t->first + 1) % (map->mask + 1));
        WB_STORE(&t->limbo, t->limbo - 1);
    }
}

uint32_t wb_trie_take(struct wb_run *run, struct wb_map *map)
{
    struct trie *t = map->local;

    if (!t->free && (t->limbo >= WB_TRIE_BATCH || t->fresh >= map->mask))
        reclaim(run, map);
    if (t->free && t->free <= map->mask) {
        uint32_t number = free_stack(map)[t->free - 1];

        WB_STORE(&t->free, t->free - 1);
        return node_at(map, number) ? number : 0;
    }
    if (t->fresh >= map->mask)
        return 0;
    WB_STORE(&t->fresh, t->fresh + 1);
    return t->fresh;
}

void wb_trie_drop(struct wb_run *run, struct wb_map *map, uint32_t number)
{
    struct trie *t = map->local;

    if (!number || t->limbo > map->mask)
        return;
    limbo_ring(map)[((uint64_t)t->first + t->limbo) % (map->mask + 1)] =
        (struct waiting){run->self ? WB_LOAD(run->space->epoch) : 0, number};
    WB_STORE(&t->limbo, t->limbo + 1);
}

void wb_trie_return(struct wb_map *map, uint32_t number)
{
    struct trie *t = map->local;

    if (number && t->free < map->mask) {
        free_stack(map)[t->free] = number;
        WB_STORE(&t->free, t->free + 1);
    }
}

/* The holder died. Linked is what can be reached from the root; a node on the free stack that is not linked is free;
 * the others wait in limbo, those that are in no list from now on. All of it may be done again from any point. */
static void recover(struct wb_run *run, struct wb_map *map)
{
    const struct layout l = layout((const void *)map->segment);
    struct trie *t = map->local;
    uint8_t *marks = map->segment + l.at_marks;
    uint32_t *path = (uint32_t *)(map->segment + l.at_stack), *free = free_stack(map);
    struct waiting *limbo = limbo_ring(map);
    uint32_t depth = 0, entries = 0, kept = 0;
    const uint32_t fresh = t->fresh < map->mask ? t->fresh : map->mask;

    wb_clear(marks, (uint64_t)fresh + 1);
    marks[0] = 1;
    if (t->root && t->root <= fresh) {
        path[depth++] = t->root;
        marks[t->root] = 1;
    }
    while (depth) {
        struct node *n = node_at(map, path[--depth]);

        if (!n)
            break; /* somebody else writes what he must not */
        entries += !n->intermediate;
        for (int side = 0; side < 2; side++) {
            uint32_t child = n->child[side];

            if (child <= fresh && !marks[child]) {
                marks[child] = 1;
                path[depth++] = child;
            }
        }
    }
    for (uint32_t i = 0; i < t->free && i <= map->mask; i++)
        if (free[i] <= fresh && !marks[free[i]]) {
            marks[free[i]] = 1;
            free[kept++] = free[i];
        }
    WB_STORE(&t->free, kept);
    for (uint32_t i = 0; i < t->limbo && i <= map->mask; i++) {
        struct waiting *w = &limbo[((uint64_t)t->first + i) % (map->mask + 1)];

        if (w->node > fresh || marks[w->node])
            w->node = 0;
        else
            marks[w->node] = 1;
    }
    for (uint32_t i = 1; i <= fresh; i++)
        if (!marks[i])
            wb_trie_drop(run, map, i);
    t->entries = entries;
}

int64_t wb_trie_enter(struct wb_run *run, struct wb_map *map)
{
    struct trie *t = map->local;
    int64_t taken = wb_take_word(run, map->space, &t->lock);

    if (taken == 1)
        recover(run, map);
    return taken < 0 ? taken : 0;
}
