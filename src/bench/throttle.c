/* SPDX-License-Identifier: Apache-2.0 */

/*
 * `thaw bench throttle`: the stall that thaw is there to cure. A guest is resumed while it writes
 * to its disk, and the caches lie on a device that writes a quarter of what the store gives. Who
 * keeps its caches in files dirties pages faster than the device can write them, until the kernel
 * puts it to sleep: the resume then goes at the speed of the device.
 *
 * The floor is the same pipeline, which does everything but keep what it has fetched: what a
 * cache costs is then all that is between it and the others. A bare loop instead would measure as
 * well what thaw's pipeline costs, which is what `fault` and `populate` are for.
 *
 * The store's speed is that of the served resume, not of the disk: bytes of memory over the time
 * that the floor took, measured before the device is made.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "base/units.h"
#include "bench/bench.h"
#include "bench/capped_device.h"
#include "bench/html.h"
#include "bench/report.h"
#include "bench/room.h"
#include "bench/throttle_image.h"
#include "bench/throttle_page.h"
#include "bench/throttle_run.h"
#include "bench/vm.h"

#define SIZE_DEFAULT  (256 * MIB)
#define SIZE_MIN      (16 * MIB)
#define SIZE_UNIT     (4 * MIB)
#define DEVICE_MAX    (4 * GIB)
#define DISK_PART     4 /* of the size of memory that the guest writes to its disk */
#define SPEED_PART    4 /* of the store's speed that the device writes */
#define BUDGET_PART   4 /* of what is fetched and written that the bounded row may keep in memory */
#define PEAK_SLACK    (48 * MIB) /* beside the budget: threads, requests under way, tables */
#define DIRTY_PERCENT 1
#define PROBE_BYTES   (16 * MIB)
#define MIB_OF(bytes) ((double)(bytes) / (double)MIB)
#define MS_OF(ns)     ((double)(ns) / (double)NS_PER_MS)

/* The contenders, in the order in which they take turns. */
static const struct row {
    const char *name;
    int (*serve)(const struct run_job *job, int control, struct thaw_error *e);
    enum cache_backing backing;
    bool keep;
    bool on_device;
    bool bounded;
    unsigned way;
} rows[] = {
    {"floor", run_serve_thaw, CACHE_BACKING_MEMFD, false, false, false, 0},
    {"file", run_serve_thaw, CACHE_BACKING_FILE, true, true, false, 0},
    {"memfd", run_serve_thaw, CACHE_BACKING_MEMFD, true, false, false, 0},
    {"tiered", run_serve_thaw, CACHE_BACKING_TIERED, true, true, true, 0},
    {"sync_file_range", run_serve_minimal, 0, true, true, false, RUN_SYNC_FILE_RANGE},
    {"o_direct", run_serve_minimal, 0, true, true, false, RUN_O_DIRECT},
    {"dontcache", run_serve_minimal, 0, true, true, false, RUN_DONTCACHE},
};

static const struct report_ratio ratios[] = {
    {"file_over_floor", "wall_s", 3, true, "file", "floor"},
    {"memfd_over_floor", "wall_s", 1.15, false, "memfd", "floor"},
    {"tiered_over_floor", "wall_s", 1.15, false, "tiered", "floor"},
    {"file_over_memfd", "wall_s", REPORT_NO_BAR, true, "file", "memfd"},
    {"file_over_tiered", "wall_s", REPORT_NO_BAR, true, "file", "tiered"},
    {"file_throttled_ms", "throttled_ms", 1, true, "file", ""},
    {"memfd_throttled_ms", "throttled_ms", 0, false, "memfd", ""},
    {"tiered_throttled_ms", "throttled_ms", 0, false, "tiered", ""},
    {"tiered_dirty_bytes", "files_dirty_bytes", 0, false, "tiered", ""},
    {"tiered_peak_over_budget", "peak_over_budget", 1.05, false, "tiered", ""},
    {"store_p99_over_p50_file", "store_p99_over_p50", 20, true, "file", ""},
    {"store_p99_over_p50_memfd", "store_p99_over_p50", REPORT_NO_BAR, false, "memfd", ""},
    {"store_p99_over_p50_tiered", "store_p99_over_p50", 5, false, "tiered", ""},
};

struct throttle_bench {
    const struct bench_options *options;
    struct bench_report *report;
    struct run_job job; /* of all rows, what is the same in each */
    struct run_record *record;
    struct capped_device *device;
    struct throttle_page *page; /* NULL: none was asked for */
    bool skip[ARRAY_SIZE(rows)];
    char store[200], build[THAW_BUILD_ID_BYTES], folder[300];
};

/* --- room --- */

static uint64_t device_bytes(const struct run_job *job)
{
    return round_up((job->memory_bytes + job->disk_bytes) * 9 / 8 + 128 * MIB, MIB);
}

/* The guest's memory, the caches; the store, the raw file it is made from, the device's file. */
static int check_room(const struct throttle_bench *b, struct thaw_error *e)
{
    const struct run_job *job = &b->job;
    char need[SIZE_TEXT_BYTES], have[SIZE_TEXT_BYTES];

    if (job->memory_bytes < SIZE_MIN || job->memory_bytes % SIZE_UNIT != 0)
        return err_set(e, -EINVAL, "--size must be at least %s and a multiple of %s",
                       size_format(SIZE_MIN, need), size_format(SIZE_UNIT, have));
    if (job->memory_bytes > DEVICE_MAX || device_bytes(job) > DEVICE_MAX)
        return err_set(e, -EFBIG, "--size is too large: the device for it would have more than %s",
                       size_format(DEVICE_MAX, need));
    return room_check(b->options->scratch, 2 * job->memory_bytes + job->disk_bytes,
                      2 * job->memory_bytes + device_bytes(job), e);
}

/* --- the device --- */

static int open_device(struct throttle_bench *b, uint64_t bytes, uint64_t bytes_per_s,
                       struct thaw_error *e)
{
    bool exact = throttle_probe("bpf", NULL) == 0 || throttle_probe("perf", NULL) == 0;

    return capped_device_open(
        &(struct capped_device_options){
            .scratch = b->options->scratch,
            .size_bytes = bytes,
            .write_bytes_per_s = bytes_per_s,
            .dirty_percent = DIRTY_PERCENT,
            .delay_accounting = !exact,
        },
        &b->device, e);
}

/* Whether this host lets us do all that, with a small device and before anything takes long. */
static int try_device(struct throttle_bench *b, struct thaw_error *e)
{
    int r = open_device(b, PROBE_BYTES, 64 * MIB, e);

    if (r < 0)
        return r;
    r = capped_device_close(TAKE_PTR(b->device));
    return r < 0 ? err_set(e, r, "a device could not be taken apart again") : 0;
}

static bool is_refusal(int r)
{
    return r == -EPERM || r == -EACCES || r == -EOPNOTSUPP || r == -ENOENT || r == -ENXIO ||
           r == -ENODEV;
}

/* --- runs --- */

static uint64_t budget_bytes(const struct run_job *job)
{
    uint64_t all = job->memory_bytes + job->disk_bytes;

    return MAX(round_up(all / BUDGET_PART, MIB), CACHE_BUDGET_MIN);
}

static int run_row(struct throttle_bench *b, const struct row *row, struct thaw_error *e)
{
    struct run_job job = b->job;
    int r;

    job.serve = row->serve;
    job.backing = row->backing;
    job.keep = row->keep;
    job.budget_bytes = row->bounded ? budget_bytes(&job) : 0;
    job.way = row->way;
    job.folder = row->on_device ? b->folder : NULL;
    job.device = b->device ? b->folder : NULL;
    bench_warm_memory(2 * job.memory_bytes + job.disk_bytes);
    r = run_guest(&job, e);
    if (row->on_device)
        room_empty(b->folder);
    return r < 0 ? (err_wrap(e, "row %s", row->name), r) : 0;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The nearest rank; in milliseconds. @sorted has at least one. */
static double percentile(const uint32_t *sorted_us, size_t n, unsigned percent)
{
    size_t rank = (n * percent + 99) / 100;

    return (double)sorted_us[MAX(rank, 1) - 1] / 1e3;
}

static void add_store(struct bench_report *report, const char *row, struct run_record *r)
{
    size_t n = MIN(atomic_load(&r->store_count), RUN_LATENCIES_MAX);
    double p50, p99;

    if (n == 0)
        return;
    qsort(r->store_us, n, sizeof(*r->store_us), by_value);
    p50 = percentile(r->store_us, n, 50);
    p99 = percentile(r->store_us, n, 99);
    report_add(report, row, "store_p50_ms", THAW, p50);
    report_add(report, row, "store_p99_ms", THAW, p99);
    report_add(report, row, "store_max_ms", THAW, percentile(r->store_us, n, 100));
    report_add(report, row, "store_p99_over_p50", THAW, p50 > 0 ? p99 / p50 : 0);
}

static void add_footprint(struct throttle_bench *b, const struct row *row)
{
    const struct run_record *r = b->record;
    double budget = (double)budget_bytes(&b->job), over = (double)r->peak_bytes - PEAK_SLACK;

    report_add(b->report, row->name, "peak_mib", THAW, MIB_OF(r->peak_bytes));
    if (r->files_dirty_error == 0)
        report_add(b->report, row->name, "files_dirty_bytes", THAW, (double)r->files_dirty_bytes);
    if (row->bounded)
        report_add(b->report, row->name, "peak_over_budget", THAW, MAX(over, 0) / budget);
}

static void add_figures(struct throttle_bench *b, const char *row)
{
    struct run_record *r = b->record;
    struct bench_report *report = b->report;
    double wall_s = (double)(r->end_ns - r->begin_ns) / (double)NS_PER_SEC;

    report_add(report, row, "wall_s", THAW, wall_s);
    report_add(report, row, "mib_per_s", THAW, MIB_OF(b->job.memory_bytes) / wall_s);
    report_add(report, row, "cpu_s", THAW, (double)r->cpu_ns / (double)NS_PER_SEC);
    report_add(report, row, "throttled_ms", THAW, MS_OF(r->throttle.paused_ns));
    report_add(report, row, "throttle_pauses", THAW, (double)r->throttle.pauses);
    add_store(report, row, r);
    report_add(report, row, "page_max_ms", THAW, MS_OF(r->touch_max_ns));
    report_add(report, row, "write_max_ms", THAW, MS_OF(r->write_max_ns));
    report_add(report, row, "fetched_mib", THAW, MIB_OF(atomic_load(&r->store_bytes)));
    report_add(report, row, "memory_mib", THAW, MIB_OF(r->pss_bytes));
    report_add(report, row, "dirty_mib", THAW, MIB_OF(r->dirty_bytes));
    report_add(report, row, "writeback_mib", THAW, MIB_OF(r->writeback_bytes));
}

/* Which threads slept; of the last round. */
static void note_threads(struct throttle_bench *b, const char *row)
{
    const struct run_record *r = b->record;
    size_t n = MIN(r->throttle.thread_count, RUN_THREADS_MAX);

    for (size_t i = 0; i < n; i++) {
        const struct throttle_thread *t = &r->threads[i];

        if (t->pauses > 0)
            report_note(b->report, "%s: %s was put to sleep %llu times, %.0f ms", row, t->name,
                        (unsigned long long)t->pauses, MS_OF(t->paused_ns));
    }
}

static int run_round(struct throttle_bench *b, bool last, struct thaw_error *e)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int r = b->skip[i] ? 0 : run_row(b, &rows[i], e);

        if (b->skip[i])
            continue;
        if (r == -EOPNOTSUPP) {
            b->skip[i] = true;
            report_note(b->report, "%s: skipped: %s", rows[i].name, e->text);
            continue;
        }
        if (r < 0)
            return r;
        add_figures(b, rows[i].name);
        add_footprint(b, &rows[i]);
        if (!last)
            continue;
        note_threads(b, rows[i].name);
        if (b->record->files_dirty_error < 0)
            report_note(b->report, "%s: dirty pages of files cannot be told: %s", rows[i].name,
                        strerror(-b->record->files_dirty_error));
        if (b->page)
            throttle_page_lane(b->page, rows[i].name, b->record);
    }
    return 0;
}

/* Once to warm up, once to know how fast the store is to a guest. */
static int measure_store(struct throttle_bench *b, double *ret_bytes_per_s, struct thaw_error *e)
{
    int r = run_row(b, &rows[0], e);

    if (r == 0)
        r = run_row(b, &rows[0], e);
    if (r < 0)
        return r;
    *ret_bytes_per_s = (double)b->job.memory_bytes * (double)NS_PER_SEC /
                       (double)(b->record->end_ns - b->record->begin_ns);
    return 0;
}

static int prepare(struct throttle_bench *b, struct thaw_error *e)
{
    struct run_job *job = &b->job;
    double store_speed = 0;
    int r;

    r = throttle_image_create(b->options->scratch, b->store, job->memory_bytes, job->disk_bytes,
                              b->build, e);
    if (r == 0)
        r = measure_store(b, &store_speed, e);
    if (r < 0)
        return r;
    report_fact(b->report, "memory_mib", MIB_OF(job->memory_bytes));
    report_fact(b->report, "disk_mib", MIB_OF(job->disk_bytes));
    report_fact(b->report, "store_mib_per_s", store_speed / (double)MIB);
    report_fact(b->report, "device_mib_per_s", store_speed / SPEED_PART / (double)MIB);
    report_fact(b->report, "budget_mib", MIB_OF(budget_bytes(job)));
    report_fact_text(b->report, "throttle_source", b->record->throttle.source);
    report_fact_text(b->report, "peak_source", b->record->peak_source);
    r = open_device(b, device_bytes(job), (uint64_t)store_speed / SPEED_PART, e);
    if (r < 0)
        return r;
    snprintf(b->folder, sizeof(b->folder), "%s/caches", capped_device_path(b->device));
    return mkdir(b->folder, 0700) < 0 ? err_errno(e, -errno, "making %s", b->folder) : 0;
}

static int measure(struct throttle_bench *b, struct thaw_error *e)
{
    int r = prepare(b, e);

    for (unsigned round = 1; round <= b->options->rounds && r == 0; round++)
        r = run_round(b, round == b->options->rounds, e);
    return r;
}

static void fill_in(struct throttle_bench *b)
{
    const struct bench_options *o = b->options;
    struct run_job *job = &b->job;

    snprintf(b->store, sizeof(b->store), "%s/store", o->scratch);
    job->store = b->store;
    job->build = b->build;
    job->memory_bytes = o->size_bytes ? o->size_bytes : SIZE_DEFAULT;
    job->disk_bytes = job->memory_bytes / DISK_PART;
    job->record = b->record;
    snprintf(job->memory_socket, sizeof(job->memory_socket), "%s/m", o->scratch);
    snprintf(job->disk_socket, sizeof(job->disk_socket), "%s/d", o->scratch);
}

/* The whole of it, but for what has to be released whatever comes of it. */
static int measure_and_draw(struct throttle_bench *b, struct thaw_error *e)
{
    int r;

    fill_in(b);
    r = check_room(b, e);
    if (r == 0 && b->page)
        r = html_try(b->options->html, e);
    if (r < 0)
        return r;
    r = try_device(b, e);
    if (is_refusal(r)) {
        snprintf(b->report->skipped, sizeof(b->report->skipped), "%.299s", e->text);
        return 0;
    }
    if (r == 0)
        r = measure(b, e);
    if (r == 0 && b->page)
        r = throttle_page_write(b->page, b->report, b->options->html, e);
    return r;
}

static int throttle_run(const struct bench_options *o, struct bench_report *report,
                        struct thaw_error *e)
{
    struct throttle_bench b = {
        .options = o,
        .report = report,
        .record = run_record_create(),
        .page = o->html ? throttle_page_create() : NULL,
    };
    int r, closed;

    report->ratios = ratios;
    report->ratio_count = ARRAY_SIZE(ratios);
    if (!b.record || (o->html && !b.page))
        r = err_set(e, -ENOMEM, "no memory for the samples");
    else
        r = measure_and_draw(&b, e);
    throttle_page_destroy(b.page);
    run_record_destroy(b.record);
    closed = capped_device_close(b.device);
    return r == 0 && closed < 0 ? err_set(e, closed, "the device could not be taken apart") : r;
}

const struct bench bench_throttle = {
    .name = "throttle",
    .about = "the stall of caches in files, and its cure",
    .run = throttle_run,
    .sized = true,
    .draws = true,
};
