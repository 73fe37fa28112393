/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Counting by a program on the raw tracepoint, which is attached by name and needs no tracefs.
 *
 *     pause = argument `pause`, in jiffies
 *     if pause <= 0: return                  the event comes also when there is nothing to wait for
 *     if the process, in our PID namespace, is not ours: return
 *     totals.pauses += 1, totals.jiffies += pause
 *     the same for {thread, its name}, made when it is new
 *
 * Which argument it is has changed over the years (12 arguments up to Linux 6.12, 8 since), but not
 * that it is the last but one, signed, before an unsigned start time. The kernel's own description
 * of its types says how many there are; where they are of other types, this source stands back.
 *
 * The program holds no memory of this process: its maps and it are gone with their descriptors.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/units.h"
#include "format/btf.h"
#include "kernel/bpf.h"
#include "observe/throttle_internal.h"

struct key {
    uint32_t tid;
    char name[THROTTLE_NAME_BYTES];
};

struct value {
    uint64_t pauses;
    uint64_t jiffies;
};

struct bpf_state {
    int totals, threads; /* owned; maps */
    int program, link;   /* owned */
    uint64_t jiffy_ns;
};

/* Instructions: linux/bpf.h names the codes, Documentation/bpf/standardization has what they do. */

#define INSN(op, dst, src, offset, value)                                                          \
    ((struct bpf_insn){                                                                            \
        .code = (op), .dst_reg = (dst), .src_reg = (src), .off = (offset), .imm = (value)})
#define LOAD(size, dst, src, offset)  INSN(BPF_LDX | BPF_MEM | (size), dst, src, offset, 0)
#define STORE(size, dst, offset, src) INSN(BPF_STX | BPF_MEM | (size), dst, src, offset, 0)
#define STORE_NUMBER(dst, offset, n)  INSN(BPF_ST | BPF_MEM | BPF_DW, dst, 0, offset, n)
#define ADD_TO(dst, offset, src)      INSN(BPF_STX | BPF_ATOMIC | BPF_DW, dst, src, offset, BPF_ADD)
#define COPY(dst, src)                INSN(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
#define SET(dst, n)                   INSN(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, n)
#define ADD(dst, n)                   INSN(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, n)
#define CALL(helper)                  INSN(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
#define JUMP(op, dst, n, skipped)     INSN(BPF_JMP | (op) | BPF_K, dst, 0, skipped, n)
#define EXIT                          INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* Two places each. */
#define SET_WIDE(dst, n)                                                                           \
    INSN(BPF_LD | BPF_IMM | BPF_DW, dst, 0, 0, (int32_t)(uint32_t)(n)),                            \
        INSN(0, 0, 0, 0, (int32_t)(uint32_t)((uint64_t)(n) >> 32))
#define SET_MAP(dst, fd)                                                                           \
    INSN(BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)

/* On the program's stack, below r10. */
#define IDS      (-8)  /* struct bpf_pidns_info: u32 thread, u32 process */
#define KEY      (-32) /* struct key, 20 bytes */
#define FRESH    (-48) /* struct value */
#define INDEX    (-56) /* u32 0: the only place of the totals */
#define RETURN_0 SET(BPF_REG_0, 0), EXIT

/* The program is put together of parts; no jump leads out of its part but by its end. */
struct program {
    struct bpf_insn insns[80];
    size_t count;
};

static void append(struct program *p, const struct bpf_insn *part, size_t count)
{
    assert(count <= ARRAY_SIZE(p->insns) - p->count);
    memcpy(p->insns + p->count, part, count * sizeof(*part));
    p->count += count;
}

/* r6 = the pause, of the event in r1. Goes on if it is one, and of this process. */
static void add_filter(struct program *p, size_t pause_at, const struct stat *ns)
{
    /* As the kernel keeps device numbers inside: 20 bits of minor. */
    uint64_t ns_device = (uint64_t)major(ns->st_dev) << 20 | minor(ns->st_dev);
    const struct bpf_insn part[] = {
        LOAD(BPF_DW, BPF_REG_6, BPF_REG_1, (int16_t)(8 * pause_at)),
        JUMP(BPF_JSGT, BPF_REG_6, 0, 2),
        RETURN_0,

        SET_WIDE(BPF_REG_1, ns_device),
        SET_WIDE(BPF_REG_2, ns->st_ino),
        COPY(BPF_REG_3, BPF_REG_10),
        ADD(BPF_REG_3, IDS),
        SET(BPF_REG_4, sizeof(struct bpf_pidns_info)),
        CALL(BPF_FUNC_get_ns_current_pid_tgid),
        JUMP(BPF_JEQ, BPF_REG_0, 0, 2),
        RETURN_0,
        LOAD(BPF_W, BPF_REG_7, BPF_REG_10, IDS + 4),
        JUMP(BPF_JEQ, BPF_REG_7, getpid(), 2),
        RETURN_0,
    };

    append(p, part, ARRAY_SIZE(part));
}

/* r7 = 1 from here on. */
static void add_totals(struct program *p, int totals)
{
    const struct bpf_insn part[] = {
        SET(BPF_REG_7, 1),
        STORE_NUMBER(BPF_REG_10, INDEX, 0),
        SET_MAP(BPF_REG_1, totals),
        COPY(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, INDEX),
        CALL(BPF_FUNC_map_lookup_elem),
        JUMP(BPF_JEQ, BPF_REG_0, 0, 2),
        ADD_TO(BPF_REG_0, 0, BPF_REG_7),
        ADD_TO(BPF_REG_0, 8, BPF_REG_6),
    };

    append(p, part, ARRAY_SIZE(part));
}

/* The thread, under the name that it has now. Goes on if it is new. */
static void add_known_thread(struct program *p, int threads)
{
    const struct bpf_insn part[] = {
        LOAD(BPF_W, BPF_REG_1, BPF_REG_10, IDS),
        STORE(BPF_W, BPF_REG_10, KEY, BPF_REG_1),
        COPY(BPF_REG_1, BPF_REG_10),
        ADD(BPF_REG_1, KEY + 4),
        SET(BPF_REG_2, THROTTLE_NAME_BYTES),
        CALL(BPF_FUNC_get_current_comm),
        SET_MAP(BPF_REG_1, threads),
        COPY(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, KEY),
        CALL(BPF_FUNC_map_lookup_elem),
        JUMP(BPF_JEQ, BPF_REG_0, 0, 4),
        ADD_TO(BPF_REG_0, 0, BPF_REG_7),
        ADD_TO(BPF_REG_0, 8, BPF_REG_6),
        RETURN_0,
    };

    append(p, part, ARRAY_SIZE(part));
}

/* Its first pause. Nobody else adds this thread at the same time. */
static void add_new_thread(struct program *p, int threads)
{
    const struct bpf_insn part[] = {
        STORE(BPF_DW, BPF_REG_10, FRESH, BPF_REG_7),
        STORE(BPF_DW, BPF_REG_10, FRESH + 8, BPF_REG_6),
        SET_MAP(BPF_REG_1, threads),
        COPY(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, KEY),
        COPY(BPF_REG_3, BPF_REG_10),
        ADD(BPF_REG_3, FRESH),
        SET(BPF_REG_4, BPF_NOEXIST),
        CALL(BPF_FUNC_map_update_elem),
        RETURN_0,
    };

    append(p, part, ARRAY_SIZE(part));
}

static int load_program(const struct bpf_state *s, size_t pause_at, const struct stat *ns)
{
    struct program p = {.count = 0};

    add_filter(&p, pause_at, ns);
    add_totals(&p, s->totals);
    add_known_thread(&p, s->threads);
    add_new_thread(&p, s->threads);
    /* None of these helpers asks for the GPL. */
    return bpf_program_load(p.insns, p.count, "Apache-2.0", NULL, 0);
}

/* Which argument is the pause; the kernel says. */
static int find_pause(size_t *ret, struct thaw_error *e)
{
    struct buf types CLEANUP_BUF = {0};
    struct btf_tracepoint event;
    const struct btf_argument *pause, *start_time;
    int r = file_load(AT_FDCWD, BTF_VMLINUX_PATH, BTF_MAX_BYTES, &types);

    if (r < 0)
        return err_errno(e, r, BTF_VMLINUX_PATH);
    r = btf_tracepoint(types.data, types.len, THROTTLE_EVENT, &event);
    if (r < 0)
        return err_errno(e, r, BTF_VMLINUX_PATH ": tracepoint " THROTTLE_EVENT);
    if (event.count < 2)
        return err_set(e, -EPROTO, "tracepoint " THROTTLE_EVENT " has %zu arguments", event.count);
    pause = &event.args[event.count - 2];
    start_time = &event.args[event.count - 1];
    if (pause->integer_bytes != 8 || !pause->is_signed || start_time->integer_bytes != 8 ||
        start_time->is_signed)
        return err_set(e, -EPROTO, "tracepoint " THROTTLE_EVENT " has other arguments than known");
    *ret = event.count - 2;
    return 0;
}

/* The coarse clock moves once per jiffy. */
static uint64_t jiffy_ns(void)
{
    struct timespec tick = {.tv_nsec = 4 * (long)NS_PER_MS};

    clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
    return (uint64_t)tick.tv_nsec;
}

static void bpf_close(void *state)
{
    struct bpf_state *s = state;

    if (!s)
        return;
    close_fd(&s->link);
    close_fd(&s->program);
    close_fd(&s->threads);
    close_fd(&s->totals);
    free(s);
}
DEFINE_CLEANUP(void, bpf_close);

static int attach(struct bpf_state *s, struct thaw_error *e)
{
    struct stat ns;
    size_t pause_at = 0;
    int r;

    s->totals = bpf_map_create(BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(struct value), 1,
                               "thaw_totals");
    if (s->totals < 0)
        return err_errno(e, s->totals, "a BPF map (needs CAP_BPF)");
    s->threads = bpf_map_create(BPF_MAP_TYPE_HASH, sizeof(struct key), sizeof(struct value),
                                THROTTLE_MAX_THREADS, "thaw_threads");
    if (s->threads < 0)
        return err_errno(e, s->threads, "a BPF map");
    r = find_pause(&pause_at, e);
    if (r < 0)
        return r;
    if (stat("/proc/self/ns/pid", &ns) < 0)
        return err_errno(e, -errno, "/proc/self/ns/pid");
    s->program = load_program(s, pause_at, &ns);
    if (s->program < 0)
        return err_errno(e, s->program, "loading the BPF program (needs CAP_BPF and CAP_PERFMON)");
    s->link = bpf_raw_tracepoint(THROTTLE_EVENT, s->program);
    return s->link < 0 ? err_errno(e, s->link, "attaching to tracepoint " THROTTLE_EVENT) : 0;
}

static int bpf_open(void **ret_state, struct thaw_error *e)
{
    struct bpf_state *s = calloc(1, sizeof(*s));
    void *owned CLEANUP(cleanup_bpf_close) = s;
    int r;

    if (!s)
        return err_set(e, -ENOMEM, "no memory");
    *s = (struct bpf_state){-1, -1, -1, -1, jiffy_ns()};
    r = attach(s, e);
    if (r < 0)
        return r;
    *ret_state = TAKE_PTR(owned);
    return 0;
}

static void bpf_collect(struct throttle *t)
{
    struct bpf_state *s = t->state;
    struct value v = {0};
    struct key key, next;
    const struct key *at = NULL;

    if (bpf_map_lookup(s->totals, &(uint32_t){0}, &v) == 0) {
        t->counts.pauses = v.pauses;
        t->counts.paused_ns = v.jiffies * s->jiffy_ns;
    }
    /* Entries are never removed, so no walk begins anew; the bound is for all that. */
    for (size_t i = 0; i < THROTTLE_MAX_THREADS && bpf_map_next(s->threads, at, &next) == 0; i++) {
        struct throttle_thread *row;

        key = next;
        at = &key;
        if (bpf_map_lookup(s->threads, &key, &v) < 0)
            continue;
        row = throttle_row(t, (pid_t)key.tid, key.name);
        if (row) {
            row->pauses = v.pauses;
            row->paused_ns = v.jiffies * s->jiffy_ns;
        }
    }
}

const struct throttle_source throttle_bpf = {
    .name = "bpf",
    .exact = true,
    .open = bpf_open,
    .collect = bpf_collect,
    .close = bpf_close,
};
