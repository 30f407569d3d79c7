"""C of the CO-RE tests: programs that use every relocation kind, and the types of several targets."""

from __future__ import annotations

import re

HEAD = """
#include "workbench.h"
#include <bpf/bpf_core_read.h>
char LICENSE[] SEC("license") = "Dual MIT/GPL";
#define CORE __attribute__((preserve_access_index))
#define OUT(value) do { results[place] = (value); place++; } while (0)
volatile __u64 results[64];
"""

LOCAL = (
    HEAD
    + """
struct inner { int x; __u16 list[4]; } CORE;
struct thing___mine {
	__u64 moved;
	__u32 narrow;
	unsigned char wide;
	void *pointer;
	union { int plain; struct { short deep; short deeper; }; };
	struct inner one;
	struct inner many[3];
	__s8 sign;
	enum colour___v2 { RED___v2 = 5, GREEN, GONE = 9 } shade;
	char name[];
} CORE;
struct bits { __u32 low : 3; __s32 middle : 11; __u32 last; } CORE;
struct wide_bits { __u64 before; __u64 high : 40; __u64 rest : 24; } CORE;
struct thing___missing { int absent; } CORE;
struct thing___other { struct inner *one; int plain[2]; } CORE;
struct nowhere { int x; } CORE;
typedef struct { int a; long b; } pair_t;
typedef int number_t;
typedef int (*callback_t)(int, struct inner *);
enum huge { HUGE_ONE = 0x123456789abcdefULL, HUGE_TWO = 1 };
enum minus { MINUS = -3, PLUS = 3 };
union mixed { int a; long b; } CORE;

SEC("raw_tp/sys_enter") int fields(void *ctx)
{
	struct thing___mine *t = ctx;
	struct bits *b = ctx;
	struct wide_bits *w = ctx;
	int place = 0;

	OUT(bpf_core_field_offset(t->moved));
	OUT(bpf_core_field_offset(t->narrow));
	OUT(bpf_core_field_offset(t->deeper));
	OUT(bpf_core_field_offset(t->one.list[2]));
	OUT(bpf_core_field_offset(t->many[2].x));
	OUT(bpf_core_field_offset(t->name[3]));
	OUT(bpf_core_field_size(t->narrow));
	OUT(bpf_core_field_size(t->wide));
	OUT(bpf_core_field_size(t->many));
	OUT(bpf_core_field_size(t->many[1]));
	OUT(bpf_core_field_exists(t->plain));
	OUT(bpf_core_field_exists(t->many[2].list[3]));
	OUT(bpf_core_field_exists(((struct thing___missing *)ctx)->absent));
	OUT(bpf_core_field_exists(((struct thing___other *)ctx)->one));
	OUT(bpf_core_field_exists(((struct thing___other *)ctx)->plain));
	OUT(bpf_core_field_exists(((struct nowhere *)ctx)->x));
	OUT(bpf_core_field_size(b->low));
	OUT(__builtin_preserve_field_info(t->sign, BPF_FIELD_SIGNED));
	OUT(__builtin_preserve_field_info(t->wide, BPF_FIELD_SIGNED));
	OUT(__builtin_preserve_field_info(b->middle, BPF_FIELD_SIGNED));
	OUT(__builtin_preserve_field_info(b->low, BPF_FIELD_LSHIFT_U64));
	OUT(__builtin_preserve_field_info(b->low, BPF_FIELD_RSHIFT_U64));
	OUT(__builtin_preserve_field_info(b->middle, BPF_FIELD_LSHIFT_U64));
	OUT(__builtin_preserve_field_info(b->middle, BPF_FIELD_RSHIFT_U64));
	OUT(__builtin_preserve_field_info(w->high, BPF_FIELD_LSHIFT_U64));
	OUT(__builtin_preserve_field_info(w->high, BPF_FIELD_BYTE_OFFSET));
	OUT(__builtin_preserve_field_info(t->shade, BPF_FIELD_SIGNED));
	return 0;
}

SEC("raw_tp/sys_enter") int types(void *ctx)
{
	int place = 0;

	OUT(bpf_core_type_id_local(struct thing___mine) != 0);
	OUT(bpf_core_type_id_kernel(struct thing___mine));
	OUT(bpf_core_type_id_kernel(struct nowhere));
	OUT(bpf_core_type_exists(struct thing___mine));
	OUT(bpf_core_type_exists(struct nowhere));
	OUT(bpf_core_type_exists(pair_t));
	OUT(bpf_core_type_exists(number_t));
	OUT(bpf_core_type_exists(callback_t));
	OUT(bpf_core_type_exists(union mixed));
	OUT(bpf_core_type_exists(enum huge));
	OUT(bpf_core_type_size(struct thing___mine));
	OUT(bpf_core_type_size(struct nowhere));
	OUT(bpf_core_type_size(pair_t));
	OUT(bpf_core_type_matches(struct inner));
	OUT(bpf_core_type_matches(struct thing___mine));
	OUT(bpf_core_type_matches(struct nowhere));
	OUT(bpf_core_type_matches(pair_t));
	OUT(bpf_core_type_matches(number_t));
	OUT(bpf_core_type_matches(callback_t));
	OUT(bpf_core_type_matches(union mixed));
	OUT(bpf_core_type_matches(enum huge));
	OUT(bpf_core_type_matches(enum minus));
	return 0;
}

SEC("raw_tp/sys_enter") int enums(void *ctx)
{
	int place = 0;

	OUT(bpf_core_enum_value_exists(enum colour___v2, RED___v2));
	OUT(bpf_core_enum_value_exists(enum colour___v2, GONE));
	OUT(bpf_core_enum_value(enum colour___v2, RED___v2));
	OUT(bpf_core_enum_value(enum colour___v2, GREEN));
	OUT(bpf_core_enum_value(enum huge, HUGE_ONE));
	OUT(bpf_core_enum_value(enum huge, HUGE_TWO));
	OUT(bpf_core_enum_value(enum minus, MINUS));
	if (bpf_core_enum_value_exists(enum colour___v2, GONE))
		OUT(bpf_core_enum_value(enum colour___v2, GONE));
	return 0;
}
"""
)

# A program whose loads and stores are relocated in place; reads of a context this long are not for raw tracepoints,
# so the kernel refuses it after the relocation.
DIRECT = (
    HEAD
    + """
struct inner { int x; __u16 list[4]; } CORE;
struct thing___mine { __u64 moved; __u32 narrow; unsigned char wide; void *pointer; struct inner one; } CORE;
SEC("raw_tp/sys_enter") int loads(struct thing___mine *t)
{
	results[0] = t->moved;
	results[1] = t->narrow;
	results[2] = t->wide;
	results[3] = (__u64)t->pointer;
	results[4] = t->one.list[1];
	t->narrow = 7;
	t->moved = results[5];
	return 0;
}
"""
)

SAME = """
struct bits { unsigned low : 3; int middle : 11; unsigned last; };
struct wide_bits { unsigned long before; unsigned long high : 40; unsigned long rest : 24; };
struct inner { int x; unsigned short list[4]; };
struct thing {
	unsigned long moved; unsigned int narrow; unsigned char wide; void *pointer;
	union { int plain; struct { short deep; short deeper; }; };
	struct inner one; struct inner many[3]; signed char sign;
	enum colour { RED = 5, GREEN, GONE = 9 } shade; char name[];
};
typedef struct { int a; long b; } pair_t;
typedef int number_t;
typedef int (*callback_t)(int, struct inner *);
enum huge { HUGE_ONE = 0x123456789abcdefULL, HUGE_TWO = 1 };
enum minus { MINUS = -3, PLUS = 3 };
union mixed { int a; long b; };
"""

# Everything moved, sizes changed, an enumerator gone, members within anonymous ones.
MOVED = """
struct bits { int first : 2; unsigned middle : 7; int gap : 9; long far; unsigned long more : 30; unsigned low : 9; };
struct wide_bits { unsigned long high : 33; char x; };
struct filler { char bytes[40]; };
struct inner { struct filler first; unsigned short list[8]; long x; };
struct thing {
	struct filler before;
	enum colour { GREEN = 70, RED = 80 } shade;
	struct { unsigned short narrow; struct { unsigned int wide; }; };
	void *pointer;
	struct { int a; union { long plain; struct { int shift; short deep; short deeper; }; }; };
	struct inner many[5]; struct inner one; int sign;
	unsigned long moved;
	char name[];
};
typedef struct { int a; long b; int c; } pair_t;
typedef unsigned number_t;
typedef int (*callback_t)(int, struct thing *);
enum huge { HUGE_ONE = 12, HUGE_TWO = -1 };
enum minus { MINUS = 0x1234567890, PLUS = 3 };
union mixed { int a; int c; };
"""

# A flavour in the target, types of other kinds, and next to nothing else.
STRANGE = """
struct thing___old { int sign; unsigned long moved; int many; char name[4]; };
union inner { int x; };
struct pair_t { int a; };
enum huge { HUGE_TWO = 4 };
enum colour { RED = 1 };
enum colour___again { RED___b = 1, GREEN = 2 };
"""

# Integers read with another size, pointers to something else.
RESIZED = """
struct inner { unsigned char list[4]; int x; };
struct thing { int before; unsigned char narrow; unsigned long wide; unsigned int moved; int *pointer;
	struct inner one; };
"""

# A signed field where the object reads an unsigned one of another size.
SIGNED = """
struct inner { unsigned short list[4]; };
struct thing { int narrow; long moved; short wide; void *pointer; struct inner one; };
"""

# Two types of one name that disagree about a field.
AMBIGUOUS = """
struct inner { int x; unsigned short list[4]; };
struct thing___a { unsigned long moved; unsigned narrow; unsigned char wide; void *pointer; struct inner one; };
struct thing___b { int first; unsigned long moved; unsigned narrow; unsigned char wide; void *pointer;
	struct inner one; };
"""

TARGETS = {
    "same": SAME,
    "moved": MOVED,
    "strange": STRANGE,
    "resized": RESIZED,
    "signed": SIGNED,
    "ambiguous": AMBIGUOUS,
}


def target_source(types: str) -> str:
    """A C file whose BTF has all these types."""
    names = re.findall(r"^(?:struct|union|enum) \w+", types, re.MULTILINE)
    names += re.findall(r"^typedef [^(\n]*?(\w+);$", types, re.MULTILINE)
    names += re.findall(r"^typedef .*\(\*(\w+)\)", types, re.MULTILINE)
    if "enum colour {" in types and "enum colour" not in names:
        names.append("enum colour")
    uses = "".join(f"{name} *use_{i};\n" for i, name in enumerate(names))
    return types + uses
