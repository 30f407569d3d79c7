/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Return addresses that return probes (uretprobe) replaced in the current thread's stack: without them a chain of a
 * copied stack ends at the first function that has such a probe, whoever set it.
 */
#ifndef RETURN_PROBES_H
#define RETURN_PROBES_H

#include "workbench.h"

#define MAX_RETURNS 16 /* a power of two */

struct return_instance___probes {
	unsigned long orig_ret_vaddr;
	bool chained; /* a further probe on the same call: same address as the entry it is chained to */
	struct return_instance___probes *next;
} __attribute__((preserve_access_index));
struct uprobe_task___probes {
	struct return_instance___probes *return_instances;
} __attribute__((preserve_access_index));
struct task_struct___probes {
	struct uprobe_task___probes *utask;
} __attribute__((preserve_access_index));

#define READ_FIELD(to_, from_, field_)                                                                \
	bpf_probe_read_kernel(&(to_), sizeof(to_), __builtin_preserve_access_index(&(from_)->field_))

/* Innermost first into `returns` (MAX_RETURNS words, ended by 0); returns how many there are. */
static __always_inline __u32 original_returns(__u64 *returns)
{
	struct task_struct___probes *task = (void *)bpf_get_current_task();
	struct uprobe_task___probes *probes = 0;
	struct return_instance___probes *instance = 0;
	__u32 count = 0;

	if (READ_FIELD(probes, task, utask) || !probes || READ_FIELD(instance, probes, return_instances))
		return 0;
	/* No branch depends on `chained`: the verifier would follow both ways at each step. */
	for (int i = 0; i < MAX_RETURNS && instance; i++) {
		__u8 chained = 0;
		unsigned long address = 0;

		if (READ_FIELD(chained, instance, chained) || READ_FIELD(address, instance, orig_ret_vaddr) ||
		    READ_FIELD(instance, instance, next))
			break;
		returns[count & (MAX_RETURNS - 1)] = address;
		count += !(chained & 1);
	}
	if (count < MAX_RETURNS)
		returns[count & (MAX_RETURNS - 1)] = 0;
	return count;
}

#endif
