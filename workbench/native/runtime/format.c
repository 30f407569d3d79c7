/* Formatted text after the kernel's rules: bpf_bprintf_prepare of kernel/bpf/helpers.c, bstr_printf of lib/vsprintf.c.
 *
 * As there, arguments are first packed into 512 bytes, where texts that a program only has pointers to are copied
 * safely, and the text is then made from the packed form. Differences: %p and %pK give the address (the kernel gives a
 * hash of it, which hides nothing inside one process), %ps, %pS and %pB the address as 0x... (as the kernel does for
 * addresses that are none of its own).
 */
#include "thread.h"

#define LEFT 1u
#define PLUS 2u
#define SPACE 4u
#define ZERO 8u
#define WIDTH_MAX 8388607u

struct specification {
    uint32_t flags, width;
    uint32_t bytes; /* of an integer: 4 or 8 */
    char kind;      /* d u x X p s c; i is d */
    char pointer;   /* after %p: k u (texts), I i (addresses), B s S K x, 0 */
    char version;   /* of an IP address: 4 or 6 */
};

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return ((uint8_t)c | 0x20) >= 'a' && ((uint8_t)c | 0x20) <= 'z'; }
static bool is_printed(char c) { return c >= ' ' && c <= '~'; }
static bool is_mark(char c) { return is_printed(c) && c != ' ' && !is_digit(c) && !is_letter(c); }
static bool ends(char c) { return !c || is_space(c) || is_mark(c); }

/* Reads what follows a '%': the characters it takes, or -EINVAL. */
static int64_t parse(const char *format, struct specification *to) {
    const char *at = format;
    *to = (struct specification){0, 0, 4, 0, 0, 0};
    for (;; at++) {
        if (*at == '0')
            to->flags |= ZERO;
        else if (*at == '+')
            to->flags |= PLUS;
        else if (*at == '-')
            to->flags |= LEFT;
        else if (*at == ' ')
            to->flags |= SPACE;
        else
            break;
    }
    for (; is_digit(*at); at++)
        if (to->width < WIDTH_MAX)
            to->width = to->width * 10 + (uint32_t)(*at - '0');
    if (to->width > WIDTH_MAX)
        to->width = WIDTH_MAX;
    to->kind = *at++;
    if (to->kind == 'p') {
        char next = *at;
        if ((next == 'k' || next == 'u') && at[1] == 's') {
            to->kind = 's';
            to->pointer = next;
            at += 2;
            return ends(*at) ? at - format : -WB_EINVAL;
        }
        if (next && (next == 'K' || next == 'x' || next == 's' || next == 'S' || next == 'B')) {
            to->pointer = next;
            return at + 1 - format;
        }
        if (ends(next)) {
            to->bytes = 8;
            return at - format;
        }
        if ((next != 'i' && next != 'I') || (at[1] != '4' && at[1] != '6'))
            return -WB_EINVAL;
        to->pointer = next;
        to->version = at[1];
        return at + 2 - format;
    }
    if (to->kind == 's')
        return ends(*at) ? at - format : -WB_EINVAL;
    if (to->kind == 'c')
        return at - format;
    for (int i = 0; i < 2 && to->kind == 'l'; i++, to->kind = *at++)
        to->bytes = 8;
    if (to->kind == 'i')
        to->kind = 'd';
    return to->kind == 'd' || to->kind == 'u' || to->kind == 'x' || to->kind == 'X' ? at - format
                                                                                      : -WB_EINVAL;
}

/* --- writing ------------------------------------------------------------------------------------------------------------------ */

struct output {
    char *to;
    uint64_t size, length; /* `length` goes on where `size` ends */
};

static void put(struct output *out, char c) {
    if (out->length < out->size)
        out->to[out->length] = c;
    out->length++;
}

static void pad(struct output *out, char c, int64_t count) {
    for (; count > 0 && out->length < out->size; count--)
        put(out, c);
    if (count > 0)
        out->length += (uint64_t)count;
}

static void put_text(struct output *out, const char *text, uint64_t length, const struct specification *spec) {
    int64_t blanks = (int64_t)spec->width - (int64_t)length;
    if (!(spec->flags & LEFT))
        pad(out, ' ', blanks);
    for (uint64_t i = 0; i < length; i++)
        put(out, text[i]);
    if (spec->flags & LEFT)
        pad(out, ' ', blanks);
}

static void put_number(struct output *out, uint64_t value, const struct specification *spec) {
    char digits[24], sign = 0;
    bool is_signed = spec->kind == 'd';
    uint32_t base = spec->kind == 'd' || spec->kind == 'u' ? 10 : 16;
    const char *figures = spec->kind == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    if (is_signed && (int64_t)value < 0) {
        sign = '-';
        value = -value;
    } else if (is_signed && spec->flags & PLUS) {
        sign = '+';
    } else if (is_signed && spec->flags & SPACE) {
        sign = ' ';
    }
    uint32_t count = 0;
    do {
        digits[count++] = figures[value % base];
        value /= base;
    } while (value);
    int64_t blanks = (int64_t)spec->width - count - (sign != 0);
    bool zeros = spec->flags & ZERO && !(spec->flags & LEFT);
    if (!(spec->flags & (LEFT | ZERO)))
        pad(out, ' ', blanks);
    if (sign)
        put(out, sign);
    if (zeros)
        pad(out, '0', blanks);
    while (count)
        put(out, digits[--count]);
    if (spec->flags & LEFT)
        pad(out, ' ', blanks);
}

static void put_pointer(struct output *out, uint64_t value, struct specification spec) {
    spec.kind = 'x';
    if (!spec.width) {
        spec.width = 16;
        spec.flags |= ZERO;
    }
    put_number(out, value, &spec);
}

/* --- IP addresses, as lib/vsprintf.c spells them ----------------------------------------------------------------------------- */

static uint32_t address_text(char *to, const uint8_t *from, char form, char version) {
    struct output out = {to, 64, 0};
    struct specification plain = {0, 0, 4, 'u', 0, 0};
    if (version == '4') {
        if (form == 'i') {
            plain.width = 3;
            plain.flags = ZERO;
        }
        for (int i = 0; i < 4; i++) {
            if (i)
                put(&out, '.');
            put_number(&out, from[i], &plain);
        }
    } else {
        plain = (struct specification){ZERO, 2, 4, 'x', 0, 0};
        for (int i = 0; i < 16; i++) {
            if (i && i % 2 == 0 && form == 'I')
                put(&out, ':');
            put_number(&out, from[i], &plain);
        }
    }
    to[out.length] = 0;
    return (uint32_t)out.length;
}

static uint32_t symbol_text(char *to, uint64_t address) {
    struct output out = {to, 64, 0};
    struct specification plain = {0, 0, 8, 'x', 0, 0};
    put(&out, '0');
    put(&out, 'x');
    put_number(&out, address, &plain);
    to[out.length] = 0;
    return (uint32_t)out.length;
}

/* --- packing the arguments ---------------------------------------------------------------------------------------------------- */

struct packing {
    char *at, *end;
};

static int64_t pack_text(struct packing *to, const char *text, uint32_t length) {
    uint64_t room = (uint64_t)(to->end - to->at);
    if (!room)
        return -WB_ENOSPC;
    /* A text made by snprintf: it is cut, and counts in full. */
    uint32_t kept = length < room ? length : (uint32_t)room - 1;
    __builtin_memcpy(to->at, text, kept);
    to->at[kept] = 0;
    to->at += kept + 1;
    return 0;
}

static int64_t pack(struct wb_run *run, struct packing *to, const struct specification *spec, uint64_t value) {
    char text[64];
    if (spec->kind == 's') {
        if (to->at == to->end)
            return -WB_ENOSPC;
        int64_t length = wb_safe_string(run, to->at, (const char *)value, (uint64_t)(to->end - to->at));
        if (length < 0) {
            *to->at = 0;
            length = 1;
        }
        to->at += length;
        return 0;
    }
    if (spec->kind == 'c') {
        if (to->at == to->end)
            return -WB_ENOSPC;
        *to->at++ = (char)value;
        return 0;
    }
    if (spec->kind == 'p' && spec->version) {
        uint8_t address[16] = {0};
        uint32_t size = spec->version == '4' ? 4 : 16;
        if ((uint64_t)(to->end - to->at) < size)
            return -WB_ENOSPC;
        if (wb_safe_copy(run, address, (const void *)value, size))
            __builtin_memset(address, 0, sizeof address);
        return pack_text(to, text, address_text(text, address, spec->pointer, spec->version));
    }
    if (spec->kind == 'p' && spec->pointer == 'B')
        return pack_text(to, text, symbol_text(text, value));
    uint32_t size = spec->kind == 'p' ? 8 : spec->bytes;
    to->at = (char *)(((uint64_t)to->at + 3) & ~3ull);
    if (to->end - to->at < (int64_t)size)
        return -WB_ENOSPC;
    __builtin_memcpy(to->at, &value, size);
    to->at += size;
    return 0;
}

static int64_t prepare(struct wb_run *run, char *binary, const char *format, uint64_t format_size,
                       const uint64_t *arguments, uint32_t count) {
    struct packing to = {binary, binary + WB_FORMAT_BINARY};
    uint64_t length = 0;
    uint32_t used = 0;
    while (length < format_size && format[length])
        length++;
    if (length == format_size)
        return -WB_EINVAL;
    for (uint64_t i = 0; i < length; i++) {
        if (!is_printed(format[i]) && !is_space(format[i]) && !((uint8_t)format[i] & 0x80))
            return -WB_EINVAL; /* bytes of UTF-8 are let through since Linux 6.17 */
        if (format[i] != '%')
            continue;
        if (format[i + 1] == '%') {
            i++;
            continue;
        }
        if (used >= count)
            return -WB_EINVAL;
        struct specification spec;
        int64_t taken = parse(format + i + 1, &spec);
        if (taken < 0)
            return taken;
        int64_t error = pack(run, &to, &spec, arguments[used++]);
        if (error)
            return error;
        i += (uint64_t)taken;
    }
    return 0;
}

/* --- making the text ------------------------------------------------------------------------------------------------------------ */

static uint64_t take(const char **at, uint32_t size) {
    uint64_t value = 0;
    *at = (const char *)(((uint64_t)*at + 3) & ~3ull);
    __builtin_memcpy(&value, *at, size);
    *at += size;
    return value;
}

static const char *take_text(const char **at, uint64_t *length) {
    const char *text = *at;
    for (*length = 0; text[*length]; ++*length)
        ;
    *at += *length + 1;
    return text;
}

static void make_one(struct output *out, const struct specification *spec, const char **at) {
    uint64_t length;
    if (spec->kind == 's' ? spec->pointer : spec->version || spec->pointer == 'B') {
        /* Made when it was packed: put as it is, without width. Behind the end it is not even taken, so that later
         * texts come out wrong, where nobody sees them, but are measured so. */
        if (out->length >= out->size)
            return;
        const char *text = take_text(at, &length);
        while (length--)
            put(out, *text++);
    } else if (spec->kind == 's') {
        const char *text = take_text(at, &length);
        put_text(out, text, length, spec);
    } else if (spec->kind == 'c') {
        char one = *(*at)++;
        put_text(out, &one, 1, spec);
    } else if (spec->kind == 'p' && (spec->pointer == 's' || spec->pointer == 'S')) {
        char text[64];
        put_text(out, text, symbol_text(text, take(at, 8)), spec);
    } else if (spec->kind == 'p') {
        put_pointer(out, take(at, 8), *spec);
    } else {
        uint64_t value = take(at, spec->bytes);
        if (spec->kind == 'd' && spec->bytes == 4)
            value = (uint64_t)(int64_t)(int32_t)value;
        put_number(out, value, spec);
    }
}

static uint64_t make(char *to, uint64_t size, const char *format, const char *binary) {
    struct output out = {to, size, 0};
    for (; *format; format++) {
        if (*format != '%') {
            put(&out, *format);
            continue;
        }
        if (format[1] == '%') {
            put(&out, '%');
            format++;
            continue;
        }
        struct specification spec;
        format += parse(format + 1, &spec);
        make_one(&out, &spec, &binary);
        if (spec.kind == 'p' || spec.pointer) /* letters behind a pointer are taken for more of it */
            while (is_letter(format[1]) || is_digit(format[1]))
                format++;
    }
    if (size)
        to[out.length < size ? out.length : size - 1] = 0;
    return out.length;
}

int64_t wb_format(struct wb_run *run, char *to, uint64_t size, const char *format, uint64_t format_size,
                  const uint64_t *arguments, uint32_t count) {
    struct wb_thread *thread = wb_thread(run);
    if (!thread || thread->formats)
        return -WB_EBUSY;
    thread->formats = 1;
    int64_t result = prepare(run, thread->binary, format, format_size, arguments, count);
    if (!result)
        result = (int64_t)make(to, size, format, thread->binary);
    thread->formats = 0;
    return result;
}
