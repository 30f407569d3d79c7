/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Stacks as the tail of a variable-sized record: kernel frames, user frames by frame pointers and, where asked for,
 * the user registers and a copy of the user stack, which user space unwinds by .eh_frame.
 *
 * A record is: fixed head (holding a `struct stack_head stack`), then
 *     __u64 kernel[stack.kernel_frames], user[stack.user_frames]; __u8 copy[stack.copied];
 * It is put together in a per-CPU scratch area and sent by `bpf_ringbuf_output`.
 */
#ifndef STACK_H
#define STACK_H

#include "workbench.h"
#include "return_probes.h"

#define MAX_FRAMES 127
#define FRAME_BYTES (MAX_FRAMES * 8)
#ifndef MAX_COPY
#define MAX_COPY (56 * 1024) /* an object may choose less before the include */
#endif
#define STACK_BODY (2 * FRAME_BYTES + MAX_COPY)
#define STACK_PAGE 4096

struct stack_head {
	__u64 ip, sp, fp, lr; /* user registers; 0 for kernel threads; lr on aarch64 only */
	__u64 returns[MAX_RETURNS]; /* original return addresses of functions with a return probe, ended by 0 */
	__u32 copied;     /* bytes of user stack */
	__u16 kernel_frames, user_frames;
};

/* Bytes of user stack copied, at most MAX_COPY: deeper stacks unwind whole, each KiB costs about 0.1 us and ring
 * space. 0: frame pointers only. */
const volatile __u32 copy_bytes = 0;
const volatile bool kernel_stacks = true;
const volatile bool user_stacks = true;
/* Innermost kernel frames left out: those of the tracepoint that runs the program. */
const volatile __u32 skip_frames = 0;

struct pt_regs___x86 {
	unsigned long bp, ip, sp;
} __attribute__((preserve_access_index));
struct user_pt_regs___arm64 {
	__u64 regs[31];
	__u64 sp, pc;
} __attribute__((preserve_access_index));
struct task_struct___stack {
	void *mm;
} __attribute__((preserve_access_index));

/* Registers of the interrupted user code. The hook may run in the kernel on behalf of the thread, so the user registers
 * saved at the top of the kernel stack are read, not the context's. */
static __always_inline bool user_registers(struct stack_head *head)
{
	struct task_struct___stack *task = (void *)bpf_get_current_task_btf();
	void *regs;

	head->ip = head->sp = head->fp = head->lr = 0;
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
	bpf_probe_read_kernel(&head->lr, 8, &((struct user_pt_regs___arm64 *)regs)->regs[30]);
#endif
	return true;
}

/* Fill head and body (STACK_BODY bytes); returns the bytes used in body. */
static __always_inline __u32 capture_stack(void *ctx, struct stack_head *head, __u8 *body)
{
	__u32 used = 0, copied = 0;
	long n;

	head->copied = 0;
	head->kernel_frames = head->user_frames = 0;
	head->ip = head->sp = head->fp = head->lr = 0;
	head->returns[0] = 0;
	if (kernel_stacks) {
		n = bpf_get_stack(ctx, body, FRAME_BYTES, skip_frames & BPF_F_SKIP_FIELD_MASK);
		if (n > 0) {
			used = n;
			head->kernel_frames = n / 8;
		}
	}
	if (!user_stacks || !user_registers(head))
		return used;
	used &= 2047;
	n = bpf_get_stack(ctx, body + used, FRAME_BYTES, BPF_F_USER_STACK);
	if (n > 0) {
		used += n;
		head->user_frames = n / 8;
	}
	if (copy_bytes) {
		original_returns(head->returns);
		head->ip = original_instruction(head->ip);
	}
	/* Page by page: a read that crosses the end of the stack's mapping would fail as a whole. */
	for (int i = 0; i < MAX_COPY / STACK_PAGE + 1 && copied < copy_bytes; i++) {
		__u64 from = head->sp + copied;
		__u32 want = STACK_PAGE - (from & (STACK_PAGE - 1)), at = used + copied;

		if (want > copy_bytes - copied)
			want = copy_bytes - copied;
		if (!want || want > STACK_PAGE || at > STACK_BODY - STACK_PAGE)
			break;
		if (bpf_probe_read_user(body + at, want, (void *)from))
			break;
		copied += want;
	}
	head->copied = copied;
	used += copied;
	return used > STACK_BODY ? STACK_BODY : used;
}

#endif
