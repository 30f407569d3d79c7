"""Which bcc programs read kernel structs: every way we could think of is found, honest one-liners pass."""

from __future__ import annotations

import pytest

from workbench.kernel.bcc_guard import kernel_reads

HARMLESS = {
    "counter": "BPF_ARRAY(hits, u64, 1);\nRAW_TRACEPOINT_PROBE(sys_enter) { hits.increment(0); return 0; }",
    "by process": """
        BPF_HASH(counts, u32, u64);
        int kprobe__vfs_read(struct pt_regs *ctx, struct file *file) {
            u32 pid = bpf_get_current_pid_tgid() >> 32;
            u64 zero = 0, *value = counts.lookup_or_try_init(&pid, &zero);
            if (value) (*value)++;
            return 0;
        }""",
    "own struct": """
        struct key_t { u32 pid; char comm[16]; };
        struct total { u64 calls; };
        BPF_HASH(totals, struct key_t, struct total);
        RAW_TRACEPOINT_PROBE(sys_enter) {
            struct key_t key = {};
            key.pid = bpf_get_current_pid_tgid();
            bpf_get_current_comm(&key.comm, sizeof(key.comm));
            struct total *old = totals.lookup(&key), fresh = {};
            if (old) { old->calls++; return 0; }
            totals.update(&key, &fresh);
            return 0;
        }""",
    "two at once": """
        struct pair { u64 a; struct { u32 low; u32 high; } split; };
        BPF_HASH(pairs, u32, struct pair);
        int hook(struct pt_regs *ctx) {
            struct pair one = {.a = 1}, two = {}, *three, many[2] = {};
            u32 zero = 0;
            three = pairs.lookup(&zero);
            if (!three) return 0;
            one.split.low = three->a; two.a = three->split.high; many[1].a = (*three).a;
            pairs.update(&zero, &one);
            return 0;
        }""",
    "typedef": """
        typedef struct { u64 address; } event_t;
        BPF_RINGBUF_OUTPUT(events, 8);
        int hook(struct pt_regs *ctx) {
            event_t *event = events.ringbuf_reserve(sizeof(event_t));
            if (!event) return 1;
            event->address = PT_REGS_PARM1(ctx);
            events.ringbuf_submit(event, 0);
            return 0;
        }""",
    "tracepoint arguments": "BPF_HASH(n, u32);\nTRACEPOINT_PROBE(raw_syscalls, sys_exit)"
    " { u32 id = args->id; n.increment(id); return 0; }",
    "own function and macro": """
        #define SQUARE(x) ((x) * (x))
        static inline u64 twice(u64 x) { return SQUARE(x) + 1; }
        int hook(struct pt_regs *ctx) { return twice(bpf_ktime_get_ns()); }""",
    "comment and string": """
        // task->pid
        int hook(void *ctx) { /* struct task_struct t; file_inode(f) */
            bpf_trace_printk("task->pid (x)"); return 0; }""",
    "sample period": "int hook(struct bpf_perf_event_data *ctx) { return ctx->sample_period; }",
    "task as a number": """
        BPF_HASH(tasks, u64);
        RAW_TRACEPOINT_PROBE(sys_enter) {
            struct task_struct *task = (struct task_struct *)bpf_get_current_task();
            u64 key = (u64)task;
            tasks.increment(key);
            return 0;
        }""",
}
READS = {
    "plain": "struct task_struct *t = (struct task_struct *)bpf_get_current_task();\nreturn t->tgid;",
    "spaces": "struct task_struct * t = (void *)bpf_get_current_task(); return t\n  -> tgid;",
    "cast": "return ((struct task_struct *)bpf_get_current_task())->tgid;",
    "dereferenced": "struct task_struct *t = 0; return (*t).tgid;",
    "index": "struct task_struct *t = 0; return t[0].tgid;",
    "cast index": "return ((struct task_struct *)ctx)[0].tgid;",
    "helper read": "struct file *f = 0; u64 x; bpf_probe_read_kernel(&x, 8, &f->f_pos); return x;",
    "whole struct": "struct inode i; bpf_probe_read_kernel(&i, sizeof(i), (void *)ctx); return i.i_ino;",
    "size": "return sizeof(struct task_struct);",
    "offset": "return offsetof(struct task_struct, tgid);",
    "dereferenced cast": "struct inode *x = 0; return *(u32 *)x + (*(struct inode *)ctx).i_ino;",
    "auto type": "__auto_type t = (struct task_struct *)ctx; return t->tgid;",
    "typeof": "typeof(*(struct task_struct *)0) *t = ctx; return t->tgid;",
    "inline of a header": "return task_pid_nr((void *)bpf_get_current_task());",
    "container": "return container_of(ctx, struct task_struct, pid)->tgid;",
    "core macro": "return BPF_CORE_READ((struct task_struct *)ctx, tgid);",
    "current": "return current->tgid;",
    "chain": "struct task_struct *t = 0; return t->mm->total_vm;",
    "union": "union kernfs_node_id *u = 0; return u->ino;",
    "second of two": "struct task_struct *a, *b; return b->tgid;",
    "typedef of a header": "pgd_t *p = ctx; return (*p).pgd;",
    "typedef by value": "atomic_t a; bpf_probe_read_kernel(&a, sizeof(a), ctx); return 0;",
    "indexed typedef": "pgd_t *p = ctx; return p[0].pgd;",
    "parenthesised": "struct task_struct *t = 0; return (t)->tgid;",
    "double pointer": "struct task_struct **t = 0; return (*t)->tgid;",
    "copied to void": "struct task_struct *t = 0; void *p = t; return ((struct task_struct *)p)->tgid;",
    "line continuation": "struct task_struct *t = 0; return t-\\\n>tgid;",
    "member array": "struct task_struct *t[2] = {}; return t[1]->tgid;",
}
WHOLE = {
    "typedef": "typedef struct task_struct T; int hook(void *ctx) { T *t = ctx; return t->tgid; }",
    "pointer typedef": "typedef struct task_struct *T; int hook(void *ctx) { T t = ctx; return t->tgid; }",
    "macro struct": "#define T struct task_struct\nint hook(void *ctx) { T *t = ctx; return t->tgid; }",
    "macro keyword": "#define S struct\nint hook(void *ctx) { S task_struct *t = ctx; return t->tgid; }",
    "argument": "int kprobe__vfs_read(struct pt_regs *ctx, struct file *file) { return file->f_flags; }",
    "embedded": "struct mine { struct inode in; }; int hook(void *ctx) { struct mine *m = ctx; return m->in.i_ino; }",
    "pointer member": "struct mine { struct file *f; }; int hook(void *c) { struct mine m = {}; return m.f->f_pos; }",
    "parameter beside an own one": "struct mine { int a; }; static int f(struct mine *m, pgd_t *p) { return p->pgd; }",
    "shadowed name": "struct own { int a; }; int f(struct own *p) { return 0; } int g(struct file *p) { return p->x; }",
    "kfunc": "KFUNC_PROBE(vfs_read, struct file *file) { return file->f_flags; }",
    "dereferencing macro": "#define TGID(t) (t)->tgid\nint hook(void *ctx) { return TGID((struct task_struct *)ctx); }",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_programs_without_kernel_structs_pass(name: str) -> None:
    assert kernel_reads(HARMLESS[name]) == []


@pytest.mark.parametrize("name", READS)
def test_reads_inside_a_function_are_found(name: str) -> None:
    assert kernel_reads(f"int hook(void *ctx) {{\n{READS[name]}\n}}") != []


@pytest.mark.parametrize("name", WHOLE)
def test_reads_behind_declarations_are_found(name: str) -> None:
    assert kernel_reads(WHOLE[name]) != []


def test_the_line_and_the_expression_are_named() -> None:
    text = "int hook(void *ctx) {\n  /* a\n comment */\n  struct task_struct *task = ctx;\n  return task->tgid;\n}"
    (read, *_) = kernel_reads(text)
    assert read.line == 5 and read.text == "task->tgid" and "task" in read.why
