/* Bounded reads of DWARF data from memory that may be hostile: after a read past the end `bad` stays set and all reads
 * give 0, so that a caller checks once at the end of what it reads. */
#ifndef WORKBENCH_CURSOR_H
#define WORKBENCH_CURSOR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct cursor {
    const uint8_t *data;
    uint64_t pos, end;        /* offsets in data; pos <= end always */
    uint64_t vaddr;           /* of data[0] */
    bool bad;                 /* something was read past the end or is not understood */
};

static inline uint64_t fixed(struct cursor *c, unsigned size)
{
    uint64_t value = 0;
    if (c->bad || c->end - c->pos < size) {
        c->bad = true;
        return 0;
    }
    memcpy(&value, c->data + c->pos, size);
    c->pos += size;
    return value;
}

static inline int64_t sign_extend(uint64_t value, unsigned bits)
{
    uint64_t sign = UINT64_C(1) << (bits - 1);
    return (int64_t)((value ^ sign) - sign);
}

static inline uint64_t leb(struct cursor *c, bool is_signed)
{
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte;
    do {
        byte = (uint8_t)fixed(c, 1);
        if (c->bad)
            return 0;
        if (shift < 64)
            value |= (uint64_t)(byte & 0x7f) << shift;
        shift = shift < 64 ? shift + 7 : shift;
    } while (byte & 0x80);
    if (is_signed && shift < 64 && (byte & 0x40))
        value |= ~UINT64_C(0) << shift;
    return value;
}

static inline void skip(struct cursor *c, uint64_t size)
{
    if (c->bad || c->end - c->pos < size)
        c->bad = true;
    else
        c->pos += size;
}

/* A pointer in one of the DW_EH_PE encodings. Text-, data- and function-relative ones need what is not in the section
 * and are used by no Linux compiler for code addresses. */
static inline uint64_t encoded(struct cursor *c, uint8_t encoding)
{
    uint64_t base = 0, value;
    if (encoding == 0x50) { /* aligned to the pointer size */
        skip(c, (8 - ((c->vaddr + c->pos) & 7)) & 7);
        return fixed(c, 8);
    }
    if ((encoding & 0x70) == 0x10)
        base = c->vaddr + c->pos;
    else if ((encoding & 0x70) != 0)
        c->bad = true;
    switch (encoding & 0x0f) {
    case 0x00: case 0x04: case 0x0c: value = fixed(c, 8); break;
    case 0x01: value = leb(c, false); break;
    case 0x02: value = fixed(c, 2); break;
    case 0x03: value = fixed(c, 4); break;
    case 0x09: value = leb(c, true); break;
    case 0x0a: value = (uint64_t)sign_extend(fixed(c, 2), 16); break;
    case 0x0b: value = (uint64_t)sign_extend(fixed(c, 4), 32); break;
    default: c->bad = true; return 0;
    }
    return base + value;
}

#endif
