/* From a trampoline of a system call into C and back, x86-64.
 *
 * The trampoline lowers the stack pointer by 304 bytes (the red zone, the register image of 168, 8 bytes), loads r11
 * with the site's record, whose second word is the address behind the system call instruction, and calls
 * wb_calls.enter, which makes the call as well. rcx = 0: made; else how the trampoline makes it (WB_CALL_*). A system
 * call changes rax, rcx and r11 alone, and so does all of this; flags are in the image.
 */
#include "calls.h"

#if defined(__x86_64__)
#define KEPT                     \
    "mov %r15, 8(%rsp)\n"        \
    "mov %r14, 16(%rsp)\n"       \
    "mov %r13, 24(%rsp)\n"       \
    "mov %r12, 32(%rsp)\n"       \
    "mov %rbp, 40(%rsp)\n"       \
    "mov %rbx, 48(%rsp)\n"
#define ARGUMENTS                \
    "mov %r10, 64(%rsp)\n"       \
    "mov %r9, 72(%rsp)\n"        \
    "mov %r8, 80(%rsp)\n"        \
    "mov %rdx, 104(%rsp)\n"      \
    "mov %rsi, 112(%rsp)\n"      \
    "mov %rdi, 120(%rsp)\n"
/* rcx: address behind the instruction, which the processor leaves in rcx too; flags are in r11 there. */
#define REST                     \
    "mov %rcx, 96(%rsp)\n"       \
    "mov %rcx, 136(%rsp)\n"      \
    "movq $0x33, 144(%rsp)\n"    \
    "pushfq\n"                   \
    "pop %rcx\n"                 \
    "mov %rcx, 56(%rsp)\n"       \
    "mov %rcx, 152(%rsp)\n"      \
    "lea 312(%rsp), %rcx\n"      \
    "mov %rcx, 160(%rsp)\n"      \
    "movq $0x2b, 168(%rsp)\n"    \
    "lea 8(%rsp), %rdi\n"
#define BACK                     \
    "mov 64(%rsp), %r10\n"       \
    "mov 72(%rsp), %r9\n"        \
    "mov 80(%rsp), %r8\n"        \
    "mov 104(%rsp), %rdx\n"      \
    "mov 112(%rsp), %rsi\n"      \
    "mov 120(%rsp), %rdi\n"

__asm__(".text\n"
        ".globl wb_call_enter\n"
        ".hidden wb_call_enter\n"
        ".type wb_call_enter, @function\n"
        ".balign 64\n"
        "wb_call_enter:\n" KEPT ARGUMENTS
        "mov 8(%r11), %rcx\n"
        "movq $-38, 88(%rsp)\n" /* -ENOSYS, as the kernel has it at entry */
        "mov %rax, 128(%rsp)\n" REST
        "call wb_call_entered\n"
        "mov %eax, %ecx\n" BACK
        "test %ecx, %ecx\n"
        "jnz 2f\n"
        "mov 128(%rsp), %rax\n"
        "syscall\n"
        ".globl wb_call_made\n"
        ".hidden wb_call_made\n"
        "wb_call_made:\n"
        "mov %rax, 88(%rsp)\n" ARGUMENTS
        "1: lea 8(%rsp), %rdi\n"
        "call wb_call_left\n" BACK
        "mov 88(%rsp), %rax\n"
        "mov 56(%rsp), %r11\n"
        "xor %ecx, %ecx\n"
        "ret\n"
        "2: cmp $5, %ecx\n"
        "je 1b\n"
        "mov 128(%rsp), %rax\n"
        "ret\n"
        ".size wb_call_enter, . - wb_call_enter\n"

        /* A call that the trampoline made returned in the caller: r11 = its number, rcx = the site's record. */
        ".globl wb_call_leave\n"
        ".hidden wb_call_leave\n"
        ".type wb_call_leave, @function\n"
        ".balign 64\n"
        "wb_call_leave:\n" KEPT ARGUMENTS
        "mov 8(%rcx), %rcx\n"
        "mov %rax, 88(%rsp)\n"
        "mov %r11, 128(%rsp)\n" REST
        "call wb_call_parent\n" BACK
        "mov 88(%rsp), %rax\n"
        "ret\n"
        ".size wb_call_leave, . - wb_call_leave\n"

        /* ... and in the child. */
        ".globl wb_call_born\n"
        ".hidden wb_call_born\n"
        ".type wb_call_born, @function\n"
        ".balign 64\n"
        "wb_call_born:\n"
        "pushfq\n"
        "pop %rcx\n"
        "mov %rcx, 152(%rsp)\n" ARGUMENTS
        "call wb_call_child\n" BACK
        "xor %eax, %eax\n"
        "ret\n"
        ".size wb_call_born, . - wb_call_born\n");

extern const char wb_call_enter[], wb_call_leave[], wb_call_born[], wb_call_made[];
WB_EXPORT struct wb_calls wb_calls = {
    .enter = (uint64_t)wb_call_enter,
    .leave = (uint64_t)wb_call_leave,
    .child = (uint64_t)wb_call_born,
    .wanted = (uint64_t)wb_call_wanted,
    .made = (uint64_t)wb_call_made,
};
#endif
