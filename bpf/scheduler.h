/* SPDX-License-Identifier: GPL-2.0 */
/* What a sched_ext scheduler includes: the kernel's types as far as schedulers here use them, kfuncs, constants.
 *
 * Everything is matched by name with the running kernel's BTF when the object is loaded (CO-RE), so a structure lists
 * only the members that are used: a scheduler that needs another callback adds its member to `sched_ext_ops`.
 * Source of names and values: include/linux/sched/ext.h and kernel/sched/ext.c of Linux 6.12 to 7.3.
 */
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "workbench.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u64 u64;
typedef __u32 u32;
typedef __s32 s32;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cpumask {
	unsigned long bits[1];
};
struct kernfs_node {
	u64 id;
};
struct cgroup {
	struct kernfs_node *kn;
	int level;
};
struct sched_ext_entity {
	u32 flags;
	u64 slice;
	u64 dsq_vtime;
	u32 weight;
};
struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	unsigned short migration_disabled;
	int nr_cpus_allowed;
	const struct cpumask *cpus_ptr;
	struct sched_ext_entity scx;
	struct task_struct *real_parent;
};
struct scx_init_task_args {
	bool fork;
	struct cgroup *cgroup;
};
struct scx_exit_task_args {
	bool cancelled;
};
enum scx_exit_kind {
	SCX_EXIT_KIND_NOT_USED,
};
struct scx_exit_info {
	enum scx_exit_kind kind;
	s64 exit_code;
	const char *reason;
	char *msg;
};
#pragma clang attribute pop

struct bpf_iter_scx_dsq {
	u64 opaque[6];
} __attribute__((aligned(8)));

/* The callbacks of a scheduler: see the comments of struct sched_ext_ops in kernel/sched/ext.c. */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dequeue)(struct task_struct *p, u64 deq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*quiescent)(struct task_struct *p, u64 deq_flags);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	void (*enable)(struct task_struct *p);
	void (*disable)(struct task_struct *p);
	void (*cgroup_move)(struct task_struct *p, struct cgroup *from, struct cgroup *to);
	void (*cpu_online)(s32 cpu);
	void (*cpu_offline)(s32 cpu);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

#define SCX_DSQ_GLOBAL ((1ULL << 63) | 1)
#define SCX_DSQ_LOCAL ((1ULL << 63) | 2)
#define SCX_DSQ_LOCAL_ON ((1ULL << 63) | (1ULL << 62))
#define SCX_SLICE_DEFAULT (20 * 1000 * 1000ULL)
#define SCX_KICK_IDLE 1ULL
#define SCX_KICK_PREEMPT 2ULL
#define SCX_DEQ_SLEEP 1ULL
#define SCX_OPS_KEEP_BUILTIN_IDLE 1ULL
#define SCX_OPS_ENQ_LAST 2ULL
#define SCX_OPS_SWITCH_PARTIAL 8ULL

#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

/* The newest kernels do not have all of them: a scheduler that calls one that is missing is refused by the kernel. */
extern s32 scx_bpf_create_dsq(u64 dsq, s32 node) __ksym __weak;
extern void scx_bpf_destroy_dsq(u64 dsq) __ksym __weak;
extern s32 scx_bpf_select_cpu_dfl(struct task_struct *p, s32 prev_cpu, u64 wake_flags, bool *is_idle) __ksym __weak;
extern void scx_bpf_dsq_insert(struct task_struct *p, u64 dsq, u64 slice, u64 enq_flags) __ksym __weak;
extern void scx_bpf_dsq_insert_vtime(struct task_struct *p, u64 dsq, u64 slice, u64 vtime, u64 enq_flags) __ksym __weak;
extern bool scx_bpf_dsq_move_to_local(u64 dsq) __ksym __weak;
extern bool scx_bpf_dsq_move(struct bpf_iter_scx_dsq *it, struct task_struct *p, u64 dsq, u64 enq_flags) __ksym __weak;
extern void scx_bpf_dsq_move_set_slice(struct bpf_iter_scx_dsq *it, u64 slice) __ksym __weak;
extern bool scx_bpf_dsq_move_vtime(struct bpf_iter_scx_dsq *it, struct task_struct *p, u64 dsq,
				   u64 enq_flags) __ksym __weak;
extern void scx_bpf_dsq_move_set_vtime(struct bpf_iter_scx_dsq *it, u64 vtime) __ksym __weak;
extern s32 scx_bpf_dsq_nr_queued(u64 dsq) __ksym __weak;
extern void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym __weak;
extern bool scx_bpf_test_and_clear_cpu_idle(s32 cpu) __ksym __weak;
extern s32 scx_bpf_task_cpu(const struct task_struct *p) __ksym __weak;
extern bool scx_bpf_task_running(const struct task_struct *p) __ksym __weak;
extern bool scx_bpf_task_set_slice(struct task_struct *p, u64 slice) __ksym __weak;
extern u32 scx_bpf_nr_cpu_ids(void) __ksym __weak;
extern int bpf_iter_scx_dsq_new(struct bpf_iter_scx_dsq *it, u64 dsq, u64 flags) __ksym __weak;
extern struct task_struct *bpf_iter_scx_dsq_next(struct bpf_iter_scx_dsq *it) __ksym __weak;
extern void bpf_iter_scx_dsq_destroy(struct bpf_iter_scx_dsq *it) __ksym __weak;
extern bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *mask) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

#ifndef bpf_for
struct loop_rounds {
	u64 opaque[1];
} __attribute__((aligned(8)));
extern int bpf_iter_num_new(struct loop_rounds *it, int start, int end) __ksym __weak;
extern int *bpf_iter_num_next(struct loop_rounds *it) __ksym __weak;
extern void bpf_iter_num_destroy(struct loop_rounds *it) __ksym __weak;

/* A loop of a number of rounds that the verifier need not unroll (libbpf's bpf_for, which Debian 12's lacks). */
#define bpf_for(i_, start_, end_)                                                                                  \
	for (struct loop_rounds it___ __attribute__((aligned(8), cleanup(bpf_iter_num_destroy))),                  \
	     *once___ __attribute__((unused)) =                                                                     \
		     (bpf_iter_num_new(&it___, (start_), (end_)), (void)bpf_iter_num_destroy, (void *)0);            \
	     ({                                                                                                     \
		     int *next___ = bpf_iter_num_next(&it___);                                                      \
		     (next___ ? (i_) = *next___, 1 : 0);                                                            \
	     });)
#endif

/* A callback of the scheduler: `OPERATION(enqueue, struct task_struct *p, u64 enq_flags) { ... }` defines `op_enqueue`.
 * The loader makes `init` and `init_task` sleepable by the section's name, which every libbpf 1.x knows.
 */
#define OPERATION(name_, ...) SEC("struct_ops/" #name_) int BPF_PROG(op_##name_, ##__VA_ARGS__)

/* Why the scheduler ended, for the controller to read. */
struct scheduler_exit {
	s64 code;
	u32 kind; /* enum scx_exit_kind: 0 none, 64 and up by request, 1024 and up errors */
	char reason[64];
	char message[256];
};
struct scheduler_exit scheduler_exit;

static __always_inline void note_exit(const struct scx_exit_info *info)
{
	scheduler_exit.code = BPF_CORE_READ(info, exit_code);
	bpf_probe_read_kernel_str(scheduler_exit.reason, sizeof(scheduler_exit.reason), BPF_CORE_READ(info, reason));
	bpf_probe_read_kernel_str(scheduler_exit.message, sizeof(scheduler_exit.message), BPF_CORE_READ(info, msg));
	scheduler_exit.kind = BPF_CORE_READ(info, kind);
}

#endif
