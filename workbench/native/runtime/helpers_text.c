/* Texts, numbers in texts, checksums (kernel/bpf/helpers.c, lib/kstrtox.c, net/core/filter.c). */
#include "helpers.h"

#define BASE_MASK 0x1fu
#define TEXT_MAX 63

/* lib/string.c: -1, 0 or 1. */
HELPER(strncmp) {
    UNUSED(r4, r5, 0);
    const uint8_t *a = (const uint8_t *)r1, *b = (const uint8_t *)r3;
    for (uint32_t left = (uint32_t)r2; left; left--, a++, b++) {
        if (*a != *b)
            return *a < *b ? (uint64_t)-1 : 1;
        if (!*a)
            break;
    }
    return 0;
}

/* The kernel's isspace, in Latin-1. */
static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xa0; }

static uint32_t digit(uint8_t c) {
    uint8_t lower = c | 0x20;
    if (c >= '0' && c <= '9')
        return c - '0';
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10u : 99;
}

static int64_t number(
    const uint8_t *text, uint64_t size, uint64_t flags, uint64_t *value, bool *negative) {
    uint32_t base = flags & BASE_MASK, at = 0;
    if (!text || !size || (base && base != 8 && base != 10 && base != 16) || flags & ~(uint64_t)BASE_MASK)
        return -WB_EINVAL;
    while (at < size && is_space(text[at]))
        at++;
    *negative = at < size && text[at] == '-';
    at += *negative;
    if (at == size)
        return -WB_EINVAL;
    uint64_t left = size - at < TEXT_MAX ? size - at : TEXT_MAX;
    const uint8_t *from = text + at;
#define AT(i) ((i) < left ? from[i] : 0)
    uint64_t i = 0, digits = 0, result = 0;
    bool hexadecimal = AT(0) == '0' && (AT(1) | 0x20) == 'x';
    if (!base)
        base = AT(0) != '0' ? 10 : hexadecimal && digit(AT(2)) < 16 ? 16 : 8;
    if (base == 16 && hexadecimal)
        i = 2;
    bool overflow = false;
    for (; digit(AT(i)) < base; i++, digits++) {
        uint32_t next = digit(AT(i));
        if (result > (UINT64_MAX - next) / base)
            overflow = true;
        result = result * base + next;
    }
#undef AT
    if (overflow)
        return -WB_ERANGE;
    if (!digits)
        return -WB_EINVAL;
    *value = result;
    return (int64_t)(at + i);
}

HELPER(strtol) {
    UNUSED(r5, 0, 0);
    uint64_t value = 0;
    bool negative = false;
    *(int64_t *)r4 = 0;
    int64_t used = number((const uint8_t *)r1, r2, r3, &value, &negative);
    if (used < 0)
        return (uint64_t)used;
    int64_t result = (int64_t)(negative ? -value : value);
    if (negative ? result > 0 : result < 0)
        return ERROR(WB_ERANGE);
    *(int64_t *)r4 = result;
    return (uint64_t)used;
}

HELPER(strtoul) {
    UNUSED(r5, 0, 0);
    uint64_t value = 0;
    bool negative = false;
    *(uint64_t *)r4 = 0;
    int64_t used = number((const uint8_t *)r1, r2, r3, &value, &negative);
    if (used < 0)
        return (uint64_t)used;
    if (negative)
        return ERROR(WB_EINVAL);
    *(uint64_t *)r4 = value;
    return (uint64_t)used;
}

static uint32_t fold(uint64_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)sum;
}

/* Sum of 16-bit words in one's complement; a last odd byte is the first of a word. */
static uint64_t words(const uint8_t *from, uint32_t size) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < size; i += 2) {
        uint16_t word = 0;
        __builtin_memcpy(&word, from + i, i + 1 < size ? 2 : 1);
        sum += word;
    }
    return sum;
}

/* As since Linux 6.13: folded to 16 bits, sizes need not be multiples of 4. */
HELPER(csum_diff) {
    (void)run;
    const uint8_t *from = (const uint8_t *)r1, *to = (const uint8_t *)r3;
    uint32_t from_size = (uint32_t)r2, to_size = (uint32_t)r4, seed = (uint32_t)r5;
    uint64_t sum = fold(seed);
    if (to_size)
        sum += words(to, to_size);
    if (from_size)
        sum += 0xffff - fold(words(from, from_size));
    return fold(sum);
}
