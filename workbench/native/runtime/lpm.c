/* Longest-prefix-match trie (kernel/bpf/lpm_trie.c), safe against writers that die.
 *
 * Nodes lie in the segment and name each other by number, 0 = none. A node's prefix and value never change once it is
 * linked; every update and delete becomes visible by one store to one link (or to the one word that turns a node with
 * two children into an intermediate one). Readers take no lock. Writers hold a lock word; who takes it from a dead
 * holder walks the trie to tell which nodes are linked, and puts those aside that are in no list.
 * A node taken out of the trie waits in `limbo` until no program can hold its value any more.
 */
#include "map_type.h"

#define BATCH 64u /* nodes in limbo before a grace period is looked for */
#define MAX_BITS (256u * 8)

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

static struct layout layout(const struct wb_segment *s)
{
    struct layout l;

    l.nodes = 3ull * s->max_entries + 4 * BATCH;
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

static uint64_t trie_size(const struct wb_segment *s, int64_t *error)
{
    *error = -EINVAL;
    if (!s->max_entries || !(s->flags & WB_F_NO_PREALLOC) || s->key_size < 5 || s->key_size > 4 + 256 ||
        !s->value_size || s->value_size > WB_MAX_VALUE ||
        !wb_flags_allowed(s, WB_F_NO_PREALLOC | WB_F_NUMA_NODE | WB_F_ACCESS))
        return 0;
    *error = -E2BIG;
    if (s->max_entries > UINT32_MAX / 4)
        return 0;
    *error = 0;
    return layout(s).length;
}

static int64_t trie_format(struct wb_segment *s)
{
    s->offset = wb_data_offset(s, WB_LINE);
    return 0;
}

static int64_t trie_open(struct wb_map *map)
{
    const struct wb_segment *s = (const void *)map->segment;
    int64_t error;
    uint64_t need = trie_size(s, &error);

    if (!need || s->offset % WB_LINE || need > map->length)
        return error ? error : -EINVAL;
    struct layout l = layout(s);

    map->local = map->segment + s->offset;
    map->values = map->segment + l.at_nodes;
    map->stride = (uint32_t)l.stride;
    map->mask = (uint32_t)l.nodes;
    return 0;
}

static struct node *node_at(const struct wb_map *map, uint32_t number)
{
    return number && number <= map->mask ? (struct node *)(map->values + (uint64_t)number * map->stride) : NULL;
}

static uint8_t *value_of(const struct wb_map *map, struct node *n)
{
    return (uint8_t *)n + sizeof *n + wb_up(map->key_size - 4, 8);
}

static uint32_t max_bits(const struct wb_map *map)
{
    return (map->key_size - 4) * 8;
}

static uint32_t bit(const uint8_t *data, uint32_t index)
{
    return data[index / 8] >> (7 - index % 8) & 1;
}

/* Bits in which the node's prefix and the key agree. */
static uint32_t agree(const struct wb_map *map, const struct node *n, const struct key *key)
{
    uint32_t limit = n->bits < key->bits ? n->bits : key->bits, all = max_bits(map), at = 0;

    limit = limit < all ? limit : all;
    while (at < limit) {
        uint32_t different = n->data[at / 8] ^ key->data[at / 8];

        if (different)
            at += (uint32_t)__builtin_clz(different) - 24;
        else
            at += 8;
        if (different)
            break;
    }
    return at < limit ? at : limit;
}

/* The child on the key's side, when the node may have one. */
static uint32_t *branch(const struct wb_map *map, struct node *n, const uint8_t *data)
{
    return n->bits < max_bits(map) ? &n->child[bit(data, n->bits)] : NULL;
}

static struct node *longest(const struct wb_map *map, const struct key *key)
{
    const struct trie *t = map->local;
    struct node *n = node_at(map, WB_LOAD(&t->root)), *found = NULL;
    int64_t above = -1;

    if (key->bits > max_bits(map))
        return NULL;
    while (n && (int64_t)n->bits > above) { /* a damaged segment may have circles */
        uint32_t same = agree(map, n, key);

        if (same == max_bits(map))
            return WB_PEEK(&n->intermediate) ? found : n;
        if (same < n->bits)
            break;
        if (!WB_PEEK(&n->intermediate))
            found = n;
        above = n->bits;
        uint32_t *next = branch(map, n, key->data);

        n = next ? node_at(map, WB_LOAD(next)) : NULL;
    }
    return found;
}

static void *trie_lookup(struct wb_run *run, struct wb_map *map, const void *key)
{
    (void)run;
    struct node *n = longest(map, key);

    return n ? value_of(map, n) : NULL;
}

/* --- nodes, under the lock ---------------------------------------------------------------------------------------- */

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

static uint32_t take_node(struct wb_run *run, struct wb_map *map)
{
    struct trie *t = map->local;

    if (!t->free && (t->limbo >= BATCH || t->fresh >= map->mask))
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

static void drop_node(struct wb_run *run, struct wb_map *map, uint32_t number)
{
    struct trie *t = map->local;

    if (!number || t->limbo > map->mask)
        return;
    limbo_ring(map)[((uint64_t)t->first + t->limbo) % (map->mask + 1)] =
        (struct waiting){run->self ? WB_LOAD(run->space->epoch) : 0, number};
    WB_STORE(&t->limbo, t->limbo + 1);
}

static void return_node(struct wb_map *map, uint32_t number)
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
            drop_node(run, map, i);
    t->entries = entries;
}

static int64_t enter(struct wb_run *run, struct wb_map *map)
{
    struct trie *t = map->local;
    int64_t taken = wb_take_word(run, map->space, &t->lock);

    if (taken == 1)
        recover(run, map);
    return taken < 0 ? taken : 0;
}

/* --- changes ------------------------------------------------------------------------------------------------------ */

static void fill(struct wb_map *map, struct node *n, uint32_t bits, const uint8_t *data, const void *value)
{
    n->child[0] = n->child[1] = 0;
    n->bits = bits;
    n->intermediate = !value;
    wb_copy(n->data, data, map->key_size - 4);
    if (value)
        wb_copy(value_of(map, n), value, map->value_size);
}

static int64_t may_add(const struct wb_map *map, uint64_t flags)
{
    const struct trie *t = map->local;

    if (flags == WB_EXIST)
        return -ENOENT;
    return t->entries >= map->max_entries ? -ENOSPC : 0;
}

static int64_t change(struct wb_run *run, struct wb_map *map, const struct key *key, const void *value, uint64_t flags)
{
    struct trie *t = map->local;
    uint32_t *link = &t->root, same = 0, fresh, between;
    struct node *n;
    int64_t above = -1, error;

    while ((n = node_at(map, *link)) && (int64_t)n->bits > above) {
        same = agree(map, n, key);
        if (n->bits != same || n->bits == key->bits || n->bits >= max_bits(map))
            break;
        above = n->bits;
        link = &n->child[bit(key->data, n->bits)];
    }
    const uint32_t old = *link;
    const bool replace = n && n->bits == same;

    if (replace && !n->intermediate)
        error = flags == WB_NOEXIST ? -EEXIST : 0;
    else
        error = may_add(map, flags);
    if (error)
        return error;
    fresh = take_node(run, map);
    if (!fresh)
        return -ENOMEM;
    struct node *made = node_at(map, fresh);

    fill(map, made, key->bits, key->data, value);
    if (replace) {
        made->child[0] = n->child[0];
        made->child[1] = n->child[1];
        const bool was = !n->intermediate;

        WB_STORE(link, fresh);
        t->entries += !was;
        drop_node(run, map, old);
        return 0;
    }
    if (n && same == key->bits) {
        made->child[bit(n->data, same)] = old;
        WB_STORE(link, fresh);
    } else if (n) {
        between = take_node(run, map);
        if (!between) {
            return_node(map, fresh);
            return -ENOMEM;
        }
        struct node *fork = node_at(map, between);

        fill(map, fork, same, n->data, NULL);
        fork->child[bit(key->data, same)] = fresh;
        fork->child[!bit(key->data, same)] = old;
        WB_STORE(link, between);
    } else {
        WB_STORE(link, fresh);
    }
    t->entries++;
    return 0;
}

static int64_t trie_update(struct wb_run *run, struct wb_map *map, const void *key, const void *value, uint64_t flags)
{
    struct trie *t = map->local;

    if (flags > WB_EXIST || ((const struct key *)key)->bits > max_bits(map))
        return -EINVAL;
    int64_t error = enter(run, map);

    if (error)
        return error;
    error = change(run, map, key, value, flags);
    wb_give_word(&t->lock);
    return error;
}

static int64_t cut(struct wb_run *run, struct wb_map *map, const struct key *key)
{
    struct trie *t = map->local;
    uint32_t *link = &t->root, *above_link = link, same = 0;
    struct node *n, *parent = NULL;
    int64_t above = -1;

    while ((n = node_at(map, *link)) && (int64_t)n->bits > above) {
        same = agree(map, n, key);
        if (n->bits != same || n->bits == key->bits || n->bits >= max_bits(map))
            break;
        above = n->bits;
        parent = n;
        above_link = link;
        link = &n->child[bit(key->data, n->bits)];
    }
    if (!n || n->bits != key->bits || n->bits != same || n->intermediate)
        return -ENOENT;
    const uint32_t old = *link, upper = *above_link;

    if (n->child[0] && n->child[1]) {
        WB_STORE(&n->intermediate, 1u);
    } else if (parent && parent->intermediate && !n->child[0] && !n->child[1]) {
        WB_STORE(above_link, parent->child[parent->child[0] == old]);
        drop_node(run, map, upper);
        drop_node(run, map, old);
    } else {
        WB_STORE(link, n->child[0] ? n->child[0] : n->child[1]);
        drop_node(run, map, old);
    }
    t->entries--;
    return 0;
}

static int64_t trie_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    struct trie *t = map->local;

    if (((const struct key *)key)->bits > max_bits(map))
        return -EINVAL;
    int64_t error = enter(run, map);

    if (error)
        return error;
    error = cut(run, map, key);
    wb_give_word(&t->lock);
    return error;
}

/* --- the system call side ----------------------------------------------------------------------------------------- */

static int64_t trie_read(struct wb_run *run, struct wb_map *map, const void *key, void *value, uint64_t flags)
{
    if (flags)
        return -EINVAL;
    bool began = wb_read_begin(run);
    struct node *n = longest(map, key);

    if (n)
        wb_copy(value, value_of(map, n), map->value_size);
    wb_read_end(run, began);
    return n ? 0 : -ENOENT;
}

/* The first node in postorder below `n`, which itself comes last: more specific prefixes come first. */
static struct node *leftmost(const struct wb_map *map, struct node *n)
{
    struct node *found = NULL;
    int64_t above = -1;

    while (n && (int64_t)n->bits > above) {
        above = n->bits;
        uint32_t left = WB_LOAD(&n->child[0]);

        if (!WB_PEEK(&n->intermediate)) {
            found = n;
            if (!left)
                left = WB_LOAD(&n->child[1]);
        }
        n = node_at(map, left);
    }
    return found;
}

static struct node *following(const struct wb_map *map, const struct key *key)
{
    const struct trie *t = map->local;
    struct node *path[MAX_BITS + 1], *n = node_at(map, WB_LOAD(&t->root)), *root = n;
    uint32_t depth = 0, same = 0;
    int64_t above = -1;

    if (!key || key->bits > max_bits(map))
        return leftmost(map, root);
    while (n && (int64_t)n->bits > above && depth <= MAX_BITS) {
        path[depth++] = n;
        same = agree(map, n, key);
        if (n->bits != same || n->bits == key->bits || n->bits >= max_bits(map))
            break;
        above = n->bits;
        n = node_at(map, WB_LOAD(&n->child[bit(key->data, n->bits)]));
    }
    if (!n || n->bits != same || n->bits != key->bits || WB_PEEK(&n->intermediate))
        return leftmost(map, root);
    for (; depth > 1; depth--) {
        struct node *parent = path[depth - 2];

        if (node_at(map, WB_LOAD(&parent->child[0])) == path[depth - 1]) {
            struct node *right = node_at(map, WB_LOAD(&parent->child[1]));

            if (right)
                return leftmost(map, right);
        }
        if (!WB_PEEK(&parent->intermediate))
            return parent;
    }
    return NULL;
}

static int64_t trie_next(struct wb_run *run, struct wb_map *map, const void *key, void *next)
{
    bool began = wb_read_begin(run);
    struct node *n = following(map, key);

    if (n) {
        __builtin_memcpy(next, &n->bits, 4);
        wb_copy((uint8_t *)next + 4, n->data, map->key_size - 4);
    }
    wb_read_end(run, began);
    return n ? 0 : -ENOENT;
}

const struct wb_map_ops wb_lpm_ops = {
    .lookup = trie_lookup,
    .update = trie_update,
    .erase = trie_erase,
    .read = trie_read,
    .write = trie_update,
    .next_key = trie_next,
    .size = trie_size,
    .format = trie_format,
    .open = trie_open,
};
