/* SPDX-License-Identifier: Apache-2.0 */

/*
 * `thaw bench restart`: what a thaw that was killed has left in its cache folder is worth to the
 * next one. A guest reads all of its memory; when all of it has been written to the disk tier the
 * server is killed, and another one serves the same to another guest.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "base/units.h"
#include "bench/bench.h"
#include "bench/guest.h"
#include "bench/report.h"
#include "bench/room.h"
#include "bench/throttle_image.h"
#include "bench/tier_server.h"
#include "bench/vm.h"

#define SIZE_DEFAULT (256 * MIB)
#define SIZE_MIN     (16 * MIB)
#define SIZE_MOST    (4 * GIB)
#define DISK_BYTES   MIB
#define READERS      4

static const struct report_ratio ratios[] = {
    {"from_disk", "from_disk", 0.95, true, "warm", ""},
    {"warm_over_cold", "wall_s", REPORT_NO_BAR, false, "warm", "cold"},
    {"store_mib_warm", "store_mib", REPORT_NO_BAR, false, "warm", ""},
};

struct restart {
    const struct bench_options *options;
    struct bench_report *report;
    uint64_t bytes;
    char store[200], build[THAW_BUILD_ID_BYTES];
    char socket_path[100], folder[200];
};

static void add(const struct restart *b, const char *row, uint64_t ns, const struct tier_stats *s)
{
    double store = (double)s->fetch.read_bytes, disk = (double)s->fetch.disk_bytes;

    report_add(b->report, row, "wall_s", THAW, (double)ns / (double)NS_PER_SEC);
    report_add(b->report, row, "from_disk", THAW, disk + store > 0 ? disk / (disk + store) : 0);
    report_add(b->report, row, "store_mib", THAW, store / (double)MIB);
    report_add(b->report, row, "not_written", THAW, (double)s->fetch.not_written);
    report_add(b->report, row, "cpu_s", THAW, (double)s->cpu_ns / (double)NS_PER_SEC);
}

/* A guest reads everything and compares it; then the server waits until it is all on the disk. */
static int read_all(const struct restart *b, const char *row, struct tier_server *s, bool count,
                    struct thaw_error *e)
{
    struct bench_vm vm = {.uffd = -1, .sock = -1};
    uint64_t idle_ns, ns = 0;
    int r = tier_server_ask(s, TIER_NOW, e);

    if (r < 0)
        return r;
    idle_ns = s->stats->cpu_ns;
    bench_warm_memory(b->bytes);
    r = bench_vm_start(&vm, b->socket_path, b->bytes, e);
    if (r == 0)
        r = guest_reads(&vm, GUEST_ALL_PAGES, READERS, s->control, &ns, e);
    if (r == 0)
        r = tier_server_ask(s, TIER_RESTED, e);
    if (r == 0 && !s->stats->writable)
        r = err_set(e, -EROFS, "the disk tier in %s cannot be written", b->folder);
    bench_vm_finish(&vm);
    if (r < 0 || !count)
        return r;
    s->stats->cpu_ns -= idle_ns;
    add(b, row, ns, s->stats);
    return 0;
}

static int serve(const struct restart *b, const char *row, bool count, struct thaw_error *e)
{
    struct tier_job job = {
        .store = b->store,
        .build = b->build,
        .socket_path = b->socket_path,
        .folder = b->folder,
        .budget_bytes = 2 * b->bytes,
        .vms = 1,
    };
    struct tier_server s;
    int r = tier_server_start(&job, &s, e);

    if (r < 0)
        return r;
    r = read_all(b, row, &s, count, e);
    tier_server_kill(&s);
    return r;
}

static int run_round(const struct restart *b, bool count, struct thaw_error *e)
{
    int r;

    room_empty(b->folder);
    r = serve(b, "cold", count, e);
    return r < 0 ? r : serve(b, "warm", count, e);
}

static int measure(struct restart *b, struct thaw_error *e)
{
    const struct bench_options *o = b->options;
    int r = throttle_image_create(o->scratch, b->store, b->bytes, DISK_BYTES, b->build, e);

    /* A round before the first warms memory and disk, and is not counted. */
    for (unsigned round = o->rounds > 1 ? 0 : 1; round <= o->rounds && r == 0; round++)
        r = run_round(b, round > 0, e);
    return r;
}

static int restart_run(const struct bench_options *o, struct bench_report *report,
                       struct thaw_error *e)
{
    struct restart b = {
        .options = o,
        .report = report,
        .bytes = o->size_bytes ? o->size_bytes : SIZE_DEFAULT,
    };
    char least[SIZE_TEXT_BYTES], most[SIZE_TEXT_BYTES];
    int r;

    if (b.bytes < SIZE_MIN || b.bytes > SIZE_MOST || b.bytes % MIB != 0)
        return err_set(e, -EINVAL, "--size must be whole MiB, at least %s and at most %s",
                       size_format(SIZE_MIN, least), size_format(SIZE_MOST, most));
    r = room_check(o->scratch, 3 * b.bytes, 3 * b.bytes, e);
    if (r < 0)
        return r;
    snprintf(b.store, sizeof(b.store), "%s/store", o->scratch);
    snprintf(b.socket_path, sizeof(b.socket_path), "%s/s", o->scratch);
    snprintf(b.folder, sizeof(b.folder), "%s/tier", o->scratch);
    if (mkdir(b.folder, 0700) < 0)
        return err_errno(e, -errno, "making %s", b.folder);
    report->ratios = ratios;
    report->ratio_count = ARRAY_SIZE(ratios);
    report_fact(report, "image_mib", (double)b.bytes / (double)MIB);
    return measure(&b, e);
}

const struct bench bench_restart = {
    .name = "restart",
    .about = "what a thaw that was killed has left for the next one",
    .run = restart_run,
    .sized = true,
};
