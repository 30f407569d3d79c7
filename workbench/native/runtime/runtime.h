/* The contract of the userspace runtime: what JIT-compiled programs, helpers, maps and the agent share.
 *
 * Every file of this folder is freestanding C11: it calls no libc and keeps no global variable that is written, for
 * the same source is compiled three times: into the core of the workbench process, into the agent that enters a
 * target, and into LLVM bitcode whose functions the JIT inlines. System calls go through system.h. No floating point,
 * no thread-local storage.
 *
 * Addresses: everything in shared memory (a segment) is reached by offsets from where this process mapped it.
 * struct wb_map, wb_space, wb_program and wb_run are private to a process.
 *
 * A compiled program is `uint64_t program(void *ctx, struct wb_run *run)`; a subprogram or callback is
 * `uint64_t f(uint64_t r1, ..., uint64_t r5, struct wb_run *run)`; a helper is
 * `uint64_t wb_helper_NAME(struct wb_run *run, uint64_t r1, ..., uint64_t r5)`, found at run->helpers[number].
 */
#ifndef WB_RUNTIME_H
#define WB_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WB_EXPORT __attribute__((visibility("default")))
#define WB_HELPERS 512
#define WB_PARTICIPANTS 4096 /* threads in one namespace at a time: an owner number has 12 bits; 0 is nobody */
#define WB_LINE 64
#define WB_HOLDS (1ull << 63) /* of an epoch: the running program may hold pointers into hash maps */

struct wb_run;
struct wb_map;

typedef uint64_t (*wb_helper)(struct wb_run *, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
typedef uint64_t (*wb_callback)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, struct wb_run *);
typedef uint64_t (*wb_entry)(void *ctx, struct wb_run *run);

/* A thread that uses a namespace: one cache line in shared memory, owned for life. */
struct wb_participant {
    uint64_t epoch;     /* 0 outside programs, else the namespace's epoch when the running program began | WB_HOLDS */
    uint32_t lock;      /* futex word of a robust mutex: FUTEX_OWNER_DIED set = the thread is dead (space.c) */
    uint32_t pid, tid;  /* for people who look; liveness is `lock` */
    uint32_t cpu;       /* slot of per-CPU maps leased by this thread, + 1; 0 = none */
    uint32_t generation; /* counts the threads that had this number: (number, generation) is one thread for ever */
    uint8_t rest[28];    /* element of the thread's robust list */
    uint32_t holdings;   /* counts the programs that were given a pointer into a hash map */
    uint32_t unused;
};

/* First bytes of every map's segment. `data` of the type follows at `offset`. */
struct wb_segment {
    uint64_t magic; /* WB_SEGMENT_MAGIC, written last when the segment is ready */
    uint32_t version, type;
    uint32_t key_size, value_size, max_entries, flags;
    uint32_t id, cpus; /* number within the namespace; slots of a per-CPU value */
    uint64_t length;   /* bytes of the whole segment */
    uint64_t offset;   /* of the type's own data, a multiple of 64 (of the page size for mappable arrays and rings) */
    char name[64];
    uint32_t spin_lock; /* where a value has its struct bpf_spin_lock, + 1; 0 = it has none */
    uint32_t unused;
};
#define WB_SEGMENT_MAGIC 0x31676573706d6277ull
#define WB_SEGMENT_VERSION 2

/* A namespace as this process sees it. */
struct wb_space {
    struct wb_participant *participants; /* shared; number 0 unused */
    uint64_t *epoch;                     /* shared: the global epoch, never 0 */
    void *shared;                        /* the namespace's own segment */
    uint64_t length;
    struct wb_map *printk; /* ring of struct wb_printk_line (printk.h); NULL = what programs print is dropped */
    struct wb_map *timers; /* ring of the timers that programs started (timer.h); NULL = no timers */
    uint64_t reserved[2];
};

/* What a map type can do. A NULL entry means the type does not have the operation (-EOPNOTSUPP or as the kernel says).
 * Errors are negative errno values, the kernel's for the same call. Everything takes the calling thread's run. */
struct wb_map_ops {
    /* The program side. */
    void *(*lookup)(struct wb_run *, struct wb_map *, const void *key); /* NULL = none; valid until the program ends */
    int64_t (*update)(struct wb_run *, struct wb_map *, const void *key, const void *value, uint64_t flags);
    int64_t (*erase)(struct wb_run *, struct wb_map *, const void *key);
    int64_t (*push)(struct wb_run *, struct wb_map *, const void *value, uint64_t flags);
    int64_t (*pop)(struct wb_run *, struct wb_map *, void *value);
    int64_t (*peek)(struct wb_run *, struct wb_map *, void *value);
    void *(*lookup_percpu)(struct wb_run *, struct wb_map *, const void *key, uint32_t cpu);
    int64_t (*for_each)(struct wb_run *, struct wb_map *, wb_callback, void *callback_ctx, uint64_t flags);
    /* The system call side: values are copied whole; per-CPU values are cpus x round_up(value_size, 8) bytes. */
    int64_t (*read)(struct wb_run *, struct wb_map *, const void *key, void *value, uint64_t flags);
    int64_t (*write)(struct wb_run *, struct wb_map *, const void *key, const void *value, uint64_t flags);
    int64_t (*take)(struct wb_run *, struct wb_map *, const void *key, void *value); /* lookup and delete */
    int64_t (*next_key)(struct wb_run *, struct wb_map *, const void *key, void *next); /* key NULL = first */
    /* Life. `size` gives the bytes that a new segment needs (0 and *error on bad attributes, as the kernel refuses
     * them); `format` fills a zeroed segment whose wb_segment is set but for magic; `open` sets the process-local
     * fields of wb_map after the segment was mapped and validated against hostile content. */
    uint64_t (*size)(const struct wb_segment *, int64_t *error);
    int64_t (*format)(struct wb_segment *);
    int64_t (*open)(struct wb_map *);
};

/* A map as this process sees it; programs hold pointers to it. Offsets are part of the contract with the JIT. */
struct wb_map {
    uint32_t type, key_size;            /*  0  4 */
    uint32_t value_size, max_entries;   /*  8 12 */
    uint32_t flags, id;                 /* 16 20 */
    uint8_t *segment;                   /* 24  mapped wb_segment */
    uint64_t length;                    /* 32 */
    uint8_t *values;                    /* 40  arrays: element 0 (per-CPU arrays: slot 0 of element 0) */
    uint32_t stride;                    /* 48  arrays: bytes from an element to the next */
    uint32_t cpu_stride;                /* 52  per-CPU maps: bytes from a CPU's slot to the next */
    uint32_t cpus, mask;                /* 56 60  per-CPU slots; arrays: index mask */
    const struct wb_map_ops *ops;       /* 64 */
    struct wb_space *space;             /* 72 */
    void *local;                        /* 80  the type's own process-local state (inner maps, programs, mappings) */
    uint64_t reserved[5];               /* 88 */
};

/* A loaded program in this process. `entry` is swapped when a better tier is ready. */
struct wb_program {
    wb_entry entry;         /*  0 */
    struct wb_map **maps;   /*  8  by the map index in the code */
    uint32_t type, id;      /* 16 20 */
    uint64_t budget;        /* 24  back-edges and loop iterations allowed in one run */
};

/* What an attachment tells the program about itself. */
struct wb_link {
    struct wb_program *program; /*  0 */
    uint64_t cookie;            /*  8  get_attach_cookie */
    uint64_t function;          /* 16  get_func_ip */
    uint32_t kind, id;          /* 24 28  WB_LINK_* of the attach room */
    uint64_t hits, missed;      /* 32 40  missed: the thread was busy in another program */
};

/* One thread that runs programs. Offsets are part of the contract with the JIT and the trampolines. */
struct wb_run {
    struct wb_map **maps;         /*   0  of the running program */
    const wb_helper *helpers;     /*   8  WB_HELPERS entries */
    uint64_t budget;              /*  16  what is left of the running program's budget */
    struct wb_participant *self;  /*  24  NULL outside a namespace */
    void *ctx;                    /*  32  of the running program */
    const struct wb_link *link;   /*  40  NULL for a test run */
    uint32_t owner, cpu;          /*  48 52  participant number; leased slot of per-CPU maps */
    uint32_t busy, tail_calls;    /*  56 60  1 while a program runs on this thread */
    uint32_t stopped, flags;      /*  64 68  WB_STOP_*: why the run was cut short */
    struct wb_space *space;       /*  72 */
    uint64_t random[2];           /*  80  state of get_prandom_u32 */
    uint64_t changed;             /*  96  override_return / set_retval: the value */
    uint32_t overridden, mapped;  /* 104 108  1 = `changed` replaces the result */
    uint64_t registers[6];        /* 112  scratch of the trampolines */
    void *frame;                  /* 160  struct pt_regs image of the probed code, for stacks; NULL = none */
    uint8_t *scratch;             /* 168  WB_SCRATCH bytes of this thread, for helpers and maps; NULL = none */
    uint64_t reserved[3];         /* 176  robust list of a thread without a C library (space.c) */
    struct wb_program *program;   /* 200  the running program (after a tail call: the target) */
    uint64_t stack;               /* 208  stack pointer when the running program began */
    uint64_t signals[2];          /* 216  to be sent when the program ends, to process and thread: bit = number - 1 */
    uint64_t checked;             /* 232  1 = the cache of readable pages was looked at in this run (safe_read.c) */
    uint64_t reserved2;           /* 240  the timer that this run serves (timer.c) */
    uint64_t next;                /* 248  the agent: another run of this process */
};                                /* 256 */
#define WB_SCRATCH 65536
#define WB_SCRATCH_THREAD 16384 /* the last bytes of it: struct wb_thread (thread.h); zero at first */
#define WB_STOP_BUDGET 1

extern const wb_helper wb_helpers[WB_HELPERS];
const struct wb_map_ops *wb_map_ops(uint32_t type); /* NULL = no such type here */

#define WB_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define WB_PEEK(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define WB_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define WB_PUT(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

#endif
