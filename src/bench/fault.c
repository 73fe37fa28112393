/* SPDX-License-Identifier: Apache-2.0 */

/* `thaw bench fault`: one page of 4 KiB that is in the cache, from the touch to the next
 * instruction. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/bench.h"
#include "bench/image.h"
#include "bench/report.h"
#include "bench/server.h"
#include "bench/vm.h"

#define FAULT_PAGES UINT64_C(16384)
#define FAULT_BYTES (FAULT_PAGES * PAGE_BYTES)

static const struct {
    const char *name;
    unsigned threads;
    int client_cpu;
} rows[] = {
    {"1 thread, same processor", 1, 0},
    {"1 thread, another processor", 1, 1},
    {"4 threads, same processor", 4, 0},
    {"4 threads, another processor", 4, 1},
};

static int by_ns(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static double percentile_us(const uint32_t *sorted_ns, size_t percent)
{
    size_t rank = FAULT_PAGES * percent / 100;

    return (double)sorted_ns[rank] / 1e3;
}

static int measure(const struct bench_image *image, const char *socket_path, size_t row,
                   enum contender who, bool count, struct bench_report *report,
                   struct thaw_error *e)
{
    uint32_t *ns CLEANUP_FREE = calloc(FAULT_PAGES, sizeof(*ns));
    const double pages = FAULT_PAGES;
    struct bench_server server;
    struct bench_vm vm;
    uint64_t cpu_ns;
    int r;

    if (!ns)
        return err_set(e, -ENOMEM, "no memory for the samples");
    r = who == THAW ? bench_server_thaw(image, false, socket_path, 0, &server, e)
                    : bench_server_floor(image, false, socket_path, 0, &server, e);
    if (r < 0)
        return r;
    bench_warm_memory(FAULT_BYTES);
    r = bench_vm_start(&vm, socket_path, FAULT_BYTES, e);
    cpu_ns = bench_server_cpu_ns(&server);
    if (r == 0)
        r = bench_vm_touch(&vm, rows[row].threads, rows[row].client_cpu, ns);
    cpu_ns = bench_server_cpu_ns(&server) - cpu_ns;
    bench_vm_finish(&vm);
    bench_server_finish(&server);
    if (r < 0 || !count)
        return r;
    qsort(ns, FAULT_PAGES, sizeof(*ns), by_ns);
    report_add(report, rows[row].name, "p50_us", who, percentile_us(ns, 50));
    report_add(report, rows[row].name, "p99_us", who, percentile_us(ns, 99));
    report_add(report, rows[row].name, "cpu_us", who, (double)cpu_ns / pages / 1e3);
    return 0;
}

static int fault_run(const struct bench_options *o, struct bench_report *report,
                     struct thaw_error *e)
{
    static const struct report_ratio ratios[] = {
        {"cpu_over_floor", "cpu_us", 1.3, false, ""},
        {"p50_over_floor", "p50_us", 1.3, false, ""},
        {"p99_over_floor", "p99_us", 1.6, false, ""},
    };
    struct bench_image image;
    char store[200], socket_path[100];
    int r;

    snprintf(store, sizeof(store), "%s/store", o->scratch);
    snprintf(socket_path, sizeof(socket_path), "%s/s", o->scratch);
    r = bench_image_create(store, FAULT_BYTES, 0, &image, e);
    if (r < 0)
        return r;
    image.backing = o->backing;
    report->ratios = ratios;
    report->ratio_count = ARRAY_SIZE(ratios);
    /* A round before the first warms memory and processors, and is not counted. */
    for (unsigned round = o->rounds > 1 ? 0 : 1; round <= o->rounds && r == 0; round++) {
        for (size_t row = 0; row < ARRAY_SIZE(rows) && r == 0; row++) {
            r = measure(&image, socket_path, row, THAW, round > 0, report, e);
            if (r == 0)
                r = measure(&image, socket_path, row, FLOOR, round > 0, report, e);
        }
    }
    bench_image_finish(&image);
    return r;
}

const struct bench bench_fault = {
    .name = "fault",
    .about = "a page fault on memory that is in the cache",
    .backed = true,
    .run = fault_run,
};
