/* .eh_frame to unwind rows. Format: LSB Core 5.0 section 10.6 and DWARF 5 section 6.4. The input is hostile: every
 * read goes through a bounded cursor, the work per record and the memory are bounded by the size of the input. */
#include "cursor.h"
#include "eh_frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct wb_unwind_row) == 24, "the row is also a numpy dtype");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tables are read and written little-endian");

enum {
    REMEMBER_DEPTH = 16,      /* compilers nest once or twice */
    MAX_CIE_BYTES = 512,      /* bounds the cost of functions that share one entry; real ones have about 20 */
    CIE_CACHE = 64,
    PADDING = 16,             /* a gap between functions up to this is alignment, not missing information */
};

struct rule {
    uint8_t kind;
    int64_t offset;
};

struct state {
    uint8_t cfa_kind;         /* WB_CFA_SP: register + offset, whichever register it is */
    uint64_t cfa_register;
    int64_t cfa_offset;
    struct rule fp, ra;
};

struct machine {
    uint64_t sp, fp;
    bool x86;
};

struct cie {
    uint64_t at;              /* offset of the record + 1; 0 is an empty cache slot */
    bool ok, signal, augmented;
    uint8_t encoding;
    uint64_t code_align, ra;
    int64_t data_align;
    struct state initial;
};

struct fde {
    uint64_t start, end, first, count;
};

struct builder {
    struct machine machine;
    struct wb_unwind_row *rows;
    uint64_t rows_used, rows_room;
    struct fde *fdes;
    uint64_t fdes_used, fdes_room;
    struct wb_eh_stats stats;
    bool no_memory;
    struct cie cies[CIE_CACHE];
};

static bool reserve(void **array, uint64_t used, uint64_t *room, size_t size)
{
    if (used < *room)
        return true;
    uint64_t larger = *room ? *room * 2 : 1024;
    if (larger > SIZE_MAX / size)
        return false;
    void *grown = realloc(*array, (size_t)larger * size);
    if (!grown)
        return false;
    *array = grown;
    *room = larger;
    return true;
}

static bool fits(int64_t value)
{
    return value >= INT32_MIN && value <= INT32_MAX;
}

static struct wb_unwind_row row_of(const struct builder *b, const struct state *s, uint64_t start, bool signal)
{
    struct wb_unwind_row row = {.start = start, .cfa_kind = s->cfa_kind, .fp_rule = s->fp.kind, .ra_rule = s->ra.kind,
                                .flags = signal ? WB_ROW_SIGNAL : 0};
    bool ok = fits(s->cfa_offset) && fits(s->fp.offset) && fits(s->ra.offset);
    if (s->cfa_kind == WB_CFA_SP || s->cfa_kind == WB_CFA_SP_DEREF) {
        if (s->cfa_register == b->machine.fp)
            row.cfa_kind = s->cfa_kind == WB_CFA_SP ? WB_CFA_FP : WB_CFA_FP_DEREF;
        else if (s->cfa_register != b->machine.sp)
            ok = false;
    }
    if (s->ra.kind == WB_RULE_UNDEFINED) {
        /* the outermost frame: whatever else is declared is not needed and merges with its neighbours */
        return (struct wb_unwind_row){.start = start, .cfa_kind = WB_CFA_SP, .fp_rule = WB_RULE_SAME,
                                      .ra_rule = WB_RULE_UNDEFINED};
    }
    if (!ok || row.cfa_kind == WB_CFA_UNSUPPORTED)
        return (struct wb_unwind_row){.start = start, .cfa_kind = WB_CFA_UNSUPPORTED, .flags = row.flags};
    row.cfa_offset = (int32_t)s->cfa_offset;
    row.fp_offset = (int32_t)s->fp.offset;
    row.ra_offset = (int32_t)s->ra.offset;
    return row;
}

static bool same_rules(const struct wb_unwind_row *a, const struct wb_unwind_row *b)
{
    return a->cfa_offset == b->cfa_offset && a->fp_offset == b->fp_offset && a->ra_offset == b->ra_offset &&
           a->cfa_kind == b->cfa_kind && a->fp_rule == b->fp_rule && a->ra_rule == b->ra_rule && a->flags == b->flags;
}

static void emit(struct builder *b, struct fde *f, const struct state *s, uint64_t start, bool signal)
{
    struct wb_unwind_row row = row_of(b, s, start, signal);
    if (f->count && same_rules(&row, &b->rows[b->rows_used - 1]))
        return;
    if (!reserve((void **)&b->rows, b->rows_used, &b->rows_room, sizeof row)) {
        b->no_memory = true;
        return;
    }
    b->stats.unsupported += row.cfa_kind == WB_CFA_UNSUPPORTED || row.ra_rule == WB_RULE_UNSUPPORTED;
    b->rows[b->rows_used++] = row;
    f->count++;
}

/* A DWARF expression that is a register plus an offset: DW_OP_bregN offset, optionally DW_OP_deref. */
static bool register_offset(struct cursor *e, bool *deref, uint64_t *reg, int64_t *offset)
{
    uint8_t op = (uint8_t)fixed(e, 1);
    if (op < 0x70 || op > 0x8f)
        return false;
    *reg = op - 0x70u;
    *offset = (int64_t)leb(e, true);
    *deref = !e->bad && e->pos < e->end;
    return !e->bad && (!*deref || (fixed(e, 1) == 0x06 && e->pos == e->end));
}

static void cfa_expression(const struct builder *b, struct cursor *c, struct state *s)
{
    /* The procedure linkage table of x86-64: rsp + 8 + ((rip & 15) >= N) * 8, with N as DW_OP_litN at index 6. */
    static const uint8_t plt[] = {0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22};
    uint64_t length = leb(c, false);
    struct cursor e = *c;
    bool deref;
    skip(c, length);
    s->cfa_kind = WB_CFA_UNSUPPORTED;
    if (c->bad)
        return;
    e.end = c->pos;
    const uint8_t *code = e.data + e.pos;
    if (b->machine.x86 && length == sizeof plt && !memcmp(code, plt, 6) && !memcmp(code + 7, plt + 7, 4) &&
        code[6] >= 0x30 && code[6] <= 0x3f) {
        s->cfa_kind = WB_CFA_PLT;
        s->cfa_offset = code[6] - 0x30;
    } else if (register_offset(&e, &deref, &s->cfa_register, &s->cfa_offset)) {
        s->cfa_kind = deref ? WB_CFA_SP_DEREF : WB_CFA_SP;
    }
}

static struct rule rule_expression(const struct builder *b, struct cursor *c, bool is_value)
{
    uint64_t length = leb(c, false), reg = 0;
    struct rule rule = {.kind = WB_RULE_UNSUPPORTED};
    struct cursor e = *c;
    bool deref;
    skip(c, length);
    if (c->bad)
        return rule;
    e.end = c->pos;
    /* as an address, "reg + offset" says where the register was saved; as a value it needs the dereference */
    if (register_offset(&e, &deref, &reg, &rule.offset) && deref == is_value) {
        if (reg == b->machine.sp)
            rule.kind = WB_RULE_AT_SP;
        else if (reg == b->machine.fp)
            rule.kind = WB_RULE_AT_FP;
    }
    if (rule.kind == WB_RULE_UNSUPPORTED)
        rule.offset = 0;
    return rule;
}

static void set_rule(const struct builder *b, const struct cie *cie, struct state *s, uint64_t reg, struct rule rule)
{
    if (reg == b->machine.fp)
        s->fp = rule;
    if (reg == cie->ra)
        s->ra = rule;
}

static int64_t scaled(uint64_t factor, int64_t align)
{
    return (int64_t)(factor * (uint64_t)align);
}

/* Run call frame instructions from `c` on `s`. With `f`, rows of that function are emitted; without, it is the common
 * part of a CIE. Returns false when an instruction is not understood: what follows it would be wrong. */
static bool run(struct builder *b, const struct cie *cie, struct cursor *c, struct state *s, struct fde *f)
{
    struct state remembered[REMEMBER_DEPTH];
    unsigned depth = 0;
    uint64_t at = f ? f->start : 0, reg, next;
    while (!c->bad && c->pos < c->end && !b->no_memory) {
        uint8_t op = (uint8_t)fixed(c, 1), low = op & 0x3f;
        next = at;
        switch (op >> 6) {
        case 1: next = at + low * cie->code_align; break;                                 /* advance_loc */
        case 2: set_rule(b, cie, s, low,                                                  /* offset */
                         (struct rule){WB_RULE_AT_CFA, scaled(leb(c, false), cie->data_align)}); continue;
        case 3: set_rule(b, cie, s, low, low == b->machine.fp ? cie->initial.fp : cie->initial.ra); continue;
        default:
            switch (op) {
            case 0x00: continue;                                                          /* nop */
            case 0x01: next = encoded(c, cie->encoding); break;                           /* set_loc */
            case 0x02: next = at + fixed(c, 1) * cie->code_align; break;                  /* advance_loc1 */
            case 0x03: next = at + fixed(c, 2) * cie->code_align; break;                  /* advance_loc2 */
            case 0x04: next = at + fixed(c, 4) * cie->code_align; break;                  /* advance_loc4 */
            case 0x05:                                                                    /* offset_extended */
                reg = leb(c, false);
                set_rule(b, cie, s, reg, (struct rule){WB_RULE_AT_CFA, scaled(leb(c, false), cie->data_align)});
                continue;
            case 0x06:                                                                    /* restore_extended */
                reg = leb(c, false);
                set_rule(b, cie, s, reg, reg == b->machine.fp ? cie->initial.fp : cie->initial.ra);
                continue;
            case 0x07: set_rule(b, cie, s, leb(c, false), (struct rule){WB_RULE_UNDEFINED, 0}); continue;
            case 0x08: set_rule(b, cie, s, leb(c, false), (struct rule){WB_RULE_SAME, 0}); continue;
            case 0x09: {                                                                  /* register */
                reg = leb(c, false);
                bool itself = leb(c, false) == reg;
                set_rule(b, cie, s, reg, (struct rule){itself ? WB_RULE_SAME : WB_RULE_UNSUPPORTED, 0});
                continue;
            }
            case 0x0a:                                                                    /* remember_state */
                if (depth == REMEMBER_DEPTH)
                    return false;
                remembered[depth++] = *s;
                continue;
            case 0x0b:                                                                    /* restore_state */
                if (!depth)
                    return false;
                *s = remembered[--depth];
                continue;
            case 0x0c: case 0x12:                                                         /* def_cfa, def_cfa_sf */
                s->cfa_kind = WB_CFA_SP;
                s->cfa_register = leb(c, false);
                s->cfa_offset = op == 0x0c ? (int64_t)leb(c, false) : scaled(leb(c, true), cie->data_align);
                continue;
            case 0x0d: s->cfa_register = leb(c, false); s->cfa_kind = WB_CFA_SP; continue; /* def_cfa_register */
            case 0x0e: s->cfa_offset = (int64_t)leb(c, false); continue;                  /* def_cfa_offset */
            case 0x13: s->cfa_offset = scaled(leb(c, true), cie->data_align); continue;   /* def_cfa_offset_sf */
            case 0x0f: cfa_expression(b, c, s); continue;                                 /* def_cfa_expression */
            case 0x10: case 0x16:                                                         /* expression, val_expression */
                reg = leb(c, false);
                set_rule(b, cie, s, reg, rule_expression(b, c, op == 0x16));
                continue;
            case 0x11:                                                                    /* offset_extended_sf */
                reg = leb(c, false);
                set_rule(b, cie, s, reg, (struct rule){WB_RULE_AT_CFA, scaled(leb(c, true), cie->data_align)});
                continue;
            case 0x14: case 0x15:                                                         /* val_offset, val_offset_sf */
                reg = leb(c, false);
                set_rule(b, cie, s, reg, (struct rule){WB_RULE_CFA, scaled(leb(c, op == 0x15), cie->data_align)});
                continue;
            case 0x2d: continue;                                    /* aarch64: return address signed; always stripped */
            case 0x2e: leb(c, false); continue;                                           /* GNU_args_size */
            case 0x2f:                                                      /* GNU_negative_offset_extended */
                reg = leb(c, false);
                set_rule(b, cie, s, reg,
                         (struct rule){WB_RULE_AT_CFA, scaled(0 - leb(c, false), cie->data_align)});
                continue;
            default: return false;
            }
        }
        if (c->bad || !f || next < at || next > f->end)
            return false;
        if (next > at)
            emit(b, f, s, at, cie->signal);
        at = next;
    }
    if (c->bad)
        return false;
    if (f && at < f->end)
        emit(b, f, s, at, cie->signal);
    return true;
}

/* The start of a record: its extent in `c`, and where the CIE pointer is. False at a terminator or a bad length. */
static bool record(struct cursor *c)
{
    uint64_t length = fixed(c, 4);
    if (length == 0xffffffff)
        length = fixed(c, 8);
    if (c->bad || length > c->end - c->pos)
        return false;
    c->end = c->pos + length;
    return true;
}

static const struct cie *cie_at(struct builder *b, const struct cursor *section, uint64_t at)
{
    struct cie *cie = &b->cies[(at >> 2) % CIE_CACHE];
    struct cursor c = *section;
    char augmentation[16];
    unsigned used = 0;
    if (cie->at == at + 1)
        return cie;
    *cie = (struct cie){.at = at + 1};
    c.pos = at;
    if (!record(&c) || fixed(&c, 4) != 0)
        return cie;
    uint64_t version = fixed(&c, 1);
    do
        augmentation[used] = (char)fixed(&c, 1);
    while (!c.bad && augmentation[used] && ++used < sizeof augmentation);
    if (c.bad || used == sizeof augmentation || (version != 1 && version != 3 && version != 4))
        return cie;
    if (version == 4 && (fixed(&c, 1) != 8 || fixed(&c, 1) != 0)) /* address and segment selector size */
        return cie;
    cie->code_align = leb(&c, false);
    cie->data_align = (int64_t)leb(&c, true);
    cie->ra = version == 1 ? fixed(&c, 1) : leb(&c, false);
    if (augmentation[0] == 'z') {
        cie->augmented = true;
        uint64_t length = leb(&c, false), start = c.pos;
        if (c.bad || length > c.end - c.pos)
            return cie;
        for (unsigned i = 1; i < used; i++) {
            uint8_t encoding;
            switch (augmentation[i]) {
            case 'R': cie->encoding = (uint8_t)fixed(&c, 1); break;
            case 'P':
                encoding = (uint8_t)fixed(&c, 1);
                encoded(&c, encoding == 0x50 ? encoding : encoding & 0x0f); /* only its width matters */
                break;
            case 'L': fixed(&c, 1); break;
            case 'S': cie->signal = true; break;
            case 'B': case 'G': break; /* aarch64: key of signed return addresses, memory tagging */
            default: return cie;
            }
        }
        if (c.bad || c.pos - start > length)
            return cie;
        c.pos = start + length;
    } else if (used) {
        return cie;
    }
    if (c.end - c.pos > MAX_CIE_BYTES)
        return cie;
    cie->initial = (struct state){.cfa_kind = WB_CFA_UNSUPPORTED};
    struct state state = cie->initial;
    if (run(b, cie, &c, &state, NULL)) {
        cie->initial = state;
        cie->ok = true;
    }
    return cie;
}

static bool read_fde(struct builder *b, const struct cursor *section, struct cursor *c)
{
    uint64_t field = c->pos, back = fixed(c, 4);
    if (c->bad || back > field)
        return false;
    const struct cie *cie = cie_at(b, section, field - back);
    if (!cie->ok)
        return false;
    struct fde f = {.start = encoded(c, cie->encoding), .first = b->rows_used};
    if (cie->encoding & 0x80)
        return false;
    uint64_t size = encoded(c, cie->encoding & 0x0f);
    f.end = f.start + size;
    if (cie->augmented)
        skip(c, leb(c, false));
    if (c->bad || f.end < f.start)
        return false;
    if (size == 0 || f.start == 0)
        return true; /* left by linkers that drop the function but not its record */
    struct state state = cie->initial;
    if (!run(b, cie, c, &state, &f)) {
        b->rows_used = f.first; /* rows after what was not understood would lie; so might those before it */
        f.count = 0;
        state.cfa_kind = WB_CFA_UNSUPPORTED;
        state.ra.kind = WB_RULE_SAME;
        emit(b, &f, &state, f.start, cie->signal);
        b->stats.malformed++;
    }
    if (b->no_memory || !reserve((void **)&b->fdes, b->fdes_used, &b->fdes_room, sizeof f)) {
        b->no_memory = true;
        return false;
    }
    b->fdes[b->fdes_used++] = f;
    return true;
}

static int by_start(const void *left, const void *right)
{
    const struct fde *a = left, *b = right;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

static uint64_t append(struct wb_unwind_row *out, uint64_t used, const struct wb_unwind_row *row)
{
    while (used && out[used - 1].start >= row->start) /* functions that overlap: the later start wins */
        used--;
    if (used && same_rules(&out[used - 1], row))
        return used;
    out[used] = *row;
    return used + 1;
}

/* Rows of all functions in order of address, with WB_CFA_NONE where no function is. */
static int64_t flatten(struct builder *b, struct wb_unwind_row **result)
{
    uint64_t used = 0, room = b->rows_used + b->fdes_used + 1, end = 0;
    bool sorted = true;
    for (uint64_t i = 1; i < b->fdes_used && sorted; i++)
        sorted = b->fdes[i - 1].start <= b->fdes[i].start;
    if (!sorted)
        qsort(b->fdes, (size_t)b->fdes_used, sizeof *b->fdes, by_start);
    struct wb_unwind_row *out = malloc((size_t)room * sizeof *out);
    if (!out)
        return -1;
    for (uint64_t i = 0; i < b->fdes_used; i++) {
        const struct fde *f = &b->fdes[i];
        if (used && f->start > end && f->start - end >= PADDING)
            used = append(out, used, &(struct wb_unwind_row){.start = end});
        for (uint64_t k = 0; k < f->count; k++)
            used = append(out, used, &b->rows[f->first + k]);
        end = f->end;
    }
    if (used)
        used = append(out, used, &(struct wb_unwind_row){.start = end});
    struct wb_unwind_row *fitted = realloc(out, (size_t)(used ? used : 1) * sizeof *out);
    *result = fitted ? fitted : out;
    return (int64_t)used;
}

int64_t wb_eh_frame_build(const uint8_t *data, uint64_t length, uint64_t vaddr, uint32_t machine, uint64_t max_fdes,
                          struct wb_unwind_row **rows, struct wb_eh_stats *stats)
{
    *rows = NULL;
    *stats = (struct wb_eh_stats){0};
    if (machine != WB_MACHINE_X86_64 && machine != WB_MACHINE_AARCH64)
        return -2;
    struct builder *b = calloc(1, sizeof *b);
    if (!b)
        return -1;
    b->machine.x86 = machine == WB_MACHINE_X86_64;
    b->machine.sp = b->machine.x86 ? 7 : 31;
    b->machine.fp = b->machine.x86 ? 6 : 29;
    const struct cursor section = {.data = data, .end = length, .vaddr = vaddr};
    uint64_t at = 0;
    while (length - at >= 4 && !b->no_memory && (!max_fdes || b->stats.fdes < max_fdes)) {
        struct cursor c = section;
        uint32_t first;
        c.pos = at;
        if (!record(&c)) {
            b->stats.malformed++;
            break;
        }
        if (c.end == c.pos) { /* a terminator; linkers leave some between object files */
            at = c.pos;
            continue;
        }
        at = c.end;
        if (c.end - c.pos < 4) {
            b->stats.malformed++;
            continue;
        }
        memcpy(&first, data + c.pos, 4);
        if (first == 0)
            continue; /* a CIE: read when a function names it */
        b->stats.fdes++;
        if (!read_fde(b, &section, &c))
            b->stats.malformed++;
    }
    int64_t count = b->no_memory ? -1 : flatten(b, rows);
    *stats = b->stats;
    free(b->rows);
    free(b->fdes);
    free(b);
    return count;
}

void wb_eh_frame_free(struct wb_unwind_row *rows)
{
    free(rows);
}
