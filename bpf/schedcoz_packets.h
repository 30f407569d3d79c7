/* SPDX-License-Identifier: GPL-2.0 */
/* Who wakes whom over sockets of this machine (R3). What a task sends through the loopback or a virtual pair of devices is
 * received in a software interrupt: mostly inside the sender's own call, but as well in another task, which it happens to
 * interrupt, or on another CPU. So each packet takes its sender's clock along, and what is woken while it is received takes
 * that clock over. Packets from elsewhere have none: they wake on behalf of nobody (R4).
 */
#ifndef SCHEDCOZ_PACKETS_H
#define SCHEDCOZ_PACKETS_H

#include "schedcoz_state.h"

/* Of the preemption count (include/linux/preempt.h): software interrupts, and that one is being served; the rest of its
 * byte counts sections in which they are held back, which are a task's own context.
 */
#define SOFTIRQ_BITS 0xff00U
#define SERVING_SOFTIRQ 0x100U

struct sk_buff;

extern const int __preempt_count __ksym;

/* Bits of the preemption count that say "not in a task's own context"; they moved in Linux 7.3, the loader knows. */
const volatile u32 interrupt_mask = 0x00ffff00;

struct packet_clock {
	u64 local;
	u32 experiment;
	u32 known; /* there is a sender in scope */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct packet_clock);
} packets SEC(".maps");

/* Of the packet that each CPU is receiving. */
struct packet_clock receiving[MAX_CPUS];

static __always_inline u32 context_bits(void)
{
	const int *count = bpf_this_cpu_ptr(&__preempt_count);

	return (u32)*count & interrupt_mask;
}

static __always_inline struct packet_clock *received_here(void)
{
	return &receiving[bpf_get_smp_processor_id() & (MAX_CPUS - 1)];
}

/* The clock on whose behalf something happens now; false: nobody's. */
static __always_inline bool acting_clock(struct schedcoz_task *acting)
{
	u32 bits = context_bits();
	struct packet_clock *packet;
	struct task_state *state;

	if (bits & ~SOFTIRQ_BITS)
		return false;
	if (bits & SERVING_SOFTIRQ) {
		packet = received_here();
		acting->local = packet->local;
		acting->experiment = packet->experiment;
		return packet->known;
	}
	state = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);
	if (!state || !(state->clock.flags & SCHEDCOZ_SCOPED))
		return false;
	schedcoz_enter(&state->clock, &experiment);
	acting->local = state->clock.local;
	acting->experiment = state->clock.experiment;
	return true;
}

/* A packet is queued to be received on this machine; while another is received, on behalf of that one's sender. */
SEC("tp_btf/netif_rx")
int BPF_PROG(packet_sent, struct sk_buff *skb)
{
	struct schedcoz_task acting = {};
	struct packet_clock packet = {};
	u64 key = (u64)skb;

	if (!experiment.active)
		return 0;
	if (acting_clock(&acting)) {
		packet.local = acting.local;
		packet.experiment = acting.experiment;
		packet.known = 1;
		bpf_map_update_elem(&packets, &key, &packet, BPF_ANY);
	} else {
		bpf_map_delete_elem(&packets, &key); /* of one that was lost */
	}
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(packet_received, struct sk_buff *skb)
{
	struct packet_clock *here = received_here(), *packet;
	u64 key = (u64)skb;

	packet = experiment.active ? bpf_map_lookup_elem(&packets, &key) : 0;
	if (!packet) {
		here->known = 0;
		return 0;
	}
	*here = *packet;
	bpf_map_delete_elem(&packets, &key);
	return 0;
}

/* All packets of a turn were received. */
SEC("tp_btf/napi_poll")
int BPF_PROG(packets_done, void *napi, int work, int budget)
{
	received_here()->known = 0;
	return 0;
}

#endif
