/* A set of call stacks: every distinct (pid, addresses[]) gets one small id.
 *
 * Open addressing with linear probing over ids; the stacks themselves lie end to end in flat arrays, so that the new
 * ones can be copied out in one go. Equality is a full comparison; the hash only finds candidates.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WB_PUBLIC __attribute__((visibility("default")))
#define NONE (-1)
#define OVERFLOWED (-2)

struct wb_stacks {
	int32_t *slots; /* id + 1; 0 is empty */
	uint64_t slot_count; /* a power of two */
	uint64_t *hashes; /* by id */
	uint64_t *ends; /* by id: address index after the stack */
	int32_t *pids; /* by id */
	uint64_t stack_room;
	uint64_t *addresses;
	uint64_t address_room;
	int64_t count;
	int64_t max_stacks;
	uint64_t max_addresses;
	uint64_t overflowed;
};

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	x ^= x >> 32;
	return x;
}

/* Two independent lanes: the multiplications of one stack overlap instead of waiting for each other. */
static uint64_t hash_stack(int32_t pid, const uint64_t *addresses, uint64_t length)
{
	uint64_t a = (uint64_t)(uint32_t)pid ^ (length << 32);
	uint64_t b = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t i = 0;

	for (; i + 2 <= length; i += 2) {
		a = (a ^ addresses[i]) * UINT64_C(0xff51afd7ed558ccd);
		b = (b ^ addresses[i + 1]) * UINT64_C(0xc4ceb9fe1a85ec53);
		a ^= a >> 29;
		b ^= b >> 31;
	}
	if (i < length)
		a = (a ^ addresses[i]) * UINT64_C(0xff51afd7ed558ccd);
	return mix(a ^ mix(b));
}

static uint64_t begin_of(const struct wb_stacks *set, int64_t id)
{
	return id ? set->ends[id - 1] : 0;
}

static int same(const struct wb_stacks *set, int64_t id, uint64_t hash, int32_t pid, const uint64_t *addresses,
		uint64_t length)
{
	uint64_t begin;

	if (set->hashes[id] != hash || set->pids[id] != pid)
		return 0;
	begin = begin_of(set, id);
	return set->ends[id] - begin == length &&
	       memcmp(set->addresses + begin, addresses, length * sizeof(*addresses)) == 0;
}

/* On failure the old block stays valid and is kept. */
static int resize(void **block, uint64_t items, size_t size)
{
	void *grown = items > SIZE_MAX / size ? NULL : realloc(*block, (size_t)items * size);

	if (!grown)
		return 0;
	*block = grown;
	return 1;
}

static int grow_slots(struct wb_stacks *set)
{
	uint64_t count = set->slot_count * 2;
	uint64_t mask = count - 1;
	int32_t *slots = calloc((size_t)count, sizeof(*slots));

	if (!slots)
		return 0;
	for (int64_t id = 0; id < set->count; id++) {
		uint64_t at = set->hashes[id] & mask;

		while (slots[at])
			at = (at + 1) & mask;
		slots[at] = (int32_t)(id + 1);
	}
	free(set->slots);
	set->slots = slots;
	set->slot_count = count;
	return 1;
}

static int make_room(struct wb_stacks *set, uint64_t length)
{
	uint64_t used = begin_of(set, set->count);

	if (set->count >= set->max_stacks || length > set->max_addresses - used)
		return 0;
	if ((uint64_t)set->count * 3 >= set->slot_count * 2 && !grow_slots(set))
		return 0;
	if ((uint64_t)set->count == set->stack_room) {
		uint64_t room = set->stack_room * 2;

		if (!resize((void **)&set->hashes, room, sizeof(*set->hashes)) ||
		    !resize((void **)&set->ends, room, sizeof(*set->ends)) ||
		    !resize((void **)&set->pids, room, sizeof(*set->pids)))
			return 0;
		set->stack_room = room;
	}
	if (length > set->address_room - used) {
		uint64_t room = set->address_room;

		while (length > room - used)
			room = room > set->max_addresses / 2 ? set->max_addresses : room * 2;
		if (!resize((void **)&set->addresses, room, sizeof(*set->addresses)))
			return 0;
		set->address_room = room;
	}
	return 1;
}

static int32_t intern_one(struct wb_stacks *set, int32_t pid, const uint64_t *addresses, uint64_t length)
{
	uint64_t hash = hash_stack(pid, addresses, length);
	uint64_t at = hash & (set->slot_count - 1);
	uint64_t begin;
	int32_t id;

	for (; set->slots[at]; at = (at + 1) & (set->slot_count - 1)) {
		id = set->slots[at] - 1;
		if (same(set, id, hash, pid, addresses, length))
			return id;
	}
	if (!make_room(set, length)) {
		set->overflowed++;
		return OVERFLOWED;
	}
	/* make_room may have moved the slots */
	at = hash & (set->slot_count - 1);
	while (set->slots[at])
		at = (at + 1) & (set->slot_count - 1);
	id = (int32_t)set->count;
	begin = begin_of(set, id);
	memcpy(set->addresses + begin, addresses, length * sizeof(*addresses));
	set->ends[id] = begin + length;
	set->hashes[id] = hash;
	set->pids[id] = pid;
	set->slots[at] = id + 1;
	set->count++;
	return id;
}

WB_PUBLIC void wb_stacks_free(struct wb_stacks *set)
{
	if (!set)
		return;
	free(set->slots);
	free(set->hashes);
	free(set->ends);
	free(set->pids);
	free(set->addresses);
	free(set);
}

/* An empty set that holds at most `max_stacks` stacks with at most `max_addresses` addresses together; NULL when
 * there is no memory or a limit is not in [1, INT32_MAX - 1] and [1, 2^40]. */
WB_PUBLIC struct wb_stacks *wb_stacks_new(int64_t max_stacks, uint64_t max_addresses)
{
	struct wb_stacks *set;

	if (max_stacks < 1 || max_stacks >= INT32_MAX || max_addresses < 1 || max_addresses > (UINT64_C(1) << 40))
		return NULL;
	set = calloc(1, sizeof(*set));
	if (!set)
		return NULL;
	set->slot_count = 2048;
	set->stack_room = 1024;
	set->address_room = max_addresses < 16384 ? max_addresses : 16384;
	set->max_stacks = max_stacks;
	set->max_addresses = max_addresses;
	set->slots = calloc((size_t)set->slot_count, sizeof(*set->slots));
	if (!set->slots || !resize((void **)&set->hashes, set->stack_room, sizeof(*set->hashes)) ||
	    !resize((void **)&set->ends, set->stack_room, sizeof(*set->ends)) ||
	    !resize((void **)&set->pids, set->stack_room, sizeof(*set->pids)) ||
	    !resize((void **)&set->addresses, set->address_room, sizeof(*set->addresses))) {
		wb_stacks_free(set);
		return NULL;
	}
	return set;
}

/* Ids of `n` stacks that lie end to end in `addresses` (`address_count` in all): -1 for an empty stack, -2 for one
 * that did not fit. Returns the number of stacks in the set, or -1 when a length is negative or the lengths do not
 * add up to `address_count`; nothing was interned then. */
WB_PUBLIC int64_t wb_stacks_intern(struct wb_stacks *set, int64_t n, const int32_t *pids, const int32_t *lengths,
				   const uint64_t *addresses, uint64_t address_count, int32_t *out_ids)
{
	uint64_t left = address_count;

	for (int64_t i = 0; i < n; i++) {
		if (lengths[i] < 0 || (uint64_t)lengths[i] > left)
			return -1;
		left -= (uint64_t)lengths[i];
	}
	if (left)
		return -1;
	for (int64_t i = 0; i < n; i++) {
		uint64_t length = (uint64_t)lengths[i];

		out_ids[i] = length ? intern_one(set, pids[i], addresses, length) : NONE;
		if (length)
			addresses += length;
	}
	return set->count;
}

WB_PUBLIC int64_t wb_stacks_count(const struct wb_stacks *set)
{
	return set->count;
}

/* Stacks that did not fit so far. */
WB_PUBLIC uint64_t wb_stacks_overflowed(const struct wb_stacks *set)
{
	return set->overflowed;
}

/* Addresses in the stacks from id `first` on; 0 when there is no such id. */
WB_PUBLIC uint64_t wb_stacks_address_count(const struct wb_stacks *set, int64_t first)
{
	if (first < 0 || first >= set->count)
		return 0;
	return set->ends[set->count - 1] - begin_of(set, first);
}

/* Copy the stacks from id `first` to the newest. The caller gives room for count - first pids and lengths and for
 * wb_stacks_address_count(first) addresses. Returns the number of stacks copied. */
WB_PUBLIC int64_t wb_stacks_copy(const struct wb_stacks *set, int64_t first, int32_t *pids, int32_t *lengths,
				 uint64_t *addresses)
{
	uint64_t begin;

	if (first < 0 || first >= set->count)
		return 0;
	begin = begin_of(set, first);
	memcpy(pids, set->pids + first, (size_t)(set->count - first) * sizeof(*pids));
	for (int64_t id = first; id < set->count; id++)
		lengths[id - first] = (int32_t)(set->ends[id] - begin_of(set, id));
	memcpy(addresses, set->addresses + begin, (size_t)(set->ends[set->count - 1] - begin) * sizeof(*addresses));
	return set->count - first;
}
