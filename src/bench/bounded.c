/* SPDX-License-Identifier: Apache-2.0 */

/*
 * `thaw bench bounded`: an image that is eight times as large as the memory that thaw may take for
 * it. Installing all of it is compared with the same thaw that has room for everything; faults that
 * miss the memory, with the disk that must be read for them; and an image of 32 times the budget,
 * and guest memory of 2 MiB pages, are served to the end.
 *
 * Memory is warm for both: the pool has been touched before, and what the guest is going to take
 * was free until just now.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "base/units.h"
#include "bench/bench.h"
#include "bench/device_floor.h"
#include "bench/guest.h"
#include "bench/huge_pages.h"
#include "bench/report.h"
#include "bench/room.h"
#include "bench/throttle_image.h"
#include "bench/tier_server.h"
#include "bench/vm.h"

#define SIZE_DEFAULT (512 * MIB)
#define SIZE_MIN     (64 * MIB)
#define SIZE_UNIT    (16 * MIB) /* of 2 MiB pages, and its eighth as well */
#define SIZE_MOST    (4 * GIB)
#define BUDGET_PART  8           /* of the image that fits into memory */
#define LARGE_TIMES  UINT64_C(4) /* the image that the large one has the size of */
#define DISK_BYTES   MIB
#define SERVED_BY    2 /* VMs: one that fills the disk tier, one that is measured */

static const struct {
    const char *name;
    unsigned depth;
} random_rows[] = {
    {"random, 16 at a time", 16},
    {"random, 1 at a time", 1},
};

static const struct report_ratio ratios[] = {
    {"sequential_over_unbounded", "wall_s", 1.2, false, "sequential", NULL},
    {"random_over_device", "us_per_miss", 1.3, false, "random, 16", NULL},
    {"random_over_device_alone", "us_per_miss", REPORT_NO_BAR, false, "random, 1 ", NULL},
    {"refill_cpu_over_device", "cpu_us_per_page", REPORT_NO_BAR, false, "random, 16", NULL},
    {"large_completes", "complete", 1, true, "large", ""},
    {"huge_completes", "complete", 1, true, "2 MiB", ""},
};

struct image_at {
    char store[200], build[THAW_BUILD_ID_BYTES];
    uint64_t bytes;
};

struct bounded {
    const struct bench_options *options;
    struct bench_report *report;
    uint64_t budget_bytes;
    struct image_at image;
    char socket_path[100], folder[200];
};

static struct tier_job job_of(const struct bounded *b, const struct image_at *image)
{
    return (struct tier_job){
        .store = image->store,
        .build = image->build,
        .socket_path = b->socket_path,
        .folder = b->folder,
        .budget_bytes = b->budget_bytes,
        .vms = 1,
    };
}

static int make_image(const struct bounded *b, const char *name, uint64_t bytes,
                      struct image_at *ret, struct thaw_error *e)
{
    ret->bytes = bytes;
    snprintf(ret->store, sizeof(ret->store), "%s/%s", b->options->scratch, name);
    return throttle_image_create(b->options->scratch, ret->store, bytes, DISK_BYTES, ret->build, e);
}

/* Faults that somebody had to read something for. */
static uint64_t missed(const struct tier_stats *s)
{
    return s->memory.faults.disk + s->memory.faults.store;
}

static uint64_t bytes_read(const struct tier_stats *s)
{
    return s->fetch.read_bytes + s->fetch.disk_bytes;
}

/* --- sequential --- */

static int populate(struct tier_server *s, struct bench_vm *vm, struct thaw_error *e)
{
    uint64_t ns = 0;
    int r = tier_server_ask(s, TIER_POPULATED, e);

    return r < 0 ? r : guest_reads(vm, GUEST_ALL_PAGES, 2, s->control, &ns, e);
}

/* One server, from an empty disk tier: *@ret until everything is installed, and has been compared.
 */
static int measure_populate(const struct bounded *b, const struct tier_job *job, uint64_t bytes,
                            bool huge, struct tier_stats *ret, struct thaw_error *e)
{
    struct tier_server s;
    struct bench_vm vm = {.uffd = -1, .sock = -1};
    uint64_t idle_ns = 0;
    int r;

    room_empty(b->folder);
    r = tier_server_start(job, &s, e);
    if (r < 0)
        return r;
    r = tier_server_ask(&s, TIER_NOW, e);
    if (r == 0)
        idle_ns = s.stats->cpu_ns;
    if (!huge)
        bench_warm_memory(bytes);
    if (r == 0)
        r = huge ? bench_vm_start_huge(&vm, job->socket_path, bytes, e)
                 : bench_vm_start(&vm, job->socket_path, bytes, e);
    if (r == 0)
        r = populate(&s, &vm, e);
    if (r == 0) {
        *ret = *s.stats;
        ret->cpu_ns -= idle_ns;
    }
    bench_vm_finish(&vm);
    tier_server_kill(&s);
    return r;
}

static double seconds(const struct memory_status *m)
{
    return (double)(m->populated_ns - m->connected_ns) / (double)NS_PER_SEC;
}

static int sequential(const struct bounded *b, enum contender who, bool count, struct thaw_error *e)
{
    struct tier_job job = job_of(b, &b->image);
    struct tier_stats stats = {0};
    int r;

    job.populate = true;
    if (who == FLOOR)
        job.budget_bytes = b->image.bytes + b->image.bytes / 4;
    r = measure_populate(b, &job, b->image.bytes, false, &stats, e);
    if (r < 0 || !count)
        return r;
    report_add(b->report, "sequential", "wall_s", who, seconds(&stats.memory));
    report_add(b->report, "sequential", "cpu_us_per_page", who,
               (double)stats.cpu_ns / 1e3 / ((double)b->image.bytes / (double)PAGE_BYTES));
    report_add(b->report, "sequential", "fetched_over_image", who,
               (double)bytes_read(&stats) / (double)b->image.bytes);
    return 0;
}

/* --- random --- */

static void add_random(const struct bounded *b, const char *row, uint64_t ns,
                       const struct tier_stats *before, const struct tier_stats *after)
{
    double misses = (double)MAX(missed(after) - missed(before), 1);
    double read = (double)(bytes_read(after) - bytes_read(before));
    double disk = (double)(after->fetch.disk_bytes - before->fetch.disk_bytes);
    double cpu_us = (double)(after->cpu_ns - before->cpu_ns) / 1e3;

    report_add(b->report, row, "us_per_miss", THAW, (double)ns / 1e3 / misses);
    report_add(b->report, row, "cpu_us_per_page", THAW, cpu_us / (read / (double)PAGE_BYTES));
    report_add(b->report, row, "missed", THAW,
               misses / ((double)b->image.bytes / (double)GRANULE_BYTES));
    report_add(b->report, row, "read_over_missed", THAW, read / (misses * (double)GRANULE_BYTES));
    report_add(b->report, row, "from_disk", THAW, disk / read);
}

/* By a VM of its own, after another one has had everything. */
static int read_at_random(const struct bounded *b, struct tier_server *s, size_t row, bool count,
                          struct thaw_error *e)
{
    struct tier_stats before;
    struct bench_vm vm;
    uint64_t ns = 0;
    int r = tier_server_ask(s, TIER_RESTED, e);

    if (r < 0)
        return r;
    before = *s->stats;
    bench_warm_memory(b->image.bytes / 4);
    r = bench_vm_start(&vm, b->socket_path, b->image.bytes, e);
    if (r == 0)
        r = guest_reads(&vm, GUEST_RANDOM_GRANULES, random_rows[row].depth, s->control, &ns, e);
    if (r == 0)
        r = tier_server_ask(s, TIER_NOW, e);
    bench_vm_finish(&vm);
    if (r < 0 || !count)
        return r;
    add_random(b, random_rows[row].name, ns, &before, s->stats);
    return 0;
}

static int random_thaw(const struct bounded *b, size_t row, bool count, struct thaw_error *e)
{
    struct tier_job job = job_of(b, &b->image);
    struct tier_server s;
    struct bench_vm first = {.uffd = -1, .sock = -1};
    uint64_t ns = 0;
    int r;

    job.vms = SERVED_BY;
    r = tier_server_start(&job, &s, e);
    if (r < 0)
        return r;
    r = bench_vm_start(&first, b->socket_path, b->image.bytes, e);
    if (r == 0)
        r = guest_reads(&first, GUEST_ALL_PAGES, 1, s.control, &ns, e);
    bench_vm_finish(&first);
    if (r == 0)
        r = read_at_random(b, &s, row, count, e);
    tier_server_kill(&s);
    return r;
}

/* The one that thaw has just read from: what is elsewhere on a disk may be faster or slower. */
static int find_tier_file(const struct bounded *b, char *ret_path, size_t size,
                          struct thaw_error *e)
{
    char pattern[300];
    glob_t found;
    int r;

    snprintf(pattern, sizeof(pattern), "%s/tier/%s.*.data", b->folder, b->image.build);
    r = glob(pattern, 0, NULL, &found);
    if (r == 0)
        snprintf(ret_path, size, "%s", found.gl_pathv[0]);
    globfree(&found);
    return r == 0 ? 0 : err_set(e, -ENOENT, "nothing is in the disk tier: %s", pattern);
}

/* Granules that are not in it are holes, which are read faster than any disk. */
static void note_holes(const struct bounded *b)
{
    struct stat st;
    char path[400];

    if (find_tier_file(b, path, sizeof(path), NULL) < 0 || stat(path, &st) < 0)
        return;
    if ((uint64_t)st.st_blocks * 512 < b->image.bytes)
        report_note(b->report,
                    "random: the disk tier has %llu MiB of %llu, so the floor is too low",
                    (unsigned long long)((uint64_t)st.st_blocks * 512 / MIB),
                    (unsigned long long)(b->image.bytes / MIB));
}

static int random_device(const struct bounded *b, size_t row, bool count, struct thaw_error *e)
{
    struct device_time t = {0};
    uint64_t pages;
    char path[400];
    int r = find_tier_file(b, path, sizeof(path), e);

    if (r == 0)
        r = device_floor(path, random_rows[row].depth, b->budget_bytes, &t, e);
    if (r < 0 || !count)
        return r;
    pages = t.reads * (GRANULE_BYTES / PAGE_BYTES);
    report_add(b->report, random_rows[row].name, "us_per_miss", FLOOR,
               (double)t.wall_ns / 1e3 / (double)t.reads);
    report_add(b->report, random_rows[row].name, "cpu_us_per_page", FLOOR,
               (double)t.cpu_ns / 1e3 / (double)pages);
    return 0;
}

/* --- to the end --- */

static int complete(const struct bounded *b, const char *row, const struct image_at *image,
                    bool huge, struct thaw_error *e)
{
    struct tier_job job = job_of(b, image);
    struct tier_stats stats = {0};
    int r;

    job.populate = true;
    r = measure_populate(b, &job, image->bytes, huge, &stats, e);
    if (r < 0)
        return r;
    report_add(b->report, row, "complete", THAW, 1);
    report_add(b->report, row, "wall_s", THAW, seconds(&stats.memory));
    report_add(b->report, row, "fetched_over_image", THAW,
               (double)bytes_read(&stats) / (double)image->bytes);
    return 0;
}

static int large(const struct bounded *b, struct thaw_error *e)
{
    struct image_at image;
    int r = make_image(b, "large", b->image.bytes * LARGE_TIMES, &image, e);

    if (r == 0)
        r = complete(b, "large", &image, false, e);
    room_empty(image.store);
    room_empty(b->folder);
    return r;
}

static int huge(const struct bounded *b, struct thaw_error *e)
{
    struct thaw_error why = THAW_ERROR_INIT;
    int pages CLEANUP_FD = huge_pages_open(b->image.bytes / (2 * MIB), &why);

    if (pages < 0) {
        report_note(b->report, "2 MiB pages: skipped: %s", why.text);
        return 0;
    }
    return complete(b, "2 MiB pages", &b->image, true, e);
}

/* --- all of it --- */

static int run_round(const struct bounded *b, unsigned round, struct thaw_error *e)
{
    bool count = round > 0;
    /* Who comes second finds other memory and another disk than who came first. */
    enum contender first = round % 2 ? THAW : FLOOR;
    int r = sequential(b, first, count, e);

    if (r == 0)
        r = sequential(b, first == THAW ? FLOOR : THAW, count, e);
    for (size_t row = 0; row < ARRAY_SIZE(random_rows) && r == 0; row++) {
        r = random_thaw(b, row, count, e);
        if (r == 0)
            r = random_device(b, row, count, e);
    }
    return r;
}

static int measure(struct bounded *b, struct thaw_error *e)
{
    int r = make_image(b, "store", b->image.bytes, &b->image, e);

    /* A round before the first warms memory and disk, and is not counted. */
    for (unsigned round = b->options->rounds > 1 ? 0 : 1; round <= b->options->rounds && r == 0;
         round++)
        r = run_round(b, round, e);
    note_holes(b);
    if (r == 0)
        r = huge(b, e);
    return r < 0 ? r : large(b, e);
}

static int check_size(uint64_t bytes, struct thaw_error *e)
{
    char least[SIZE_TEXT_BYTES], unit[SIZE_TEXT_BYTES];

    if (bytes >= SIZE_MIN && bytes <= SIZE_MOST && bytes % SIZE_UNIT == 0)
        return 0;
    return err_set(e, -EINVAL, "--size must be at least %s, at most 4 GiB, and a multiple of %s",
                   size_format(SIZE_MIN, least), size_format(SIZE_UNIT, unit));
}

static int bounded_run(const struct bench_options *o, struct bench_report *report,
                       struct thaw_error *e)
{
    struct bounded b = {.options = o, .report = report};
    uint64_t bytes = o->size_bytes ? o->size_bytes : SIZE_DEFAULT;
    int r = check_size(bytes, e);

    /* The guest and a pool for all of it, or the large guest; both images, their raw files, tiers.
     */
    if (r == 0)
        r = room_check(o->scratch, bytes * (LARGE_TIMES + 1), bytes * (3 * LARGE_TIMES), e);
    if (r < 0)
        return r;
    b.image.bytes = bytes;
    b.budget_bytes = bytes / BUDGET_PART;
    snprintf(b.socket_path, sizeof(b.socket_path), "%s/s", o->scratch);
    snprintf(b.folder, sizeof(b.folder), "%s/tier", o->scratch);
    if (mkdir(b.folder, 0700) < 0)
        return err_errno(e, -errno, "making %s", b.folder);
    report->ratios = ratios;
    report->ratio_count = ARRAY_SIZE(ratios);
    report_fact(report, "image_mib", (double)bytes / (double)MIB);
    report_fact(report, "budget_mib", (double)b.budget_bytes / (double)MIB);
    return measure(&b, e);
}

const struct bench bench_bounded = {
    .name = "bounded",
    .about = "an image that is larger than the memory for it",
    .run = bounded_run,
    .sized = true,
};
