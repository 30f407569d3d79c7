/* Nodes of a longest-prefix-match trie: where they lie, and who may have them (lpm.c, lpm_nodes.c). */
#ifndef WB_RUNTIME_LPM_H
#define WB_RUNTIME_LPM_H

#include "map_type.h"

#define WB_TRIE_BATCH 64u /* nodes in limbo before a grace period is looked for */

struct trie {
    uint32_t lock, root;
    uint32_t entries, fresh;  /* fresh: nodes above were never used */
    uint32_t free, limbo;     /* elements of the two stacks below; limbo counts from `first` */
    uint32_t first, reserved; /* oldest element of limbo */
    uint8_t rest[WB_LINE - 32];
};

struct node {
    uint32_t child[2];
    uint32_t bits, intermediate;
    uint8_t data[]; /* key, then at the next multiple of 8 the value */
};

struct waiting {
    uint64_t epoch;
    uint64_t node;
};

/* Where everything is. `nodes` are twice what a trie of max_entries can need, and as many more for limbo: memory that
 * is not used costs nothing. */
struct layout {
    uint64_t nodes, data, value, stride, at_free, at_limbo, at_stack, at_marks, at_nodes, length;
};

struct key {
    uint32_t bits;
    uint8_t data[];
};

static inline struct layout layout(const struct wb_segment *s)
{
    struct layout l;

    l.nodes = 3ull * s->max_entries + 4 * WB_TRIE_BATCH;
    l.data = s->key_size - 4;
    l.value = sizeof(struct node) + wb_up(l.data, 8);
    l.stride = l.value + wb_up(s->value_size, 8);
    l.at_free = wb_data_offset(s, WB_LINE) + sizeof(struct trie);
    l.at_limbo = wb_up(l.at_free + 4 * (l.nodes + 1), WB_LINE);
    l.at_stack = wb_up(l.at_limbo + sizeof(struct waiting) * (l.nodes + 1), WB_LINE);
    l.at_marks = wb_up(l.at_stack + 4 * (l.nodes + 1), WB_LINE);
    l.at_nodes = wb_up(l.at_marks + l.nodes + 1, WB_LINE);
    l.length = l.at_nodes + l.stride * (l.nodes + 1);
    return l;
}

static inline struct node *node_at(const struct wb_map *map, uint32_t number)
{
    return number && number <= map->mask ? (struct node *)(map->values + (uint64_t)number * map->stride) : NULL;
}

static inline uint8_t *value_of(const struct wb_map *map, struct node *n)
{
    return (uint8_t *)n + sizeof *n + wb_up(map->key_size - 4, 8);
}

/* Under the lock, which wb_trie_enter takes (0, or -EBUSY); 0 for a node is none. */
int64_t wb_trie_enter(struct wb_run *run, struct wb_map *map);
uint32_t wb_trie_take(struct wb_run *run, struct wb_map *map);
void wb_trie_drop(struct wb_run *run, struct wb_map *map, uint32_t number);
void wb_trie_return(struct wb_map *map, uint32_t number);

#endif
