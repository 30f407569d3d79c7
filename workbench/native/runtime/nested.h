/* Maps whose values are objects of a process: programs or other maps. The segment holds ids, which mean the same
 * everywhere; each process has its own table from id to object (nested.c). */
#ifndef WB_RUNTIME_NESTED_H
#define WB_RUNTIME_NESTED_H

#include "map_type.h"

/* What this process has under an id (NULL: nothing any more). A slot whose id was not offered reads as empty. */
WB_EXPORT int64_t wb_nested_offer(struct wb_map *outer, uint32_t id, void *object);
/* The shape that inner maps must have; set once by whoever creates the outer map. */
WB_EXPORT int64_t wb_nested_shape(struct wb_map *outer, uint32_t type, uint32_t key_size, uint32_t value_size,
                                  uint32_t max_entries, uint32_t flags);
/* The program at an index of a program array; NULL = none, or one that this process was not offered. */
WB_EXPORT struct wb_program *wb_program_at(struct wb_run *run, struct wb_map *map, uint32_t index);
/* Program arrays: bring `local` (struct wb_program *[max_entries]) up to date with what other processes stored. */
WB_EXPORT int64_t wb_prog_array_refresh(struct wb_map *map);

#endif
