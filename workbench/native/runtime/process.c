/* What a process is asked once: vDSO, tick rate, namespace; and the handlers of faults (process.h). */
#include "process.h"

#include "safe_read.h"
#include "system.h"
#include "types.h"

#define AUXV_VDSO 33
#define AUXV_MAX 512
#define SIGNAL_SEGV 11
#define SIGNAL_BUS 7
#define SA_SIGINFO_FLAG 4
#define SA_ONSTACK_FLAG 0x08000000u
#define SA_NODEFER_FLAG 0x40000000u
#define SA_RESETHAND_FLAG 0x80000000u
#define SA_RESTORER_FLAG 0x04000000u
#define CLOCK_MONOTONIC_COARSE_ID 6
#define AT_CURRENT_FOLDER (-100)

struct wb_process wb_process;

/* --- the vDSO: an ELF file in memory, given by the kernel -------------------------------------------------------------- */

struct elf_header {
    uint8_t ident[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, segments, sections;
    uint32_t flags;
    uint16_t size, segment_size, segment_count, section_size, section_count, strings;
};
struct elf_segment {
    uint32_t type, flags;
    uint64_t offset, address, physical, file_size, memory_size, align;
};
struct elf_dynamic {
    uint64_t tag, value;
};
struct elf_symbol {
    uint32_t name;
    uint8_t info, other;
    uint16_t section;
    uint64_t value, size;
};

static bool same_text(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static uint64_t gnu_symbols(const uint32_t *table) {
    uint32_t buckets = table[0], first = table[1], filters = table[2], last = 0;
    const uint32_t *bucket = table + 4 + (uint64_t)filters * 2, *chain = bucket + buckets;
    for (uint32_t i = 0; i < buckets; i++)
        last = bucket[i] > last ? bucket[i] : last;
    if (last < first)
        return first;
    while (!(chain[last - first] & 1))
        last++;
    return (uint64_t)last + 1;
}

static void *vdso_symbol(const uint8_t *base, const char *wanted, const char *other) {
    const struct elf_header *header = (const void *)base;
    const struct elf_segment *segments = (const void *)(base + header->segments);
    const struct elf_dynamic *dynamic = 0;
    uint64_t load = (uint64_t)base;
    for (uint32_t i = 0; i < header->segment_count; i++) {
        if (segments[i].type == 1)
            load = (uint64_t)base + segments[i].offset - segments[i].address;
        if (segments[i].type == 2)
            dynamic = (const void *)(base + segments[i].offset);
    }
    const struct elf_symbol *symbols = 0;
    const char *names = 0;
    uint64_t count = 0;
    for (; dynamic && dynamic->tag; dynamic++) {
        const void *at = (const void *)(load + dynamic->value);
        if (dynamic->tag == 4) /* DT_HASH */
            count = ((const uint32_t *)at)[1];
        if (dynamic->tag == 5)
            names = at;
        if (dynamic->tag == 6)
            symbols = at;
        if (dynamic->tag == 0x6ffffef5 && !count) /* DT_GNU_HASH */
            count = gnu_symbols(at);
    }
    if (!symbols || !names)
        return 0;
    for (uint64_t i = 0; i < count; i++)
        if (symbols[i].section && (same_text(names + symbols[i].name, wanted) ||
                                   same_text(names + symbols[i].name, other)))
            return (void *)(load + symbols[i].value);
    return 0;
}

static int64_t read_file(const char *path, void *to, uint64_t size) {
    int64_t file = wb_system_call(SYS_openat, AT_CURRENT_FOLDER, (int64_t)path, 02000000, 0, 0, 0);
    if (file < 0)
        return file;
    uint64_t got = 0;
    int64_t now = 0;
    while (got < size) {
        now = wb_system_call(SYS_read, file, (int64_t)to + (int64_t)got, (int64_t)(size - got), 0, 0, 0);
        if (now <= 0)
            break;
        got += (uint64_t)now;
    }
    wb_system_call(SYS_close, file, 0, 0, 0, 0, 0);
    return now < 0 ? now : (int64_t)got;
}

static void find_vdso(void) {
    uint64_t words[AUXV_MAX];
    int64_t size = read_file("/proc/self/auxv", words, sizeof words);
    for (int64_t i = 0; i + 16 <= size; i += 16)
        if (words[i / 8] == AUXV_VDSO && words[i / 8 + 1]) {
            const uint8_t *base = (const uint8_t *)words[i / 8 + 1];
            wb_process.clock_gettime =
                vdso_symbol(base, "__vdso_clock_gettime", "__kernel_clock_gettime");
            wb_process.getcpu = vdso_symbol(base, "__vdso_getcpu", "__kernel_getcpu");
        }
}

/* --- other facts ----------------------------------------------------------------------------------------------------------- */

static void find_ticks(void) {
    int64_t time[2] = {0, 0};
    if (!wb_system_call(SYS_clock_getres, CLOCK_MONOTONIC_COARSE_ID, (int64_t)time, 0, 0, 0, 0) &&
        time[1] > 0)
        wb_process.tick_rate = (1000000000u + (uint64_t)time[1] / 2) / (uint64_t)time[1];
}

static void find_stack(void) {
    char text[1024];
    int64_t size = read_file("/proc/self/stat", text, sizeof text - 1);
    int64_t at = size;
    while (at > 0 && text[at - 1] != ')')
        at--;
    /* Field 28; the one after the name in brackets is field 3. */
    uint64_t value = 0;
    for (int field = 3; at > 0 && at < size; at++) {
        if (text[at] == ' ')
            field++, value = 0;
        else if (field == 29 && text[at] >= '0' && text[at] <= '9')
            value = value * 10 + (uint64_t)(text[at] - '0');
        if (field == 29 && (at + 1 >= size || text[at + 1] == ' '))
            break;
    }
    wb_process.start_stack = value;
}

static void find_namespace(void) {
    struct {
        uint64_t device, inode;
        uint8_t rest[256];
    } status = {0, 0, {0}};
    if (!wb_system_call(
            SYS_newfstatat, AT_CURRENT_FOLDER, (int64_t)"/proc/self/ns/pid", (int64_t)&status, 0, 0, 0)) {
        wb_process.pid_ns[0] = status.device;
        wb_process.pid_ns[1] = status.inode;
    }
}

static void find_processor(void) {
#if defined(__x86_64__)
    uint32_t a = 0, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (a < 7)
        return;
    a = 7, c = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    wb_process.has_rdpid = c >> 22 & 1;
#endif
}

/* Emulators of Linux look at the operation before the mask, filters refuse calls: tried on a page that cannot be read. */
static void find_probe(void) {
    uint64_t good __attribute__((aligned(8))) = 0;
    int64_t page = wb_system_call(SYS_mmap, 0, 4096, 0, 0x22, -1, 0);
    if (page < 0 && page > -4096)
        return;
    for (uint32_t how = WB_PROBE_MASK; how <= WB_PROBE_READ && !wb_process.probe; how++)
        if (!wb_probe(how, (uint64_t)page) && wb_probe(how, (uint64_t)&good))
            wb_process.probe = how;
    wb_system_call(SYS_munmap, page, 4096, 0, 0, 0, 0);
}

/* --- faults ------------------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
__asm__(".text\n"
        ".type wb_restorer, @function\n"
        ".hidden wb_restorer\n"
        ".globl wb_restorer\n"
        "wb_restorer:\n"
        "  movl $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        ".size wb_restorer, . - wb_restorer\n");
extern char wb_restorer[] __attribute__((visibility("hidden")));
#endif

static int64_t signal_action(int signal, const struct wb_kernel_sigaction *new, struct wb_kernel_sigaction *old) {
#if defined(__x86_64__)
    return wb_system_call(SYS_rt_sigaction, signal, (int64_t)new, (int64_t)old, 8, 0, 0);
#else
    /* Without SA_RESTORER the structure has no restorer. */
    struct {
        void *handler;
        uint64_t flags, mask;
    } in = {0, 0, 0}, out = {0, 0, 0};
    if (new)
        in.handler = new->handler, in.flags = new->flags, in.mask = new->mask;
    int64_t error = wb_system_call(
        SYS_rt_sigaction, signal, new ? (int64_t)&in : 0, old ? (int64_t)&out : 0, 8, 0, 0);
    if (!error && old)
        old->handler = out.handler, old->flags = out.flags, old->mask = out.mask;
    return error;
#endif
}

static const int fault_signals[2] = {SIGNAL_SEGV, SIGNAL_BUS};

/* Runs what the application had installed. The default action and SA_RESETHAND are done by putting the action back: the
 * instruction then faults again and dies, or is handled, as if we had not been there. A signal that somebody sent does
 * not come again by itself. */
static void chain(int signal, void *info, void *context) {
    const struct wb_kernel_sigaction *old = &wb_process.previous[signal == SIGNAL_BUS];
    bool sent = ((const int32_t *)info)[2] <= 0; /* si_code */
    if ((uint64_t)old->handler == 1 && sent)
        return;
    if ((uint64_t)old->handler <= 1 || old->flags & SA_RESETHAND_FLAG) {
        signal_action(signal, old, 0);
        if (sent)
            wb_system_call(SYS_tgkill,
                           wb_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0),
                           wb_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0),
                           signal, 0, 0, 0);
        return;
    }
    if (old->flags & SA_SIGINFO_FLAG)
        ((void (*)(int, void *, void *))old->handler)(signal, info, context);
    else
        ((void (*)(int))old->handler)(signal);
}

static void on_fault(int signal, void *info, void *context) {
    if (((const int32_t *)info)[2] > 0 && wb_safe_recover(context)) {
        __atomic_fetch_add(&wb_process.faults, 1, __ATOMIC_RELAXED);
        return;
    }
    chain(signal, info, context);
}

static int64_t install(void) {
    if (wb_process.handlers)
        return 0;
    for (int i = 0; i < 2; i++) {
        struct wb_kernel_sigaction new = {(void *)on_fault, SA_SIGINFO_FLAG | SA_ONSTACK_FLAG | SA_NODEFER_FLAG, 0, 0};
        struct wb_kernel_sigaction old = {0, 0, 0, 0};
#if defined(__x86_64__)
        new.flags |= SA_RESTORER_FLAG;
        new.restorer = wb_restorer;
#endif
        int64_t error = signal_action(fault_signals[i], 0, &old);
        if (error)
            return error;
        /* Known before ours runs; an application's SA_ONSTACK and SA_NODEFER stay as they were. */
        if (old.handler != (void *)on_fault)
            wb_process.previous[i] = old;
        if ((uint64_t)old.handler > 1)
            new.mask = old.mask, new.flags &= (old.flags & SA_NODEFER_FLAG) | ~(uint64_t)SA_NODEFER_FLAG;
        error = signal_action(fault_signals[i], &new, 0);
        if (error)
            return error;
    }
    WB_STORE(&wb_process.handlers, 1);
    return 0;
}

WB_EXPORT int64_t wb_process_stop(void) {
    if (!wb_process.handlers)
        return 1;
    int64_t mine = 1;
    for (int i = 0; i < 2; i++) {
        struct wb_kernel_sigaction now = {0, 0, 0, 0};
        if (signal_action(fault_signals[i], 0, &now) || now.handler != (void *)on_fault)
            mine = 0;
        else
            signal_action(fault_signals[i], &wb_process.previous[i], 0);
    }
    WB_STORE(&wb_process.handlers, 0);
    return mine;
}

WB_EXPORT uint32_t wb_process_armed(void) {
    if (!WB_LOAD(&wb_process.handlers))
        return 0;
    uint64_t blocked = ~0ull, faults = 1ull << (SIGNAL_SEGV - 1) | 1ull << (SIGNAL_BUS - 1);
    if (wb_system_call(SYS_rt_sigprocmask, 0, 0, (int64_t)&blocked, 8, 0, 0) || blocked & faults)
        return 0;
    for (int i = 0; i < 2; i++) {
        struct wb_kernel_sigaction now = {0, 0, 0, 0};
        if (signal_action(fault_signals[i], 0, &now) || now.handler != (void *)on_fault)
            return 0;
    }
    return 1;
}

WB_EXPORT int64_t wb_process_start(uint32_t with_handlers) {
    uint32_t none = 0;
    if (__atomic_compare_exchange_n(
            &wb_process.started, &none, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        find_vdso();
        find_ticks();
        find_stack();
        find_namespace();
        find_processor();
        find_probe();
        WB_STORE(&wb_process.started, 2);
    }
    /* Another thread is at it; or this one was, and a signal handler is here: then it has to do without. */
    for (int i = 0; i < 1000 && WB_LOAD(&wb_process.started) != 2; i++)
        wb_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    return with_handlers ? install() : 0;
}

/* --- clocks ------------------------------------------------------------------------------------------------------------------ */

WB_EXPORT uint64_t wb_clock(int32_t clock) {
    wb_process_ready();
    int64_t time[2] = {0, 0};
    int64_t (*fast)(int64_t, int64_t[2]) = wb_process.clock_gettime;
    if (!fast || fast(clock, time))
        wb_system_call(SYS_clock_gettime, clock, (int64_t)time, 0, 0, 0, 0);
    return (uint64_t)time[0] * 1000000000u + (uint64_t)time[1];
}

uint32_t wb_current_cpu(uint32_t *node) {
    wb_process_ready();
    uint32_t cpu = 0, at = 0;
#if defined(__x86_64__)
    /* The kernel keeps node << 12 | cpu in MSR_TSC_AUX and in a segment limit (arch/x86/include/asm/segment.h). */
    uint64_t both = 0;
    if (wb_process.has_rdpid)
        __asm__ volatile(".byte 0xf3, 0x0f, 0xc7, 0xf8" : "=a"(both)); /* rdpid %rax */
    else
        __asm__ volatile("lsl %1, %k0" : "=r"(both) : "r"((uint32_t)(15 * 8 + 3)));
    cpu = both & 0xfff;
    at = (uint32_t)both >> 12;
#else
    if (!wb_process.getcpu || wb_process.getcpu(&cpu, &at, 0))
        wb_system_call(SYS_getcpu, (int64_t)&cpu, (int64_t)&at, 0, 0, 0, 0);
#endif
    if (node)
        *node = at;
    return cpu;
}
