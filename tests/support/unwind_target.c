/* Calls itself in many ways, then writes its own registers and stack, and what libgcc's unwinder says of it.
 *
 *   unwind_target MODE [LIBRARY]     MODE: nested, signal, altstack, realigned, jit, trampoline, library
 *
 * Output, 64-bit words: ip, sp, fp, lr, number of frames, stack bytes; frames of backtrace(), the stack. It then waits
 * for the end of its standard input. In mode library it first waits for one byte, then loads LIBRARY. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

static char *stack_end;
static void *above[64]; /* backtrace of the caller of generated code, which backtrace() cannot pass */
static int above_count;
static volatile int sink;

static void put(const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        ssize_t done = write(1, at, size);
        if (done <= 0)
            _exit(3);
        at += done;
        size -= (size_t)done;
    }
}

NOINLINE void capture(void)
{
    uint64_t head[6] = {0};
    void *frames[128];
#if defined(__x86_64__)
    __asm__ volatile("lea 0(%%rip), %0\n mov %%rsp, %1\n mov %%rbp, %2" : "=&r"(head[0]), "=&r"(head[1]), "=&r"(head[2]));
#elif defined(__aarch64__)
    __asm__ volatile("adr %0, .\n mov %1, sp\n mov %2, x29\n mov %3, x30"
                     : "=&r"(head[0]), "=&r"(head[1]), "=&r"(head[2]), "=&r"(head[3]));
#endif
    head[4] = (uint64_t)backtrace(frames, 128);
    if (above_count) {
        memcpy(frames, above, sizeof above);
        head[4] = (uint64_t)above_count;
    }
    head[5] = (uint64_t)(stack_end - (char *)head[1]);
    put(head, sizeof head);
    put(frames, head[4] * 8);
    put((void *)head[1], head[5]);
    while (read(0, frames, 1) > 0)
        continue;
    sink++;
}

NOINLINE static void nested(int depth)
{
    volatile char locals[40];
    locals[depth % 40] = (char)depth;
    if (depth)
        nested(depth - 1);
    else
        capture();
    sink += locals[depth % 40];
}

static int compare(const void *a, const void *b)
{
    static int once;
    if (!once++)
        nested(3);
    return *(const int *)a - *(const int *)b;
}

NOINLINE static void through_libc(void)
{
    int values[] = {3, 1, 2};
    qsort(values, 3, sizeof values[0], compare);
    sink += values[0];
}

static void handler(int number)
{
    nested(2);
    sink += number;
}

NOINLINE static void interrupted(void)
{
    raise(SIGUSR1);
    sink++;
}

NOINLINE static void realigned(int size)
{
    char *dynamic = __builtin_alloca((size_t)size);
    _Alignas(64) volatile char wide[128];
    wide[size % 128] = 1;
    memset(dynamic, 1, (size_t)size);
    nested(2);
    sink += wide[3] + dynamic[0];
}

NOINLINE static void generated(int with_frame_pointer)
{
#if defined(__x86_64__) /* push rbp; mov rbp, rsp; call rdi; pop rbp; ret */
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    /* CPython's trampoline: sub rsp, 8; call rcx; add rsp, 8; ret */
    static const unsigned char bare[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd1, 0x48, 0x83, 0xc4, 8, 0xc3};
#else /* stp x29, x30, [sp, -16]!; mov x29, sp; blr x0; ldp x29, x30, [sp], 16; ret */
    static const uint32_t code[] = {0xa9bf7bfd, 0x910003fd, 0xd63f0000, 0xa8c17bfd, 0xd65f03c0};
    static const uint32_t bare[] = {0xa9bf7bfd, 0x910003fd, 0xd63f0060, 0xa8c17bfd, 0xd65f03c0};
#endif
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    memcpy(page + 64, bare, sizeof bare);
    __builtin___clear_cache(page, page + 128);
    above_count = backtrace(above, 64);
    if (with_frame_pointer)
        ((void (*)(void (*)(void)))(void *)page)(capture);
    else
        ((void (*)(int, int, int, void (*)(void)))(void *)(page + 64))(0, 0, 0, capture);
    sink++;
}

NOINLINE static void loaded(const char *path)
{
    char byte;
    if (read(0, &byte, 1) != 1)
        _exit(4);
    void *library = dlopen(path, RTLD_NOW);
    if (!library)
        _exit(5);
    void (*through)(void (*)(void)) = (void (*)(void (*)(void)))dlsym(library, "through");
    through(capture);
    sink++;
}

int main(int argc, char **argv)
{
    static char alternate[65536];
    pthread_attr_t attributes;
    void *low;
    size_t size;
    const char *mode = argc > 1 ? argv[1] : "";
    void *warm[4];
    backtrace(warm, 4); /* loads libgcc now */
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &low, &size);
    stack_end = (char *)low + size;
    struct sigaction action = {.sa_handler = handler};
    if (!strcmp(mode, "altstack")) {
        stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
        sigaltstack(&stack, NULL);
        action.sa_flags = SA_ONSTACK;
        stack_end = alternate + sizeof alternate;
    }
    sigaction(SIGUSR1, &action, NULL);
    if (!strcmp(mode, "nested"))
        through_libc();
    else if (!strcmp(mode, "signal") || !strcmp(mode, "altstack"))
        interrupted();
    else if (!strcmp(mode, "realigned"))
        realigned(argc * 40);
    else if (!strcmp(mode, "jit"))
        generated(1);
    else if (!strcmp(mode, "trampoline"))
        generated(0);
    else if (!strcmp(mode, "library") && argc > 2)
        loaded(argv[2]);
    else
        return 2;
    return sink == 12345;
}
