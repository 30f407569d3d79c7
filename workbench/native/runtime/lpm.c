/* Longest-prefix-match trie (kernel/bpf/lpm_trie.c), safe against writers that die.
 *
 * Nodes lie in the segment and name each other by number, 0 = none. A node's prefix and value never change once it is
 * linked; every update and delete becomes visible by one store to one link (or to the one word that turns a node with
 * two children into an intermediate one). Readers take no lock. Writers hold a lock word; who takes it from a dead
 * holder walks the trie to tell which nodes are linked, and puts those aside that are in no list.
 * A node taken out of the trie waits in `limbo` until no program can hold its value any more.
 */
#include "lpm.h"

#define MAX_BITS (256u * 8)

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
    fresh = wb_trie_take(run, map);
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
        wb_trie_drop(run, map, old);
        return 0;
    }
    if (n && same == key->bits) {
        made->child[bit(n->data, same)] = old;
        WB_STORE(link, fresh);
    } else if (n) {
        between = wb_trie_take(run, map);
        if (!between) {
            wb_trie_return(map, fresh);
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
    int64_t error = wb_trie_enter(run, map);

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
        wb_trie_drop(run, map, upper);
        wb_trie_drop(run, map, old);
    } else {
        WB_STORE(link, n->child[0] ? n->child[0] : n->child[1]);
        wb_trie_drop(run, map, old);
    }
    t->entries--;
    return 0;
}

static int64_t trie_erase(struct wb_run *run, struct wb_map *map, const void *key)
{
    struct trie *t = map->local;

    if (((const struct key *)key)->bits > max_bits(map))
        return -EINVAL;
    int64_t error = wb_trie_enter(run, map);

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
