/* Reads of memory that is not there, in a plain C process of any processor: exits with the line that failed. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/process.h"
#include "runtime/types.h"

#define CHECK(condition)                                                                                               \
    do                                                                                                                 \
        if (!(condition))                                                                                              \
            _exit(__LINE__ % 250 + 1);                                                                                 \
    while (0)

static struct wb_run run;
static long page;

static char *pages(int count) {
    char *place = mmap(0, (size_t)(count * page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    memset(place, 'a', (size_t)(count * page));
    return place;
}

static void refused_everywhere(void) {
    char to[64];
    const uint64_t bad[] = {0, 8, 4096, 1ull << 55, 1ull << 63, ~0ull, ~4095ull};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        run.checked = 0;
        CHECK(wb_safe_copy(&run, to, (void *)bad[i], 8) == -WB_EFAULT);
        CHECK(wb_safe_string(&run, to, (void *)bad[i], 64) == -WB_EFAULT);
    }
}

int main(void) {
    char to[8192];
    page = sysconf(_SC_PAGESIZE);
    run.scratch = calloc(1, WB_SCRATCH);
    refused_everywhere();
    CHECK(wb_process_start(1) == 0);
    CHECK(wb_process_armed());
    refused_everywhere();
    for (int i = 0; i < 20; i++) {
        char *place = pages(3);
        run.checked = 0;
        CHECK(wb_safe_copy(&run, to, place + page - 100, 300) == 0 && to[299] == 'a');
        CHECK(mprotect(place + page, (size_t)page, PROT_NONE) == 0);
        CHECK(wb_safe_copy(&run, to, place + page - 100, 300) == -WB_EFAULT); /* believed, faults, caught */
        CHECK(wb_safe_copy(&run, to, place + page - 20, 33) == -WB_EFAULT);
        CHECK(wb_safe_copy(&run, to, place + page - 20, 20) == 0);
        memcpy(place + page - 6, "hello", 6);
        CHECK(wb_safe_string(&run, to, place + page - 6, 64) == 6 && !strcmp(to, "hello"));
        munmap(place, (size_t)(3 * page));
    }
    CHECK(wb_process.faults >= 20);
    sigset_t faults;
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    sigprocmask(SIG_BLOCK, &faults, 0);
    CHECK(!wb_process_armed());
    refused_everywhere();
    sigprocmask(SIG_UNBLOCK, &faults, 0);
    signal(SIGSEGV, SIG_DFL);
    CHECK(!wb_process_armed());
    refused_everywhere();
    CHECK(!wb_process_stop());
    return 0;
}
