/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "base/units.h"
#include "observe/metrics.h"

/*
 * What counting costs the thread that does it, while two threads count the same things: beside the
 * floor of reading the clock, which whoever measures a duration pays as well, and beside one
 * counter that the threads share. The contenders take turns; the table shows the median of the
 * rounds and their spread.
 *
 *   bench-metrics-record [--json]
 */

#define OPERATIONS 2000000
#define DURATIONS  4096
#define ROUNDS     7

struct contender {
    const char *name;
    void (*run)(void);
    double ns[ROUNDS]; /* per operation */
};

static double durations[DURATIONS]; /* 2 us to 2 s, in ms */
static _Atomic uint64_t shared;
static _Atomic bool stop;

static void read_clock(void)
{
    uint64_t last = 0;

    for (unsigned i = 0; i < OPERATIONS; i++)
        last |= clock_now_ns();
    if (last == 0)
        abort();
}

static void add_to_shared(void)
{
    for (unsigned i = 0; i < OPERATIONS; i++)
        atomic_fetch_add_explicit(&shared, 1, memory_order_relaxed);
}

static void add_to_counter(void)
{
    for (unsigned i = 0; i < OPERATIONS; i++)
        metric_nbd_requests_add(1, METRIC_NBD_READ, METRIC_SUCCESS);
}

static void record_in_histogram(void)
{
    for (unsigned i = 0; i < OPERATIONS; i++)
        metric_fault_service_record(durations[i % DURATIONS], METRIC_FROM_RAM);
}

static struct contender contenders[] = {
    {.name = "clock", .run = read_clock},
    {.name = "shared atomic", .run = add_to_shared},
    {.name = "counter", .run = add_to_counter},
    {.name = "histogram", .run = record_in_histogram},
};

/* Does what is measured, on another thread. */
static void *keep_running(void *arg)
{
    const struct contender *c = arg;

    while (!atomic_load(&stop))
        c->run();
    return NULL;
}

static double measure(const struct contender *c)
{
    pthread_t other;
    uint64_t start, end;

    atomic_store(&stop, false);
    if (thread_start(&other, "other", keep_running, (void *)(uintptr_t)c) < 0)
        abort();
    start = clock_now_ns();
    c->run();
    end = clock_now_ns();
    atomic_store(&stop, true);
    thread_join(other);
    return (double)(end - start) / OPERATIONS;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(const struct contender *c)
{
    return c->ns[ROUNDS / 2];
}

static void print_table(void)
{
    printf("%d operations beside another thread's, %d rounds\n", OPERATIONS, ROUNDS);
    printf("%-14s %12s %20s\n", "", "ns/operation", "spread");
    for (size_t i = 0; i < ARRAY_SIZE(contenders); i++)
        printf("%-14s %12.1f %9.1f to %7.1f\n", contenders[i].name, median(&contenders[i]),
               contenders[i].ns[0], contenders[i].ns[ROUNDS - 1]);
    printf("counter_over_clock %.2f\nhistogram_over_clock %.2f\n",
           median(&contenders[2]) / median(&contenders[0]),
           median(&contenders[3]) / median(&contenders[0]));
}

static void print_json(void)
{
    printf("{\"bench\":\"metrics_record\",\"rows\":[");
    for (size_t i = 0; i < ARRAY_SIZE(contenders); i++)
        printf("%s{\"name\":\"%s\",\"ns\":%.2f,\"ns_min\":%.2f,\"ns_max\":%.2f}", i > 0 ? "," : "",
               contenders[i].name, median(&contenders[i]), contenders[i].ns[0],
               contenders[i].ns[ROUNDS - 1]);
    printf("],\"ratios\":{\"counter_over_clock\":%.3f,\"histogram_over_clock\":%.3f},"
           "\"environment\":{\"operations\":%d,\"rounds\":%d}}\n",
           median(&contenders[2]) / median(&contenders[0]),
           median(&contenders[3]) / median(&contenders[0]), OPERATIONS, ROUNDS);
}

int main(int argc, char **argv)
{
    if (argc > 2 || (argc == 2 && strcmp(argv[1], "--json") != 0)) {
        fprintf(stderr, "usage: %s [--json]\n", argv[0]);
        return 2;
    }
    for (unsigned i = 0; i < DURATIONS; i++)
        durations[i] = exp2(-9 + 20 * (double)(i * 2531 % DURATIONS) / DURATIONS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (size_t c = 0; c < ARRAY_SIZE(contenders); c++)
            contenders[c].ns[i] = measure(&contenders[c]);
    }
    for (size_t c = 0; c < ARRAY_SIZE(contenders); c++)
        qsort(contenders[c].ns, ROUNDS, sizeof(double), compare_doubles);
    if (argc == 2)
        print_json();
    else
        print_table();
    return 0;
}
