/* SPDX-License-Identifier: Apache-2.0 */

/* `thaw bench populate`: a whole image that is in the cache, installed in the background. */
#include <errno.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/bench.h"
#include "bench/image.h"
#include "bench/report.h"
#include "bench/server.h"
#include "bench/vm.h"

#define POPULATE_BYTES (256 * MIB)

static const struct {
    const char *name;
    unsigned layers;
} rows[] = {
    {"one object", 0},
    {"8 layers, runs of 4 KiB", 8},
};

static int measure(const struct bench_image *image, const char *socket_path, const char *row,
                   enum contender who, bool count, struct bench_report *report,
                   struct thaw_error *e)
{
    struct bench_server_result result;
    struct bench_server server;
    struct bench_vm vm;
    int r = who == THAW ? bench_server_thaw(image, true, socket_path, 0, &server, e)
                        : bench_server_floor(image, true, socket_path, 0, &server, e);

    if (r < 0)
        return r;
    bench_warm_memory(POPULATE_BYTES);
    r = bench_vm_start(&vm, socket_path, POPULATE_BYTES, e);
    if (r == 0)
        r = bench_server_populated(&server, &result, e);
    bench_vm_finish(&vm);
    bench_server_finish(&server);
    if (r == 0 && count)
        report_add(report, row, "gib_per_s", who,
                   (double)POPULATE_BYTES / (double)GIB /
                       ((double)result.populate_ns / (double)NS_PER_SEC));
    return r;
}

static int populate_row(const struct bench_options *o, size_t row, struct bench_report *report,
                        struct thaw_error *e)
{
    struct bench_image image;
    char store[200], socket_path[100];
    int r;

    snprintf(store, sizeof(store), "%s/store%zu", o->scratch, row);
    snprintf(socket_path, sizeof(socket_path), "%s/s", o->scratch);
    r = bench_image_create(store, POPULATE_BYTES, rows[row].layers, &image, e);
    if (r < 0)
        return r;
    image.backing = o->backing;
    for (unsigned round = o->rounds > 1 ? 0 : 1; round <= o->rounds && r == 0; round++) {
        r = measure(&image, socket_path, rows[row].name, THAW, round > 0, report, e);
        if (r == 0)
            r = measure(&image, socket_path, rows[row].name, FLOOR, round > 0, report, e);
    }
    bench_image_finish(&image);
    return r;
}

static int populate_run(const struct bench_options *o, struct bench_report *report,
                        struct thaw_error *e)
{
    static const struct report_ratio ratios[] = {
        {"of_floor", "gib_per_s", 0.9, true, ""},
    };
    int r = 0;

    report->ratios = ratios;
    report->ratio_count = ARRAY_SIZE(ratios);
    for (size_t row = 0; row < ARRAY_SIZE(rows) && r == 0; row++)
        r = populate_row(o, row, report, e);
    return r;
}

const struct bench bench_populate = {
    .name = "populate",
    .about = "a whole image installed in the background",
    .backed = true,
    .run = populate_run,
};
