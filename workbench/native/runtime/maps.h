/* Maps in shared memory: the table of types and what all of them share (maps.c). */
#ifndef WB_MAPS_H
#define WB_MAPS_H

#include "runtime.h"
#include "space.h"

#define WB_SEGMENT_HEADER 128 /* where a type's own data begins unless its `format` says otherwise */

/* Creating: `attributes` has type, sizes, entries, flags, name, id and cpus. The result is the segment's length, or a
 * negative error; `memory` of that length is then zeroed, mapped memory. */
int64_t wb_segment_size(const struct wb_segment *attributes);
int64_t wb_segment_format(void *memory, uint64_t length, const struct wb_segment *attributes);
/* A map of a segment that somebody else may have damaged. */
int64_t wb_map_open(struct wb_map *map, void *memory, uint64_t length, struct wb_space *space);

/* The system call side for threads that run no program: the operation between wb_begin and wb_end. */
int64_t wb_map_read(struct wb_run *, struct wb_map *, const void *key, void *value, uint64_t flags);
int64_t wb_map_write(struct wb_run *, struct wb_map *, const void *key, const void *value, uint64_t flags);
int64_t wb_map_erase(struct wb_run *, struct wb_map *, const void *key);
int64_t wb_map_take(struct wb_run *, struct wb_map *, const void *key, void *value);
int64_t wb_map_next_key(struct wb_run *, struct wb_map *, const void *key, void *next);
int64_t wb_map_push(struct wb_run *, struct wb_map *, const void *value, uint64_t flags);
int64_t wb_map_pop(struct wb_run *, struct wb_map *, void *value);
int64_t wb_map_peek(struct wb_run *, struct wb_map *, void *value);

#endif
