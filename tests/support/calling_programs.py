"""Programs whose system calls are hooked while they check, by themselves, that each does what it should."""

from __future__ import annotations

import time
from pathlib import Path

from probed_programs import Running, build

from workbench.runtime.attach.memory import mappings

__all__ = ("calling_program", "code_of", "goes_on", "wait_for", "word")

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
volatile uint64_t words[64];
volatile long bad, rounds[16], signals, where;
static void wrong(long what) { bad++; where = what; }
static void restarting(int n) { (void)n; signals++; syscall(SYS_getppid); }
static void breaking(int n) { (void)n; signals++; syscall(SYS_getuid); }
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
/* A pipe: every byte that is written is read, in order, however often the calls are interrupted. */
static int ends[2];
static void *writer(void *unused) {
    for (unsigned char next = 0;; rounds[0]++) {
        ssize_t n = write(ends[1], &next, 1);
        if (n == 1) next++;
        else if (errno != EINTR) wrong(1);
        if (rounds[0] % 64 == 0) { struct timespec t = {0, 500000}; nanosleep(&t, NULL); }
    }
    return unused;
}
static void *reader(void *unused) {
    for (unsigned char next = 0, got;; rounds[1]++) {
        ssize_t n = read(ends[0], &got, 1);
        if (n == 1) { if (got != next++) wrong(2); }
        else if (n != -1 || errno != EINTR) wrong(3);
    }
    return unused;
}
static void *sleeper(void *unused) {
    for (;; rounds[2]++) {
        struct timespec t = {0, 2000000}, left = t;
        double begin = now();
        int e;
        while ((e = nanosleep(&left, &left)) == -1 && errno == EINTR) {}
        if (e) wrong(4);
        if (now() - begin < 0.0019) wrong(5);
    }
    return unused;
}
static void *poller(void *unused) {
    for (;; rounds[3]++) {
        struct pollfd none = {-1, POLLIN, 0};
        int n = poll(&none, 1, 3);
        if (n != 0 && !(n == -1 && errno == EINTR)) wrong(6);
    }
    return unused;
}
/* Threads that hand a token on by a futex. */
static uint32_t token;
static void *passer(void *number) {
    uint32_t me = (uint32_t)(long)number;
    for (;; rounds[4 + me]++) {
        uint32_t seen;
        while ((seen = __atomic_load_n(&token, __ATOMIC_SEQ_CST)) % 3 != me) {
            long e = syscall(SYS_futex, &token, FUTEX_WAIT, seen, NULL, NULL, 0);
            if (e && errno != EAGAIN && errno != EINTR) wrong(7);
        }
        if (!__atomic_compare_exchange_n(&token, &seen, seen + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) wrong(8);
        if (syscall(SYS_futex, &token, FUTEX_WAKE, 64, NULL, NULL, 0) < 0) wrong(9);
        if (me == 0) { struct timespec t = {0, 300000}; nanosleep(&t, NULL); }
    }
    return NULL;
}
/* Calls back to back: every register but rax, rcx and r11 keeps its value, and so do flags and the red zone. */
static void *registers(void *unused) {
    for (;; rounds[7]++) {
        uint64_t wrongs = 0;
        __asm__ volatile(
            "mov $0x1111111111111111, %%rbx\n mov $0x2222222222222222, %%rdx\n mov $0x3333333333333333, %%rsi\n"
            "mov $0x4444444444444444, %%rdi\n mov $0x5555555555555555, %%r8\n mov $0x6666666666666666, %%r9\n"
            "mov $0x7777777777777777, %%r10\n mov $0x1212121212121212, %%r12\n mov $0x1313131313131313, %%r13\n"
            "mov $0x1414141414141414, %%r14\n mov $0x1515151515151515, %%r15\n"
            "movq %%rbx, %%xmm7\n"
            "mov %%rbx, -8(%%rsp)\n mov %%rbx, -128(%%rsp)\n"
            "mov $110, %%eax\n"
            "stc\n"
            "syscall\n"
            "jnc 1f\n"
            "movq %%xmm7, %%rcx\n cmp %%rcx, %%rbx\n jne 1f\n"
            "cmp %%rbx, -8(%%rsp)\n jne 1f\n cmp %%rbx, -128(%%rsp)\n jne 1f\n"
            "mov $0x1111111111111111, %%rcx\n cmp %%rcx, %%rbx\n jne 1f\n"
            "mov $0x2222222222222222, %%rcx\n cmp %%rcx, %%rdx\n jne 1f\n"
            "mov $0x3333333333333333, %%rcx\n cmp %%rcx, %%rsi\n jne 1f\n"
            "mov $0x4444444444444444, %%rcx\n cmp %%rcx, %%rdi\n jne 1f\n"
            "mov $0x5555555555555555, %%rcx\n cmp %%rcx, %%r8\n jne 1f\n"
            "mov $0x6666666666666666, %%rcx\n cmp %%rcx, %%r9\n jne 1f\n"
            "mov $0x7777777777777777, %%rcx\n cmp %%rcx, %%r10\n jne 1f\n"
            "mov $0x1212121212121212, %%rcx\n cmp %%rcx, %%r12\n jne 1f\n"
            "mov $0x1313131313131313, %%rcx\n cmp %%rcx, %%r13\n jne 1f\n"
            "mov $0x1414141414141414, %%rcx\n cmp %%rcx, %%r14\n jne 1f\n"
            "mov $0x1515151515151515, %%rcx\n cmp %%rcx, %%r15\n jne 1f\n"
            "jmp 2f\n1: mov $1, %%ecx\n jmp 3f\n2: xor %%ecx, %%ecx\n3: mov %%rcx, %0\n"
            : "=&b"(wrongs) : : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
              "r15", "xmm7", "memory", "cc");
        if (wrongs) wrong(10);
        if (rounds[7] % 256 == 0) { struct timespec t = {0, 500000}; nanosleep(&t, NULL); }
    }
    return unused;
}
/* Nothing but the time limit or the handler without SA_RESTART ends these. */
static void *waiter(void *unused) {
    for (;; rounds[8]++) {
        sigset_t set;
        struct timespec t = {0, 4000000};
        siginfo_t info;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        if (sigtimedwait(&set, &info, &t) != -1 || (errno != EAGAIN && errno != EINTR)) wrong(11);
    }
    return unused;
}
/* A branch leads to the instruction, so a patch begins there; the thread is just behind it most of the time. */
static void *tight(void *unused) {
    long expected = getppid();
    for (;; rounds[9]++) {
        register long result __asm__("rax") = SYS_getppid;
        __asm__ volatile("jmp 1f\n1: syscall\n cmp $0, %0\n" : "+r"(result) : : "rcx", "r11", "memory", "cc");
        if (result != expected) wrong(12);
    }
    return unused;
}
static void *child(void *result) { *(long *)result = getppid(); return NULL; }
static int cloned(void *unused) { (void)unused; return 5; }
static void children(long n) {
    for (long i = 0; i < n; i++) {
        int status = -1;
        pid_t pid = 0;
        char *argv[] = {"true", NULL};
        static char stack[65536] __attribute__((aligned(16)));
        switch (i % 6) {
        case 0: if (!(pid = fork())) _exit(getppid() > 0 ? 7 : 1); break;
        case 1: if (!(pid = vfork())) { execve("/bin/true", argv, environ); _exit(1); } break;
        case 2: if (!(pid = vfork())) _exit(3); break;
        case 3: if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ)) wrong(20); break;
        case 4: pid = clone(cloned, stack + sizeof stack, SIGCHLD, NULL); break;
        case 5: {
            pthread_t t;
            long result = 0;
            if (pthread_create(&t, NULL, child, &result) || pthread_join(t, NULL) || result <= 0) wrong(21);
            continue;
        }
        }
        if (pid <= 0) { wrong(22); continue; }
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        int expected[] = {7, 0, 3, 0, 5};
        if (!WIFEXITED(status) || WEXITSTATUS(status) != expected[i % 6]) wrong(23);
    }
}
int main(int argc, char **argv) {
    struct itimerval every = {{0, 1300}, {0, 1300}}, none = {{0, 0}, {0, 0}};
    pthread_t t;
    char what[32];
    long n;
    if (pipe(ends)) return 1;
    if (argc > 1 && !strcmp(argv[1], "busy")) {
        sigaction(SIGALRM, &(struct sigaction){.sa_handler = restarting, .sa_flags = SA_RESTART}, NULL);
        sigaction(SIGVTALRM, &(struct sigaction){.sa_handler = breaking}, NULL);
        void *(*all[])(void *) = {writer, reader, sleeper, sleeper, poller, poller, registers, waiter, tight};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++) pthread_create(&t, NULL, all[i], NULL);
        for (long i = 0; i < 3; i++) pthread_create(&t, NULL, passer, (void *)i);
        setitimer(ITIMER_REAL, &every, NULL);
        sigset_t set;  /* the first thread's reading must not end with EINTR */
        sigemptyset(&set);
        sigaddset(&set, SIGVTALRM);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    printf("%p\n", (void *)words);
    fflush(stdout);
    while (scanf("%31s %ld", what, &n) == 2) {
        if (!strcmp(what, "ppid")) for (long i = 0; i < n; i++) syscall(SYS_getppid);
        if (!strcmp(what, "bad")) for (long i = 0; i < n; i++) close(-1);
        if (!strcmp(what, "nap")) { struct timespec nap = {0, n}; nanosleep(&nap, NULL); }
        if (!strcmp(what, "children")) children(n);
        if (!strcmp(what, "threads"))
            for (long i = 0; i < n; i++) {
                long result = 0;
                if (pthread_create(&t, NULL, child, &result) || pthread_join(t, NULL) || result <= 0) wrong(24);
            }
        if (!strcmp(what, "break")) {
            setitimer(ITIMER_REAL, &none, NULL);
            struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGVTALRM};
            struct itimerspec often = {{0, 1700000}, {0, 1700000}};
            timer_t timer;
            timer_create(CLOCK_MONOTONIC, &event, &timer);
            timer_settime(timer, 0, &often, NULL);
        }
        if (!strcmp(what, "load")) {
            void *library = dlopen(getenv("LIBRARY"), RTLD_NOW);
            long (*call)(long) = library ? (long (*)(long))dlsym(library, "library_call") : NULL;
            if (!call) wrong(30);
        }
        if (!strcmp(what, "library")) {
            void *library = dlopen(getenv("LIBRARY"), RTLD_NOW);
            long (*call)(long) = (long (*)(long))dlsym(library, "library_call");
            for (long i = 0; i < n; i++) if (call(0) != getppid()) wrong(31);
        }
        if (!strcmp(what, "exec")) { setitimer(ITIMER_REAL, &none, NULL); execv("/proc/self/exe", argv); }
        printf("%ld %ld %ld", bad, where, signals);
        for (int i = 0; i < 10; i++) printf(" %ld", rounds[i]);
        printf("\n");
        fflush(stdout);
    }
}
"""

LIBRARY = r"""
long library_call(long unused) {
    long result;
    __asm__ volatile("mov $110, %%eax\n syscall\n" : "=a"(result) : : "rcx", "r11", "memory");
    return result + unused;
}
"""


def calling_program(folder: Path, name: str, *flags: str) -> Path:
    """Compile it; flags for static or position-independent programs."""
    return build(folder, name, SOURCE, *flags)


def code_of(pid: int) -> dict[tuple[str, int], bytes]:
    """The executable bytes of the process's files."""
    found = {}
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for one in mappings(pid):
            if one.executable and one.inode:
                memory.seek(one.start)
                found[one.path, one.start] = memory.read(one.end - one.start)
    return found


def word(pid: int, address: int) -> int:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return int.from_bytes(memory.read(8), "little")


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def goes_on(target: Running) -> None:
    """Every thread makes progress and none saw a wrong result."""
    begin = target.ask("state 0")
    end = time.monotonic() + 120
    while True:
        now = target.ask("state 0")
        assert now[0] == "0", f"wrong at {now[1]}"
        if all(int(a) < int(b) for a, b in zip(begin[3:], now[3:], strict=True)):
            return
        assert time.monotonic() < end, f"{begin} then {now}"
        time.sleep(0.02)
