/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/units.h"
#include "observe/expose.h"
#include "observe/metrics.h"
#include "observe/metrics_server.h"
#include "observe/registry.h"

/*
 * A program with metrics, for test_metrics.py to look at.
 *
 *   metrics_program list              each metric as a line of JSON, as the registry has it
 *   metrics_program encode FORMAT     record the numbers from stdin, print `text` or `protobuf`
 *   metrics_program serve ADDRESS     record a distribution, serve it until SIGTERM; each scrape
 *                                     sees SCRAPE_STEP more NBD reads than the one before it
 */

#define VALUES      10000
#define SCRAPE_STEP 100

static void list_values(const struct metric_attribute *a)
{
    printf("\"%s\": [", a->name);
    for (unsigned i = 0; i < a->count; i++)
        printf("%s\"%s\"", i > 0 ? ", " : "", a->values[i]);
    printf("]");
}

static int list_metrics(void)
{
    static const char *const kinds[] = {
        [METRIC_KIND_COUNTER] = "counter",
        [METRIC_KIND_GAUGE] = "gauge",
        [METRIC_KIND_HISTOGRAM] = "histogram",
    };
    char prometheus[METRIC_PROMETHEUS_NAME_MAX];

    for (unsigned i = 0; i < METRICS; i++) {
        const struct metric *m = &metric_registry[i];

        metric_prometheus_name(m, prometheus);
        printf("{\"name\": \"%s\", \"prometheus\": \"%s\", \"type\": \"%s\", \"unit\": \"%s\", "
               "\"help\": \"%s\", \"attributes\": {",
               m->name, prometheus, kinds[m->kind], m->unit, m->help);
        for (unsigned a = 0; a < METRIC_ATTRIBUTES_MAX && m->attributes[a]; a++) {
            printf("%s", a > 0 ? ", " : "");
            list_values(m->attributes[a]);
        }
        printf("}}\n");
    }
    return 0;
}

static int encode(const char *format)
{
    struct metrics *m CLEANUP_FREE = NULL;
    struct buf body CLEANUP_BUF = {0};
    double v;

    while (scanf("%lf", &v) == 1)
        metric_chunks_store_record(v, METRIC_SUCCESS);
    if (metrics_read(&m) < 0)
        return 1;
    if (strcmp(format, "text") == 0)
        expose_text(m, &body);
    else
        expose_protobuf(m, &body);
    return body.failed || fwrite(body.data, 1, body.len, stdout) != body.len;
}

/* On the thread that reads: what it counts is there the next time. */
static void count_scrape(void *arg, double *values)
{
    (void)arg;
    (void)values;
    metric_nbd_requests_add(SCRAPE_STEP, METRIC_NBD_READ, METRIC_SUCCESS);
}

static int serve(const char *address)
{
    struct metrics_watch scrapes = {.metric = METRIC_cache_bytes, .add = count_scrape};
    struct thaw_error e = THAW_ERROR_INIT;
    struct metrics_server *s;
    sigset_t end;
    int signal_number;

    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    /* 16 octaves, evenly in logarithms; test_metrics.py knows the same formula. */
    for (unsigned i = 0; i < VALUES; i++)
        metric_chunks_store_record(exp2(-8 + 16 * (double)i / (VALUES - 1)), METRIC_SUCCESS);
    metrics_watch(&scrapes);
    if (metrics_server_start(address, &s, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    printf("{\"address\": \"%s\"}\n", metrics_server_address(s));
    fflush(stdout);
    sigwait(&end, &signal_number);
    metrics_server_stop(s);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list_metrics();
    if (argc == 3 && strcmp(argv[1], "encode") == 0)
        return encode(argv[2]);
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2]);
    fprintf(stderr, "usage: %s list | encode FORMAT | serve ADDRESS\n", argv[0]);
    return 2;
}
