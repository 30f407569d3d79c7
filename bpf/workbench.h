/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What every collector's program includes: types, the scope filter, drop counters, record conventions.
 *
 * Conventions
 * - `const volatile` knobs are set by the loader before load; each says what it trades.
 * - Counters named `lost_*` are globals in .bss; the recorder reads them by name while the program runs.
 * - The record of a ring NAME is published to user space by a global `const struct R *_schema_NAME`: its BTF
 *   becomes the numpy dtype. A struct that is only a local variable would not be in the object's BTF.
 */
#ifndef WORKBENCH_H
#define WORKBENCH_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

#define COMM_LENGTH 16
#define RING_BYTES (64 * 1024 * 1024) /* 1.3 M records of 48 bytes; `map_sizes` of the loader overrides it */

#define RING(name_)                                      \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_RINGBUF);      \
		__uint(max_entries, RING_BYTES);         \
	} name_ SEC(".maps")

#define PUBLISH(ring_, struct_) const struct struct_ *_schema_##ring_ __attribute__((used)) = 0

/* Wake the reader when the records that wait grow past this many bytes: a wake-up is an interrupt that the producer
 * pays, and the recorder drains on a timer anyway. 0 wakes by the kernel's own rule (whenever the reader had caught up).
 */
const volatile __u64 wake_bytes = 0;

/* Flags for sending `size` bytes: one wake-up at the crossing, not one for every record beyond it. */
static __always_inline __u64 wake_flags_for(void *ring, __u64 size)
{
	__u64 waiting;

	if (!wake_bytes)
		return 0;
	waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	return waiting < wake_bytes && waiting + size >= wake_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline __u64 wake_flags(void *ring)
{
	return wake_flags_for(ring, 256);
}

#endif
