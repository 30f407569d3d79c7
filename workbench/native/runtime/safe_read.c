/* Reads of memory that may not be there, without a system call for each and without trust in signal handlers.
 *
 * Two nets. The first: a page is read only after it was found readable, by a system call that copies 8 bytes from it
 * and does nothing else (rt_sigprocmask with an operation that does not exist: -EFAULT or -EINVAL; 0.1 us), and a small
 * cache per thread remembers such pages. A pointer to what was never mapped, or is PROT_NONE, or lies behind the end of
 * a mapped file, ends there: no fault happens, so nothing depends on who handles SIGSEGV. The cache is believed until
 * the next tick of the kernel's clock (1 to 10 ms), because pages go away. (Where the system call does not work so, under an emulator or a filter,
 * another is found when the process starts.)
 *
 * The second catches those that went meanwhile: the loads are a few instructions whose addresses are
 * known, and the handler of SIGSEGV and SIGBUS (process.c) leads them out. It fails if the thread blocks the signal or
 * the application replaced the handler. Whether that is so is asked whenever the cache is emptied; if it is, the cache
 * lives for one run of a program only.
 */
#include "safe_read.h"

#include "process.h"
#include "system.h"
#include "thread.h"

#define PAGE 4096u
#define HOW_NONE 0x7ead
#define CLOCK_COARSE 6 /* CLOCK_MONOTONIC_COARSE: read in 4 ns, changes at ticks */
#define USER_END (1ull << 56)       /* five levels of page tables; no process is given more unless it asks */
#define USER_END_USUAL (1ull << 47) /* what the kernel holds against a read of nothing */

/* wb_raw_copy(to, from, size) and wb_raw_load(from, to): 0, or 1 if a byte of `from` (or `to`) cannot be had. */
#if defined(__x86_64__)
__asm__(".text\n"
        ".hidden wb_raw_copy\n.globl wb_raw_copy\n.type wb_raw_copy, @function\n"
        ".hidden wb_raw_load\n.globl wb_raw_load\n.type wb_raw_load, @function\n"
        ".hidden wb_raw_begin\n.globl wb_raw_begin\n"
        ".hidden wb_raw_end\n.globl wb_raw_end\n"
        ".hidden wb_raw_failed\n.globl wb_raw_failed\n"
        ".p2align 4\n"
        "wb_raw_begin:\n"
        "wb_raw_load:\n"
        "  movq (%rdi), %rax\n"
        "  movq %rax, (%rsi)\n"
        "  xorl %eax, %eax\n"
        "  ret\n"
        ".p2align 4\n"
        "wb_raw_copy:\n"
        "  movq %rdx, %rcx\n"
        "  cmpq $256, %rdx\n"
        "  ja 3f\n"
        "1: cmpq $8, %rcx\n"
        "  jb 2f\n"
        "  movq (%rsi), %rax\n"
        "  movq %rax, (%rdi)\n"
        "  addq $8, %rsi\n"
        "  addq $8, %rdi\n"
        "  subq $8, %rcx\n"
        "  jmp 1b\n"
        "2: testb $4, %cl\n" /* as copy_from_kernel_nofault: seen where both overlap */
        "  jz 5f\n"
        "  movl (%rsi), %eax\n"
        "  movl %eax, (%rdi)\n"
        "  addq $4, %rsi\n"
        "  addq $4, %rdi\n"
        "5: testb $2, %cl\n"
        "  jz 6f\n"
        "  movw (%rsi), %ax\n"
        "  movw %ax, (%rdi)\n"
        "  addq $2, %rsi\n"
        "  addq $2, %rdi\n"
        "6: testb $1, %cl\n"
        "  jz 4f\n"
        "  movb (%rsi), %al\n"
        "  movb %al, (%rdi)\n"
        "  jmp 4f\n"
        "3: rep movsb\n"
        "4: xorl %eax, %eax\n"
        "  ret\n"
        "wb_raw_end:\n"
        "wb_raw_failed:\n"
        "  movl $1, %eax\n"
        "  ret\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".hidden wb_raw_copy\n.globl wb_raw_copy\n.type wb_raw_copy, @function\n"
        ".hidden wb_raw_load\n.globl wb_raw_load\n.type wb_raw_load, @function\n"
        ".hidden wb_raw_begin\n.globl wb_raw_begin\n"
        ".hidden wb_raw_end\n.globl wb_raw_end\n"
        ".hidden wb_raw_failed\n.globl wb_raw_failed\n"
        ".p2align 4\n"
        "wb_raw_begin:\n"
        "wb_raw_load:\n"
        "  ldr x2, [x0]\n"
        "  str x2, [x1]\n"
        "  mov w0, wzr\n"
        "  ret\n"
        "wb_raw_copy:\n"
        "1: cmp x2, #8\n"
        "  b.lo 2f\n"
        "  ldr x3, [x1], #8\n"
        "  str x3, [x0], #8\n"
        "  sub x2, x2, #8\n"
        "  b 1b\n"
        "2: tbz x2, #2, 4f\n"
        "  ldr w3, [x1], #4\n"
        "  str w3, [x0], #4\n"
        "4: tbz x2, #1, 5f\n"
        "  ldrh w3, [x1], #2\n"
        "  strh w3, [x0], #2\n"
        "5: tbz x2, #0, 3f\n"
        "  ldrb w3, [x1], #1\n"
        "  strb w3, [x0], #1\n"
        "3: mov w0, wzr\n"
        "  ret\n"
        "wb_raw_end:\n"
        "wb_raw_failed:\n"
        "  mov w0, #1\n"
        "  ret\n");
#endif
uint32_t wb_raw_copy(void *to, const void *from, uint64_t size) __attribute__((visibility("hidden")));
uint32_t wb_raw_load(const void *from, uint64_t *to) __attribute__((visibility("hidden")));
extern char wb_raw_begin[] __attribute__((visibility("hidden")));
extern char wb_raw_end[] __attribute__((visibility("hidden")));
extern char wb_raw_failed[] __attribute__((visibility("hidden")));

bool wb_safe_recover(void *ucontext) {
    /* ucontext: flags, link, stack (40 bytes), then struct sigcontext; aarch64 has 128 bytes of mask, aligned to 16. */
#if defined(__x86_64__)
    uint64_t *pc = (uint64_t *)((uint8_t *)ucontext + 40 + 16 * 8);
#else
    uint64_t *pc = (uint64_t *)((uint8_t *)ucontext + 176 + 8 + 32 * 8);
#endif
    if (*pc < (uint64_t)wb_raw_begin || *pc >= (uint64_t)wb_raw_end)
        return false;
    *pc = (uint64_t)wb_raw_failed;
    return true;
}

bool wb_probe(uint32_t how, uint64_t address) {
    if (how == WB_PROBE_MASK)
        return wb_system_call(SYS_rt_sigprocmask, HOW_NONE, (int64_t)address, 0, 8, 0, 0) == -WB_EINVAL;
    uint64_t word = 0, local[2] = {(uint64_t)&word, 8}, remote[2] = {address, 8};
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    return wb_system_call(SYS_process_vm_readv, pid, (int64_t)local, 1, (int64_t)remote, 1, 0) == 8;
}

static bool readable(const struct wb_thread *thread, uint64_t page) {
    if (wb_process.probe == WB_PROBE_NONE)
        return thread && thread->armed;
    return wb_probe(wb_process.probe, page);
}

static void empty(struct wb_thread *thread, uint64_t now) {
    for (uint32_t i = 0; i < WB_PAGES; i++)
        thread->pages[i] = 0;
    thread->armed = wb_process_armed();
    thread->pages_at = now;
}

/* The thread's cache, fit to be believed in this run: since the last tick of the kernel's clock, 1 to 10 ms ago. */
static struct wb_thread *fresh(struct wb_run *run) {
    struct wb_thread *thread = wb_thread(run);
    if (!thread || run->checked)
        return thread;
    uint64_t now = wb_clock(CLOCK_COARSE);
    if (!thread->armed || now != thread->pages_at)
        empty(thread, now);
    run->checked = 1;
    return thread;
}

static bool page_ok(struct wb_thread *thread, uint64_t page) {
    uint64_t name = page / PAGE | 1ull << 63;
    uint64_t *entry = thread ? &thread->pages[page / PAGE % WB_PAGES] : 0;
    if (entry && *entry == name)
        return true;
    if (!readable(thread, page))
        return false;
    if (entry)
        *entry = name;
    return true;
}

static bool pages_ok(struct wb_run *run, uint64_t from, uint64_t size) {
    if (from >= USER_END || size > USER_END - from)
        return false;
    struct wb_thread *thread = fresh(run);
    for (uint64_t page = from & ~(uint64_t)(PAGE - 1); page < from + size; page += PAGE)
        if (!page_ok(thread, page))
            return false;
    return true;
}

/* The usual case: one page, found readable, in a run that has looked at the cache before. */
static inline bool believed(struct wb_run *run, uint64_t from, uint64_t size) {
    struct wb_thread *thread = wb_thread(run);
    uint64_t page = from / PAGE;
    return run->checked && thread && (from + size - 1) / PAGE == page &&
           thread->pages[page % WB_PAGES] == (page | 1ull << 63);
}

WB_EXPORT int64_t wb_safe_copy(struct wb_run *run, void *to, const void *from, uint64_t size) {
    if (__builtin_expect(size == 8 && believed(run, (uint64_t)from, 8), 1))
        return wb_raw_load(from, to) ? -WB_EFAULT : 0;
    if (!size)
        return (uint64_t)from < USER_END_USUAL ? 0 : -WB_EFAULT;
    if (!pages_ok(run, (uint64_t)from, size) || wb_raw_copy(to, from, size))
        return -WB_EFAULT;
    return 0;
}

/* Aligned words: they never cross into the next page, which may be missing when the text ends before it. */
WB_EXPORT int64_t wb_safe_string(struct wb_run *run, char *to, const char *from, uint64_t size) {
    uint64_t at = (uint64_t)from, done = 0;
    if (!size)
        return 0;
    while (done < size) {
        uint64_t start = at & ~7ull, skip = at - start, word = 0;
        if ((!done || !(at % PAGE)) && !pages_ok(run, at, 1))
            return -WB_EFAULT;
        if (wb_raw_load((const void *)start, &word))
            return -WB_EFAULT;
        for (uint64_t i = skip; i < 8 && done < size; i++, at++) {
            char byte = (char)(word >> 8 * i);
            to[done++] = byte;
            if (!byte)
                return (int64_t)done;
        }
    }
    to[size - 1] = 0;
    return (int64_t)size;
}

/* Writing cannot be tried without doing it: by the kernel, which checks (about 1 us). */
WB_EXPORT int64_t wb_safe_write(struct wb_run *run, void *to, const void *from, uint64_t size) {
    (void)run;
    if ((uint64_t)to >= USER_END || size > USER_END - (uint64_t)to)
        return -WB_EFAULT;
    if (!size)
        return 0;
    uint64_t local[2] = {(uint64_t)from, size}, remote[2] = {(uint64_t)to, size};
    int64_t pid = wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
    int64_t done = wb_system_call(SYS_process_vm_writev, pid, (int64_t)local, 1, (int64_t)remote, 1, 0);
    return done == (int64_t)size ? 0 : -WB_EFAULT;
}
