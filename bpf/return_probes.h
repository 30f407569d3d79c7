/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What probes in user code, whoever set them, change in the current thread: return addresses in its stack (uretprobe),
 * and the instruction pointer while a probed instruction runs out of line. Without the originals a chain of a copied
 * stack ends there.
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
	void *active_uprobe; /* of the instruction that runs out of line now */
	unsigned long vaddr, xol_vaddr; /* where it belongs, and where it runs */
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

#define LONGEST_INSTRUCTION 16

/* `ip`, or what it would be if the instruction that the kernel single-steps for a probe ran in its place. */
static __always_inline __u64 original_instruction(__u64 ip)
{
	struct task_struct___probes *task = (void *)bpf_get_current_task();
	struct uprobe_task___probes *probes = 0;
	unsigned long belongs = 0, runs = 0;
	void *active = 0;

	if (READ_FIELD(probes, task, utask) || !probes || READ_FIELD(active, probes, active_uprobe) || !active ||
	    READ_FIELD(belongs, probes, vaddr) || READ_FIELD(runs, probes, xol_vaddr) ||
	    ip - runs > LONGEST_INSTRUCTION)
		return ip;
	return belongs + (ip - runs);
}

#endif
