/* Stack unwinding from copied registers and stack bytes, with the rows that eh_frame.c makes.
 *
 * Addresses come out innermost first. The first is the sampled instruction pointer; each caller is its return address
 * minus one, so that it falls in the call instruction and never in what follows a call at the end of a function. The
 * exception is a frame that a signal interrupted: its address is exact and given as it is.
 *
 * Nothing outside the given buffers is read, whatever the registers, the stack bytes and the rows hold.
 */
#include "eh_frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum wb_unwind_status {
    WB_UNWIND_COMPLETE,     /* reached the outermost frame */
    WB_UNWIND_TRUNCATED,    /* the next frame lies beyond the copied stack bytes */
    WB_UNWIND_UNSUPPORTED,  /* a rule that the table does not keep */
    WB_UNWIND_NO_TABLE,     /* no call frame information and no valid frame pointer */
    WB_UNWIND_BAD_MEMORY,   /* an address below the stack pointer, or frames that do not advance */
    WB_UNWIND_DEPTH,        /* max_depth addresses were found */
    WB_UNWIND_NO_MAPPING,   /* an address in no known executable mapping */
    WB_UNWIND_WANTS_TABLE,  /* the table of a mapping is not loaded; the mapping is marked WANTED */
};
enum { WB_UNWIND_FRAME_POINTER = 0x10 }; /* added: some step followed the frame pointer for lack of a table row */

enum {
    WB_MAPPING_LAZY = 1,
    WB_MAPPING_WANTED = 2,
    WB_MAPPING_RETURN_PROBES = 4,     /* the kernel's page that probed functions return to */
};

struct wb_unwind_mapping {
    uint64_t start, end;              /* run-time addresses, end exclusive */
    uint64_t bias;                    /* run-time address minus virtual address in the file */
    const struct wb_unwind_row *rows;
    uint64_t count;
    uint32_t flags;
    uint32_t reserved;
};

struct wb_unwind_space {
    struct wb_unwind_mapping *mappings; /* sorted by start, not overlapping */
    uint64_t count;
};

_Static_assert(sizeof(struct wb_unwind_mapping) == 48, "the mapping is also a numpy dtype");
_Static_assert(sizeof(struct wb_unwind_space) == 16, "the space is also a numpy dtype");

enum { CACHE = 4096, CACHE_BITS = 12 };

struct found {
    struct wb_unwind_mapping *mapping;    /* NULL: in no mapping */
    const struct wb_unwind_row *row;      /* NULL: no row */
};

struct cached {
    uint64_t at;
    const struct wb_unwind_space *space;  /* NULL: empty slot */
    struct found found;
};

struct frame {
    uint64_t ip, sp, fp, lr;
    bool exact;                           /* ip is an instruction that ran, not a return address */
};

struct returns {
    const uint64_t *at, *end;             /* what return probes replaced, innermost first; 0 ends it early */
};

struct stack {
    const uint8_t *bytes;
    uint64_t base, length;
    enum wb_unwind_status failed;         /* why the last read failed */
};

static struct found search(const struct wb_unwind_space *space, uint64_t at)
{
    struct found found = {NULL, NULL};
    uint64_t low = 0, high = space->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (space->mappings[middle].start <= at)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || at >= space->mappings[low - 1].end)
        return found;
    found.mapping = &space->mappings[low - 1];
    if (!found.mapping->rows)
        return found;
    uint64_t vaddr = at - found.mapping->bias;
    const struct wb_unwind_row *rows = found.mapping->rows;
    low = 0;
    high = found.mapping->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (rows[middle].start <= vaddr)
            low = middle + 1;
        else
            high = middle;
    }
    if (low && rows[low - 1].cfa_kind != WB_CFA_NONE)
        found.row = &rows[low - 1];
    return found;
}

static struct found lookup(struct cached *cache, const struct wb_unwind_space *space, uint64_t at)
{
    uint64_t hash = (at ^ (uintptr_t)space) * UINT64_C(0x9e3779b97f4a7c15);
    struct cached *slot = &cache[hash >> (64 - CACHE_BITS)];
    if (slot->space != space || slot->at != at)
        *slot = (struct cached){at, space, search(space, at)};
    return slot->found;
}

static bool read_word(struct stack *stack, uint64_t address, uint64_t *value)
{
    uint64_t offset = address - stack->base;
    if (address < stack->base) {
        stack->failed = WB_UNWIND_BAD_MEMORY;
        return false;
    }
    if (stack->length < 8 || offset > stack->length - 8) {
        stack->failed = WB_UNWIND_TRUNCATED;
        return false;
    }
    memcpy(value, stack->bytes + offset, 8);
    return true;
}

static uint64_t plus(uint64_t value, int32_t offset)
{
    return value + (uint64_t)(int64_t)offset;
}

static bool recover(struct stack *stack, const struct frame *frame, uint64_t cfa, uint8_t rule, int32_t offset,
                    uint64_t *value)
{
    switch (rule) {
    case WB_RULE_AT_CFA: return read_word(stack, plus(cfa, offset), value);
    case WB_RULE_AT_SP: return read_word(stack, plus(frame->sp, offset), value);
    case WB_RULE_AT_FP: return read_word(stack, plus(frame->fp, offset), value);
    case WB_RULE_CFA: *value = plus(cfa, offset); return true;
    default: stack->failed = WB_UNWIND_UNSUPPORTED; return false;
    }
}

/* The caller by a row of the table. Returns WB_UNWIND_DEPTH when there is one, else the reason to stop. */
static enum wb_unwind_status step(const struct wb_unwind_row *row, struct stack *stack, struct frame *frame,
                                  bool arm)
{
    uint64_t cfa = 0, ra, fp = frame->fp;
    bool signal = row->flags & WB_ROW_SIGNAL;
    if (row->ra_rule == WB_RULE_UNDEFINED)
        return WB_UNWIND_COMPLETE;
    switch (row->cfa_kind) {
    case WB_CFA_SP: cfa = plus(frame->sp, row->cfa_offset); break;
    case WB_CFA_FP: cfa = plus(frame->fp, row->cfa_offset); break;
    case WB_CFA_SP_DEREF: if (!read_word(stack, plus(frame->sp, row->cfa_offset), &cfa)) return stack->failed; break;
    case WB_CFA_FP_DEREF: if (!read_word(stack, plus(frame->fp, row->cfa_offset), &cfa)) return stack->failed; break;
    case WB_CFA_PLT: cfa = frame->sp + 8 + ((frame->ip & 15) >= (uint32_t)row->cfa_offset ? 8 : 0); break;
    default: return WB_UNWIND_UNSUPPORTED;
    }
    /* A handler may run on an alternate stack above or below the interrupted one; all other callers lie above. */
    if (!signal && (cfa < frame->sp || (cfa == frame->sp && !(arm && frame->exact))))
        return WB_UNWIND_BAD_MEMORY;
    if (row->ra_rule == WB_RULE_SAME && arm && frame->lr)
        ra = frame->lr;
    else if (!recover(stack, frame, cfa, row->ra_rule, row->ra_offset, &ra))
        return stack->failed;
    if (row->fp_rule == WB_RULE_UNDEFINED)
        fp = 0;
    else if (row->fp_rule == WB_RULE_AT_CFA && frame->exact && plus(cfa, row->fp_offset) < frame->sp)
        fp = frame->fp; /* an epilogue has popped it already; compilers do not say so */
    else if (row->fp_rule != WB_RULE_SAME && !recover(stack, frame, cfa, row->fp_rule, row->fp_offset, &fp))
        return stack->failed;
    if (arm)
        ra &= UINT64_C(0x0000ffffffffffff); /* the signature of a signed return address */
    uint64_t lr = 0;
    if (arm && signal && !read_word(stack, plus(frame->sp, row->ra_offset) - 16, &lr))
        lr = 0; /* the interrupted function may not have saved it: it is two registers before pc in the context */
    *frame = (struct frame){.ip = ra, .sp = cfa, .fp = fp, .lr = lr, .exact = signal};
    return ra ? WB_UNWIND_DEPTH : WB_UNWIND_COMPLETE;
}

/* The caller by the frame pointer: {caller's fp, return address} at fp, on both machines. The caller need not keep frame
 * pointers itself, so its fp may be anything; the return address is checked by where it leads. */
static enum wb_unwind_status step_by_frame_pointer(struct stack *stack, struct frame *frame, bool arm)
{
    uint64_t fp, ra;
    if (frame->fp < frame->sp || (frame->fp & 7) || !read_word(stack, frame->fp, &fp) ||
        !read_word(stack, frame->fp + 8, &ra))
        return WB_UNWIND_NO_TABLE;
    if (arm)
        ra &= UINT64_C(0x0000ffffffffffff);
    if (!ra) /* the outermost frame holds two zeros; so does unused memory, if this is the first guess */
        return fp || frame->exact ? WB_UNWIND_NO_TABLE : WB_UNWIND_COMPLETE;
    *frame = (struct frame){.ip = ra, .sp = frame->fp + 16, .fp = fp};
    return WB_UNWIND_DEPTH;
}

/* The kernel replaces the return address of a function with a return probe by that of its trampoline; put the original
 * back. The trampoline is at the very start of its mapping, so the address before it says nothing. */
static struct found lookup_caller(struct cached *cache, const struct wb_unwind_space *space, struct frame *frame,
                                  struct returns *returns)
{
    for (;;) {
        struct found found = lookup(cache, space, frame->ip - 1);
        if (found.mapping && !(found.mapping->flags & WB_MAPPING_RETURN_PROBES))
            return found;
        struct found probe = lookup(cache, space, frame->ip);
        if (!probe.mapping || !(probe.mapping->flags & WB_MAPPING_RETURN_PROBES))
            return found;
        if (returns->at == returns->end || !*returns->at)
            return probe;
        frame->ip = *returns->at++;
    }
}

static uint8_t unwind(struct cached *cache, const struct wb_unwind_space *space, struct frame frame, struct stack *stack,
                      struct returns returns, bool arm, int32_t max_depth, uint64_t *out, int32_t *length)
{
    bool by_frame_pointer = false, ever = false;
    enum wb_unwind_status status = WB_UNWIND_DEPTH;
    int32_t depth = 0;
    if (!frame.ip && !frame.sp)
        status = WB_UNWIND_COMPLETE; /* a kernel thread: no user registers */
    while (depth < max_depth && status == WB_UNWIND_DEPTH) {
        struct found found =
            frame.exact ? lookup(cache, space, frame.ip) : lookup_caller(cache, space, &frame, &returns);
        uint64_t at = frame.exact ? frame.ip : frame.ip - 1;
        if (!found.mapping && by_frame_pointer) {
            status = WB_UNWIND_NO_MAPPING; /* the frame pointer was none: do not report where it led */
            break;
        }
        if (!frame.exact && found.mapping && (found.mapping->flags & WB_MAPPING_RETURN_PROBES)) {
            status = WB_UNWIND_UNSUPPORTED; /* who called it is not known; the trampoline did not */
            break;
        }
        out[depth++] = at;
        by_frame_pointer = !found.row;
        if (found.row) {
            status = step(found.row, stack, &frame, arm);
        } else if (found.mapping && !found.mapping->rows && (found.mapping->flags & WB_MAPPING_LAZY)) {
            found.mapping->flags |= WB_MAPPING_WANTED;
            status = WB_UNWIND_WANTS_TABLE;
        } else {
            status = step_by_frame_pointer(stack, &frame, arm);
            if (status == WB_UNWIND_NO_TABLE && !found.mapping)
                status = WB_UNWIND_NO_MAPPING;
            ever |= status == WB_UNWIND_DEPTH || status == WB_UNWIND_COMPLETE;
        }
    }
    *length = depth;
    return (uint8_t)(status | (ever ? WB_UNWIND_FRAME_POINTER : 0));
}

/* Unwind n samples.
 *
 * registers: n rows of `columns` words: ip, sp, fp and, with 4 columns, the link register of aarch64.
 * Sample i belongs to spaces[space_of[i]]; its stack bytes, from sp upward, are stacks[offsets[i]] to
 * stacks[offsets[i] + lengths[i] - 1]. Addresses are written end to end, at most max_depth per sample, so `addresses`
 * has room for n * max_depth. `returns` (may be NULL): n rows of `return_columns` words, the original return addresses
 * that return probes replaced in the stack, innermost first, ended by 0. Returns the number of addresses, -1 when memory is short, -2 for arguments that
 * contradict each other (nothing is written then).
 */
WB_EXPORT int64_t wb_unwind_batch(const struct wb_unwind_space *spaces, int64_t space_count, int64_t n,
                                  const int32_t *space_of, const uint64_t *registers, int64_t columns,
                                  const uint8_t *stacks, uint64_t stacks_length, const int64_t *offsets,
                                  const int32_t *lengths, const uint64_t *returns, int64_t return_columns,
                                  uint32_t machine, int32_t max_depth, uint64_t *addresses, int32_t *out_lengths,
                                  uint8_t *status)
{
    bool arm = machine == WB_MACHINE_AARCH64;
    uint64_t used = 0;
    if (n < 0 || columns < 3 || max_depth < 1 || return_columns < 0)
        return -2;
    for (int64_t i = 0; i < n; i++)
        if (space_of[i] < 0 || space_of[i] >= space_count || offsets[i] < 0 || lengths[i] < 0 ||
            (uint64_t)offsets[i] > stacks_length || (uint64_t)lengths[i] > stacks_length - (uint64_t)offsets[i])
            return -2;
    struct cached *cache = calloc(CACHE, sizeof *cache);
    if (!cache)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t *r = registers + i * columns;
        struct frame frame = {.ip = r[0], .sp = r[1], .fp = r[2], .lr = columns > 3 ? r[3] : 0, .exact = true};
        struct stack stack = {.bytes = stacks + offsets[i], .base = r[1], .length = (uint64_t)lengths[i]};
        if (stack.base > UINT64_MAX - stack.length)
            stack.length = 0;
        struct returns replaced = {NULL, NULL};
        if (returns)
            replaced = (struct returns){returns + i * return_columns, returns + (i + 1) * return_columns};
        status[i] = unwind(cache, &spaces[space_of[i]], frame, &stack, replaced, arm, max_depth, addresses + used,
                           &out_lengths[i]);
        used += (uint64_t)out_lengths[i];
    }
    free(cache);
    return (int64_t)used;
}
