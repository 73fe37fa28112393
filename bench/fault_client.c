/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Measures how long a touch of absent guest memory takes, from the load to the next instruction:
 * hands memory over like a VMM (vmm_client.h), then threads touch every listed page once, by one
 * load, in random order. Prints one JSON object. Run against thaw and against minimal_handler in
 * turns, on the same image, the two give what thaw adds to the bare kernel.
 *
 * The first word of each page is compared with the image after the clock has stopped.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "client_util.h"
#include "vmm_client.h"

#define THREADS_MAX 64

struct options {
    const char *socket, *image;
    uint64_t threads, pages, seed, page_bytes, deadline_seconds;
};

struct bench {
    struct options opt;
    struct image image;
    struct vmm_client vmm;
    uint32_t *order;  /* owned */
    uint32_t *ns;     /* owned: of the touch of order[i] */
    uint64_t *values; /* owned: what it read */
    uint64_t n_pages;
    pthread_barrier_t start;
};

struct toucher {
    struct bench *bench;
    pthread_t thread;
    uint64_t from, to; /* its part of the order */
};

static void *toucher_main(void *arg)
{
    struct toucher *t = arg;
    struct bench *b = t->bench;

    pthread_barrier_wait(&b->start);
    for (uint64_t i = t->from; i < t->to; i++) {
        const char *host = vmm_client_host(&b->vmm, b->order[i] * b->opt.page_bytes);
        uint64_t from_ns = clock_now_ns();

        b->values[i] = *(const volatile uint64_t *)(const void *)host;
        b->ns[i] = util_elapsed_ns(from_ns);
    }
    return NULL;
}

/* CPU time of the whole server process so far, or 0 if it cannot be had. */
static uint64_t server_cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec ts;

    if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
        return 0;
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static int check_values(const struct bench *b)
{
    for (uint64_t i = 0; i < b->n_pages; i++) {
        uint64_t offset = b->order[i] * b->opt.page_bytes, expected;

        memcpy(&expected, b->image.data + offset, sizeof(expected));
        if (b->values[i] == expected)
            continue;
        fprintf(stderr,
                "fault_client: wrong word: page %" PRIu32 ", image offset 0x%" PRIx64
                ": expected %016" PRIx64 ", got %016" PRIx64 "\n",
                b->order[i], offset, expected, b->values[i]);
        return EXIT_WRONG;
    }
    return EXIT_OK;
}

/* An exit code; a thread that never comes back is the end of the process. */
static int join_all(struct toucher *touchers, uint64_t n, uint64_t deadline_seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)deadline_seconds;
    for (uint64_t i = 0; i < n; i++)
        if (pthread_timedjoin_np(touchers[i].thread, NULL, &until) != 0) {
            fprintf(stderr, "fault_client: thread %" PRIu64 " is not done after %" PRIu64 " s\n", i,
                    deadline_seconds);
            _exit(EXIT_HANG);
        }
    return EXIT_OK;
}

static int measure(struct bench *b)
{
    static struct toucher touchers[THREADS_MAX];
    uint64_t n = b->opt.threads, from_ns, cpu_ns, elapsed_ns;
    int pid = vmm_client_server_pid(&b->vmm), r;
    double seconds;

    pthread_barrier_init(&b->start, NULL, (unsigned)n + 1);
    for (uint64_t i = 0; i < n; i++) {
        touchers[i].bench = b;
        touchers[i].from = b->n_pages * i / n;
        touchers[i].to = b->n_pages * (i + 1) / n;
        r = pthread_create(&touchers[i].thread, NULL, toucher_main, &touchers[i]);
        if (r != 0) {
            fprintf(stderr, "fault_client: starting a thread: %s\n", strerror(r));
            _exit(EXIT_WRONG);
        }
    }
    cpu_ns = server_cpu_ns(pid);
    from_ns = clock_now_ns();
    pthread_barrier_wait(&b->start);
    join_all(touchers, n, b->opt.deadline_seconds);
    elapsed_ns = clock_now_ns() - from_ns;
    cpu_ns = server_cpu_ns(pid) - cpu_ns;
    seconds = (double)elapsed_ns / (double)NS_PER_SEC;
    util_sort_ns(b->ns, b->n_pages);
    printf("{\"threads\":%" PRIu64 ",\"pages\":%" PRIu64 ",\"page_bytes\":%" PRIu64
           ",\"seconds\":%.6f,\"pages_per_second\":%.0f,\"p50_us\":%.2f,\"p90_us\":%.2f"
           ",\"p99_us\":%.2f,\"max_us\":%.2f,\"server_cpu_us_per_page\":%.2f}\n",
           n, b->n_pages, b->opt.page_bytes, seconds, (double)b->n_pages / seconds,
           util_percentile_us(b->ns, b->n_pages, 0.5), util_percentile_us(b->ns, b->n_pages, 0.9),
           util_percentile_us(b->ns, b->n_pages, 0.99), util_percentile_us(b->ns, b->n_pages, 1),
           (double)cpu_ns / (double)NS_PER_US / (double)b->n_pages);
    return check_values(b);
}

static int prepare(struct bench *b)
{
    uint64_t pages = b->image.bytes / b->opt.page_bytes;
    struct vmm_layout layout;
    int r;

    if (pages > UINT32_MAX ||
        vmm_layout_parse(&layout, NULL, b->opt.page_bytes, b->image.bytes) < 0) {
        b->vmm.step = "an image of whole pages is needed";
        return -EINVAL;
    }
    b->n_pages = b->opt.pages > 0 ? MIN(b->opt.pages, pages) : pages;
    b->order = util_page_order((uint32_t)pages, /* shuffle= */ true, b->opt.seed);
    /* Touched before the clock runs: calloc() would leave that to the measured loop. */
    b->ns = malloc(b->n_pages * sizeof(*b->ns));
    b->values = malloc(b->n_pages * sizeof(*b->values));
    b->vmm.step = "preparing";
    if (!b->order || !b->ns || !b->values)
        return -ENOMEM;
    memset(b->ns, 0xff, b->n_pages * sizeof(*b->ns));
    memset(b->values, 0xff, b->n_pages * sizeof(*b->values));
    r = vmm_client_map(&b->vmm, &layout);
    if (r == 0)
        r = vmm_client_connect(&b->vmm, b->opt.socket);
    if (r == 0)
        r = vmm_client_send(&b->vmm);
    return r;
}

static int parse_option(struct options *opt, int ch, const char *arg)
{
    switch (ch) {
    case 's':
        opt->socket = arg;
        return 0;
    case 'i':
        opt->image = arg;
        return 0;
    case 't':
        return util_parse_count(arg, THREADS_MAX, &opt->threads);
    case 'p':
        return util_parse_count(arg, UINT32_MAX, &opt->pages);
    case 'e':
        return util_parse_count(arg, UINT64_MAX, &opt->seed);
    case 'z':
        return util_parse_size(arg, &opt->page_bytes);
    case 'd':
        return util_parse_count(arg, 3600, &opt->deadline_seconds);
    default:
        return -EINVAL;
    }
}

static int parse_command_line(struct options *opt, int argc, char **argv)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},   {"image", required_argument, NULL, 'i'},
        {"threads", required_argument, NULL, 't'},  {"pages", required_argument, NULL, 'p'},
        {"seed", required_argument, NULL, 'e'},     {"page-size", required_argument, NULL, 'z'},
        {"deadline", required_argument, NULL, 'd'}, {0},
    };
    int ch;

    *opt = (struct options){
        .threads = 1, .seed = 1, .page_bytes = PAGE_BYTES, .deadline_seconds = 120};
    while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (parse_option(opt, ch, optarg) < 0)
            return -EINVAL;
    return optind == argc && opt->socket && opt->image && opt->threads > 0 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    static struct bench b;
    int r;

    if (parse_command_line(&b.opt, argc, argv) < 0) {
        fputs("usage: fault_client --socket PATH --image FILE [--threads N] [--pages N] [--seed N] "
              "[--page-size 4096|2097152] [--deadline SECONDS]\n",
              stderr);
        return EXIT_USAGE;
    }
    b.vmm.step = b.opt.image;
    r = image_open(&b.image, b.opt.image);
    if (r == 0)
        r = prepare(&b);
    if (r < 0) {
        fprintf(stderr, "fault_client: %s: %s\n", b.vmm.step, strerror(-r));
        return EXIT_WRONG;
    }
    r = measure(&b);
    vmm_client_finish(&b.vmm);
    free(b.order);
    free(b.ns);
    free(b.values);
    return r;
}
