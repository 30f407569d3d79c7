/* Unwind rows: the call frame information of an ELF file, flattened into a sorted table.
 *
 * A row holds from `start` to the start of the next row. It says where the canonical frame address (CFA, the stack
 * pointer of the caller) is, and from where the caller's frame pointer and the return address are recovered. Only the
 * registers that take part in finding further frames are kept.
 */
#ifndef WORKBENCH_EH_FRAME_H
#define WORKBENCH_EH_FRAME_H

#include "core.h"

enum { WB_MACHINE_X86_64 = 62, WB_MACHINE_AARCH64 = 183 }; /* e_machine of ELF */

enum wb_cfa_kind {
    WB_CFA_NONE,          /* no call frame information here */
    WB_CFA_UNSUPPORTED,   /* there is some, but by a register or expression that is not kept */
    WB_CFA_SP,            /* sp + cfa_offset */
    WB_CFA_FP,            /* fp + cfa_offset */
    WB_CFA_SP_DEREF,      /* 8 bytes at sp + cfa_offset */
    WB_CFA_FP_DEREF,      /* 8 bytes at fp + cfa_offset */
    WB_CFA_PLT,           /* x86-64: sp + 8 + 8 * ((ip & 15) >= cfa_offset) */
};

enum wb_rule_kind {
    WB_RULE_SAME,         /* value unchanged; as return address rule: still in the link register */
    WB_RULE_UNDEFINED,    /* not recoverable; as return address rule: outermost frame */
    WB_RULE_UNSUPPORTED,
    WB_RULE_AT_CFA,       /* 8 bytes at CFA + offset */
    WB_RULE_AT_SP,        /* 8 bytes at sp + offset (signal frames) */
    WB_RULE_AT_FP,        /* 8 bytes at fp + offset (realigned stacks) */
    WB_RULE_CFA,          /* the value CFA + offset itself */
};

enum { WB_ROW_SIGNAL = 1 }; /* the caller was interrupted: its address is exact, not a return address */

struct wb_unwind_row {
    uint64_t start;       /* virtual address as in the ELF file */
    int32_t cfa_offset;
    int32_t fp_offset;
    int32_t ra_offset;
    uint8_t cfa_kind;
    uint8_t fp_rule;
    uint8_t ra_rule;
    uint8_t flags;
};

struct wb_eh_stats {
    uint64_t fdes;        /* functions read */
    uint64_t malformed;   /* records that were skipped or ended the walk */
    uint64_t unsupported; /* rows with a CFA or return address rule that the unwinder cannot follow */
};

/* Read `length` bytes of .eh_frame that lie at virtual address `vaddr`; stop after `max_fdes` functions (0: no limit).
 * `*rows` becomes a sorted array to be released by wb_eh_frame_free. Returns the number of rows, -1 when memory is
 * short, -2 for a machine other than x86-64 and aarch64. Damaged records are skipped and counted, never trusted. */
WB_EXPORT int64_t wb_eh_frame_build(const uint8_t *data, uint64_t length, uint64_t vaddr, uint32_t machine,
                                    uint64_t max_fdes, struct wb_unwind_row **rows, struct wb_eh_stats *stats);
WB_EXPORT void wb_eh_frame_free(struct wb_unwind_row *rows);

#endif
