/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* CPU samples: one variable-sized record per sampling event, with the kernel stack, the user stack by frame pointers
 * and, where asked for, the user registers and a copy of the user stack to unwind without frame pointers.
 */
#include "workbench.h"

#define MAX_FRAMES 127
#define PAGE 4096
#define MAX_COPY (60 * 1024)

struct sample {
	__u64 time;
	__u32 pid, tid;
	__u32 cpu;
	__u32 stack_bytes; /* copied user stack, after the frames */
	__u16 kernel_frames, user_frames;
	__u32 reserved;
	__u64 ip, sp, fp; /* user registers; 0 for kernel threads */
	char comm[COMM_LENGTH];
	/* __u64 kernel[kernel_frames], user[user_frames]; __u8 stack[stack_bytes] */
};

struct scratch {
	struct sample head;
	__u8 body[2 * MAX_FRAMES * 8 + MAX_COPY];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets the number of possible CPUs */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

RING(samples);
PUBLISH(samples, sample);

/* Bytes of user stack copied per sample, at most MAX_COPY: deeper stacks unwind whole, each KiB costs about 0.1 us
 * and ring space. 0: frame pointers only. */
const volatile __u32 copy_bytes = 0;
const volatile bool kernel_stacks = true;
const volatile bool user_stacks = true;

__u64 taken;
__u64 lost_ring_full;

/* Registers of the interrupted user code. The sample may have hit the kernel on behalf of the thread, so the saved
 * user registers at the top of the kernel stack are read, not the context's. */
struct pt_regs___x86 {
	unsigned long bp, ip, sp;
} __attribute__((preserve_access_index));
struct user_pt_regs___arm64 {
	__u64 regs[31];
	__u64 sp, pc;
} __attribute__((preserve_access_index));
struct task_struct___cpu {
	void *mm;
} __attribute__((preserve_access_index));

static __always_inline bool user_registers(struct sample *head)
{
	struct task_struct___cpu *task = (void *)bpf_get_current_task_btf();
	void *regs;

	head->ip = head->sp = head->fp = 0;
	if (!task->mm)
		return false;
	regs = (void *)bpf_task_pt_regs((struct task_struct *)task);
#if defined(__TARGET_ARCH_x86)
	head->ip = ((struct pt_regs___x86 *)regs)->ip;
	head->sp = ((struct pt_regs___x86 *)regs)->sp;
	head->fp = ((struct pt_regs___x86 *)regs)->bp;
#elif defined(__TARGET_ARCH_arm64)
	bpf_probe_read_kernel(&head->ip, 8, &((struct user_pt_regs___arm64 *)regs)->pc);
	bpf_probe_read_kernel(&head->sp, 8, &((struct user_pt_regs___arm64 *)regs)->sp);
	bpf_probe_read_kernel(&head->fp, 8, &((struct user_pt_regs___arm64 *)regs)->regs[29]);
#endif
	return true;
}

SEC("perf_event")
int sample_cpu(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct scratch *s = bpf_map_lookup_elem(&scratches, &cpu);
	__u64 id = bpf_get_current_pid_tgid();
	__u32 used = 0, copied = 0;
	long n;

	__sync_fetch_and_add(&taken, 1);
	if (!s)
		return 0;
	s->head.time = bpf_ktime_get_ns();
	s->head.pid = id >> 32;
	s->head.tid = id;
	s->head.cpu = cpu;
	s->head.stack_bytes = 0;
	s->head.kernel_frames = s->head.user_frames = 0;
	s->head.reserved = 0;
	bpf_get_current_comm(s->head.comm, COMM_LENGTH);

	if (kernel_stacks) {
		n = bpf_get_stack(ctx, s->body, MAX_FRAMES * 8, 0);
		if (n > 0) {
			used = n;
			s->head.kernel_frames = n / 8;
		}
	}
	if (user_registers(&s->head) && user_stacks) {
		used &= 2047;
		n = bpf_get_stack(ctx, s->body + used, MAX_FRAMES * 8, BPF_F_USER_STACK);
		if (n > 0) {
			used += n;
			s->head.user_frames = n / 8;
		}
		/* Page by page: a read that crosses the end of the stack's mapping would fail as a whole. */
		for (int i = 0; i < MAX_COPY / PAGE + 1 && copied < copy_bytes; i++) {
			__u64 from = s->head.sp + copied;
			__u32 want = PAGE - (from & (PAGE - 1)), at = used + copied;

			if (want > copy_bytes - copied)
				want = copy_bytes - copied;
			if (!want || want > PAGE || at > sizeof(s->body) - PAGE)
				break;
			if (bpf_probe_read_user(s->body + at, want, (void *)from))
				break;
			copied += want;
		}
		s->head.stack_bytes = copied;
	}
	used += copied;
	if (used > sizeof(s->body))
		used = sizeof(s->body);
	if (bpf_ringbuf_output(&samples, s, sizeof(s->head) + used, wake_flags(&samples)))
		__sync_fetch_and_add(&lost_ring_full, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
