/* What programs see of the "kernel" in user space: the structures that CO-RE relocates accesses against.
 *
 * bpf/userspace.bpf.c includes this file: its BTF is what a program is linked against when it runs in user space, so
 * `task->tgid` of a program for the kernel becomes an access to this structure. Names of structures and fields are the
 * kernel's; what is not here does not exist in user space (bpf_core_field_exists gives 0, other accesses are refused by
 * name). No pointer but to memory of the same process is ever stored here.
 */
#ifndef WB_PLATFORM_H
#define WB_PLATFORM_H

struct mm_struct {
    unsigned long start_stack;
};

/* A return probe of the workbench on a frame of this thread (attach room): innermost first. */
struct return_instance {
    unsigned long orig_ret_vaddr;
    _Bool chained;
    struct return_instance *next;
};

struct uprobe_task {
    struct return_instance *return_instances;
    void *active_uprobe; /* NULL: no instruction is ever run out of line while a program runs */
    unsigned long vaddr, xol_vaddr;
};

struct signal_struct {
    struct {
        int counter;
    } live;
};

struct task_struct {
    struct mm_struct *mm;
    struct uprobe_task *utask;
    struct signal_struct *signal;
    int pid, tgid;
    char comm[16];
};

#if defined(__x86_64__) || defined(__TARGET_ARCH_x86)
struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#else
struct user_pt_regs {
    unsigned long long regs[31];
    unsigned long long sp, pc, pstate;
};
struct pt_regs {
    unsigned long long regs[31];
    unsigned long long sp, pc, pstate;
};
#endif

#endif
