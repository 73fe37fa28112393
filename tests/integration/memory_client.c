/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A VMM without a guest: hands its memory to a server of guest memory the way Firecracker does,
 * lets threads touch the pages, and compares every byte with the file that the memory came from.
 * Other threads give pages back meanwhile; page_oracle.h states what a page may then hold.
 *
 * Touching goes by tickets, which the threads draw in turn. The first few pages are on as many
 * tickets as there are threads, so that all threads fault on one page at the same moment. Every
 * fourth page is touched by a write. When all tickets are used up, a second pass reads every page
 * that was touched or removed once more, now that nothing moves.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "client_util.h"
#include "page_oracle.h"
#include "vmm_client.h"

#define THREADS_MAX      64
#define REMOVERS         2
#define CROWDED_PAGES    64u /* pages that all threads touch at once */
#define REPORTS_MAX      8   /* messages of one kind before they only count */
#define WATCH_MS         250
#define REMOVE_PAGES_MAX 64 /* pages of one madvise() */

enum die_at { DIE_NEVER, DIE_CONNECT, DIE_SENT, DIE_HALF };

struct options {
    const char *socket, *image, *regions;
    uint64_t threads, seed, pages, removes, page_bytes, hang_seconds;
    bool sequential, expect_errors, hold, legacy_close, json;
    enum die_at die_at;
};

struct run {
    struct options opt;
    struct vmm_client vmm;
    struct page_oracle oracle;
    uint32_t *order;    /* owned: pages in the order of their tickets */
    uint32_t n_listed;  /* pages that get touched at all */
    uint32_t n_crowded; /* pages at the head of @order that are on several tickets */
    uint64_t n_tickets;
    bool verifying; /* the second pass; constant while threads run */

    atomic_uint_fast64_t next_ticket, next_remove;
    atomic_uint_fast64_t n_latencies, n_wrong, n_errors, n_touched, n_written, n_removed;
    atomic_uint_fast64_t n_removes, n_failed;
    uint32_t *latencies;         /* owned: nanoseconds of each first access that was served */
    atomic_uint_fast64_t victim; /* range under removal: first page << 32 | number, or 0 */
    sem_t remove_due;            /* how many removals the progress of the touching allows */
    sem_t thread_done;
};

struct worker {
    struct run *run;
    pthread_t thread;
    unsigned index;
    bool removes;
    struct rng rng;
    uint64_t *words; /* owned: copy of the page under inspection */
    /* For the watchdog: what the thread waits for since when, 0 in @since_ns for nothing. */
    atomic_uint_fast64_t page, since_ns;
};

/* Where a SIGBUS on this thread returns to, while @bus_armed. */
static _Thread_local sigjmp_buf bus_return;
static _Thread_local volatile sig_atomic_t bus_armed;

static void on_sigbus(int signum)
{
    if (bus_armed)
        siglongjmp(bus_return, 1);
    signal(signum, SIG_DFL); /* not ours: the instruction runs again and kills the program */
}

static void watch_begin(struct worker *w, uint32_t page)
{
    atomic_store_explicit(&w->page, page, memory_order_relaxed);
    atomic_store_explicit(&w->since_ns, clock_now_ns(), memory_order_release);
}

static void watch_end(struct worker *w)
{
    atomic_store_explicit(&w->since_ns, 0, memory_order_release);
}

static const char *phase_name(uint8_t state)
{
    static const char *const names[] = {
        "never changed", "being written",   "written",   "being removed",
        "removed",       "being rewritten", "rewritten", "in no phase",
    };

    return names[state & PAGE_PHASE_MASK];
}

static void report_wrong(struct run *run, const struct page_wrong *wrong)
{
    if (atomic_fetch_add(&run->n_wrong, 1) >= REPORTS_MAX)
        return;
    fprintf(stderr,
            "memory_client: wrong byte: page %" PRIu32 ", image offset 0x%" PRIx64
            " (host %p): expected 0x%02x, got 0x%02x; the page was %s before the read, %s after "
            "it\n",
            wrong->page, wrong->offset, (void *)vmm_client_host(&run->vmm, wrong->offset),
            wrong->expected, wrong->got, phase_name(wrong->before), phase_name(wrong->after));
}

static void report_sigbus(struct run *run, uint32_t page)
{
    if (!page_oracle_flag(&run->oracle, page, PAGE_ERROR))
        return;
    if (atomic_fetch_add(&run->n_errors, 1) < REPORTS_MAX)
        fprintf(stderr, "memory_client: SIGBUS on page %" PRIu32 ", image offset 0x%" PRIx64 "\n",
                page, page * run->oracle.page_bytes);
}

/* One access of a page, as the handler of SIGBUS must find it: not in registers. */
struct touch {
    char *host;
    bool write;
    struct page_read read;
    uint32_t first_ns; /* of the access that may have faulted */
};

static bool touch_guarded(struct page_oracle *o, struct touch *t)
{
    uint64_t from_ns;

    if (sigsetjmp(bus_return, 0) != 0) {
        bus_armed = 0;
        return false;
    }
    bus_armed = 1;
    from_ns = clock_now_ns();
    if (t->write) {
        page_oracle_write_mark(o, t->read.page, t->host);
        t->first_ns = util_elapsed_ns(from_ns);
        page_oracle_settle(o, t->read.page);
        t->write = false; /* what may fail from here on is a read */
        page_oracle_begin(o, t->host, &t->read);
    } else {
        page_oracle_begin(o, t->host, &t->read);
        t->first_ns = util_elapsed_ns(from_ns);
    }
    page_oracle_read(o, t->host, &t->read);
    bus_armed = 0;
    return true;
}

/* @by_ticket: the touch is one that was asked for, and counts. */
static void touch_page(struct worker *w, uint32_t page, bool may_write, bool by_ticket)
{
    struct run *run = w->run;
    struct page_oracle *o = &run->oracle;
    struct page_wrong wrong;
    struct touch t = {
        .host = vmm_client_host(&run->vmm, page * o->page_bytes),
        .write = may_write && page_oracle_claim_write(o, page),
        .read =
            {
                .page = page,
                .first_word = rng_below(&w->rng, o->page_bytes / sizeof(uint64_t)),
                .words = w->words,
            },
    };
    bool wrote = t.write, served;

    watch_begin(w, page);
    served = touch_guarded(o, &t);
    watch_end(w);
    if (!served) {
        if (t.write)
            page_oracle_abandon_write(o, page);
        report_sigbus(run, page);
        return;
    }
    if (wrote)
        atomic_fetch_add(&run->n_written, 1);
    if (by_ticket) {
        run->latencies[atomic_fetch_add(&run->n_latencies, 1)] = t.first_ns;
        if (page_oracle_flag(o, page, PAGE_TOUCHED))
            atomic_fetch_add(&run->n_touched, 1);
    }
    if (!page_oracle_check(o, &t.read, &wrong))
        report_wrong(run, &wrong);
}

static uint32_t page_of_ticket(const struct run *run, uint64_t ticket)
{
    uint64_t crowd = run->n_crowded * run->opt.threads;

    if (ticket < crowd)
        return run->order[ticket / run->opt.threads];
    return run->order[ticket - crowd + run->n_crowded];
}

/*
 * Reads a page that is being removed at this moment. The kernel takes pages away only after the
 * server has read of it, so that what the server installs in between may be taken away, too.
 */
static void touch_victim(struct worker *w)
{
    struct run *run = w->run;
    uint64_t victim = atomic_load(&run->victim);
    uint32_t n = (uint32_t)(victim & UINT32_MAX);

    if (n > 0)
        touch_page(w, (uint32_t)(victim >> 32) + (uint32_t)rng_below(&w->rng, n), false, false);
}

static void touch_by_tickets(struct worker *w)
{
    struct run *run = w->run;
    uint64_t removes = run->opt.removes, ticket;

    while ((ticket = atomic_fetch_add(&run->next_ticket, 1)) < run->n_tickets) {
        uint32_t page = page_of_ticket(run, ticket);
        uint64_t due = (ticket + 1) * removes / run->n_tickets - ticket * removes / run->n_tickets;

        if (run->opt.die_at == DIE_HALF && ticket >= run->n_tickets / 2)
            raise(SIGKILL);
        for (; due > 0; due--)
            sem_post(&run->remove_due);
        touch_page(w, page, util_mix(run->opt.seed + page) % 4 == 0, true);
        if (removes > 0 && rng_below(&w->rng, 4) == 0)
            touch_victim(w);
    }
}

static void verify_by_tickets(struct worker *w)
{
    struct run *run = w->run;
    uint64_t page;

    while ((page = atomic_fetch_add(&run->next_ticket, 1)) < run->oracle.n_pages) {
        uint8_t state = page_oracle_state(&run->oracle, (uint32_t)page);

        if (state & PAGE_TOUCHED || (state & PAGE_PHASE_MASK) >= PAGE_REMOVING)
            touch_page(w, (uint32_t)page, false, false);
    }
}

/*
 * Half of the removals hunt a page that is touched just now, the others go anywhere. A range that
 * ends with the hunted page gives the kernel time to be caught in the middle of it.
 */
static uint32_t choose_victim(struct worker *w, bool *ret_downwards)
{
    struct run *run = w->run;
    uint64_t ticket;

    *ret_downwards = rng_below(&w->rng, 2) == 0;
    if (rng_below(&w->rng, 2) == 0)
        return (uint32_t)rng_below(&w->rng, run->oracle.n_pages);
    ticket = atomic_load(&run->next_ticket) + rng_below(&w->rng, 2 * run->opt.threads);
    return page_of_ticket(run, MIN(ticket, run->n_tickets - 1));
}

/* Claims @page and pages beside it in the same region. Returns how many; @page becomes the first.
 */
static uint32_t claim_range(struct worker *w, uint32_t *page, bool downwards)
{
    struct run *run = w->run;
    const struct vmm_region *region = vmm_client_region(&run->vmm, *page * run->oracle.page_bytes);
    uint32_t first = (uint32_t)(region->offset / run->oracle.page_bytes);
    uint32_t end = first + (uint32_t)(region->bytes / run->oracle.page_bytes);
    uint32_t room = downwards ? *page - first + 1 : end - *page, n = 0;
    uint32_t wanted = 1 + (uint32_t)rng_below(&w->rng, REMOVE_PAGES_MAX);

    while (n < MIN(room, wanted) &&
           page_oracle_claim_remove(&run->oracle, downwards ? *page - n : *page + n))
        n++;
    if (downwards && n > 0)
        *page -= n - 1;
    return n;
}

static void remove_once(struct worker *w)
{
    struct run *run = w->run;
    bool downwards;
    uint32_t page = choose_victim(w, &downwards), n = claim_range(w, &page, downwards);
    int r;

    if (n == 0)
        return; /* somebody else's, or written for good */
    atomic_store(&run->victim, (uint64_t)page << 32 | n);
    watch_begin(w, page);
    r = madvise(vmm_client_host(&run->vmm, page * run->oracle.page_bytes),
                n * run->oracle.page_bytes, MADV_DONTNEED);
    watch_end(w);
    atomic_store(&run->victim, 0);
    if (r < 0) {
        fprintf(stderr, "memory_client: madvise() of %" PRIu32 " pages from %" PRIu32 ": %s\n", n,
                page, strerror(errno));
        atomic_fetch_add(&run->n_failed, 1);
    }
    for (uint32_t i = 0; i < n; i++)
        page_oracle_settle(&run->oracle, page + i);
    atomic_fetch_add(&run->n_removes, 1);
    atomic_fetch_add(&run->n_removed, n);
    touch_page(w, page + (uint32_t)rng_below(&w->rng, n), false, false);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct run *run = w->run;

    if (w->removes) {
        while (atomic_fetch_add(&run->next_remove, 1) < run->opt.removes) {
            while (sem_wait(&run->remove_due) < 0)
                ;
            remove_once(w);
        }
    } else if (run->verifying) {
        verify_by_tickets(w);
    } else {
        touch_by_tickets(w);
    }
    sem_post(&run->thread_done);
    return NULL;
}

/* Leaves the process when a thread waits longer than it may: its memory is not being served. */
static void check_for_hang(struct run *run, struct worker *workers, unsigned n)
{
    uint64_t now_ns = clock_now_ns();
    bool hangs = false;

    for (unsigned i = 0; i < n; i++) {
        uint64_t since_ns = atomic_load_explicit(&workers[i].since_ns, memory_order_acquire);
        uint64_t page = atomic_load_explicit(&workers[i].page, memory_order_relaxed);
        uint64_t offset = page * run->oracle.page_bytes;

        if (since_ns == 0 || now_ns < since_ns + run->opt.hang_seconds * NS_PER_SEC)
            continue;
        hangs = true;
        fprintf(stderr,
                "memory_client: thread %u hangs for %" PRIu64 " s in %s of page %" PRIu64
                ", image offset 0x%" PRIx64 " (host %p); the page was %s\n",
                i, (now_ns - since_ns) / NS_PER_SEC, workers[i].removes ? "the removal" : "a touch",
                page, offset, (void *)vmm_client_host(&run->vmm, offset),
                phase_name(page_oracle_state(&run->oracle, (uint32_t)page)));
    }
    if (!hangs)
        return;
    fprintf(stderr, "memory_client: hang after %" PRIu64 " touched pages\n",
            atomic_load(&run->n_touched));
    _exit(EXIT_HANG); /* exit() could wait for a thread that never comes back */
}

static void wait_for_one_thread(struct run *run, struct worker *workers, unsigned n)
{
    struct timespec until;

    for (;;) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += WATCH_MS * (long)NS_PER_MS;
        if (until.tv_nsec >= (long)NS_PER_SEC) {
            until.tv_nsec -= (long)NS_PER_SEC;
            until.tv_sec++;
        }
        if (sem_timedwait(&run->thread_done, &until) == 0)
            return;
        check_for_hang(run, workers, n);
    }
}

static void start_worker(struct worker *w)
{
    int r = ENOMEM;

    w->words = malloc(w->run->oracle.page_bytes);
    if (w->words)
        r = pthread_create(&w->thread, NULL, worker_main, w);
    if (r == 0)
        return;
    fprintf(stderr, "memory_client: starting thread %u: %s\n", w->index, strerror(r));
    _exit(EXIT_WRONG); /* the others are running already */
}

/* One pass over the pages by all threads. */
static void run_pass(struct run *run, bool verifying)
{
    static struct worker workers[THREADS_MAX + REMOVERS];
    unsigned n = (unsigned)run->opt.threads;

    if (!verifying && run->opt.removes > 0)
        n += REMOVERS;
    run->verifying = verifying;
    atomic_store(&run->next_ticket, 0);
    for (unsigned i = 0; i < n; i++) {
        workers[i] = (struct worker){.run = run, .index = i, .removes = i >= run->opt.threads};
        workers[i].rng.state = util_mix(run->opt.seed) + i;
        start_worker(&workers[i]);
    }
    for (unsigned i = 0; i < n; i++)
        wait_for_one_thread(run, workers, n);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
        free(workers[i].words);
    }
}

static void print_result(struct run *run, double seconds)
{
    size_t n = atomic_load(&run->n_latencies);
    uint64_t pages = atomic_load(&run->n_touched), errors = atomic_load(&run->n_errors);
    uint64_t removed = atomic_load(&run->n_removed), removes = atomic_load(&run->n_removes);
    uint64_t written = atomic_load(&run->n_written), wrong = atomic_load(&run->n_wrong);
    double p50_us, p99_us, max_us;

    util_sort_ns(run->latencies, n);
    p50_us = util_percentile_us(run->latencies, n, 0.5);
    p99_us = util_percentile_us(run->latencies, n, 0.99);
    max_us = util_percentile_us(run->latencies, n, 1);
    if (run->opt.json)
        printf("{\"pages\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"removed\":%" PRIu64
               ",\"seconds\":%.6f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"max_us\":%.2f"
               ",\"touches\":%zu,\"written\":%" PRIu64 ",\"removes\":%" PRIu64 ",\"wrong\":%" PRIu64
               "}\n",
               pages, errors, removed, seconds, p50_us, p99_us, max_us, n, written, removes, wrong);
    else
        printf("%" PRIu64 " pages (%" PRIu64 " written), %" PRIu64 " removed by %" PRIu64
               " calls, %" PRIu64 " errors, %" PRIu64 " wrong reads in %.3f s; "
               "p50 %.1f us, p99 %.1f us, max %.1f us of %zu touches\n",
               pages, written, removed, removes, errors, wrong, seconds, p50_us, p99_us, max_us, n);
    fflush(stdout);
}

static int verdict(const struct run *run)
{
    uint64_t errors = atomic_load(&run->n_errors), wrong = atomic_load(&run->n_wrong);

    if (wrong > 0 || atomic_load(&run->n_failed) > 0)
        return EXIT_WRONG;
    if (errors > 0 && !run->opt.expect_errors) {
        fprintf(stderr, "memory_client: %" PRIu64 " pages could not be read\n", errors);
        return EXIT_WRONG;
    }
    if (errors == 0 && run->opt.expect_errors) {
        fprintf(stderr, "memory_client: no page raised an error, and one was expected\n");
        return EXIT_WRONG;
    }
    return EXIT_OK;
}

static int fail(const struct run *run, int r)
{
    bool cannot = !strcmp(run->vmm.step, "opening a userfaultfd") && (r == -EPERM || r == -ENOSYS);
    bool no_huge = !strcmp(run->vmm.step, "mapping guest memory") && r == -ENOMEM &&
                   run->opt.page_bytes != PAGE_BYTES;

    fprintf(stderr, "memory_client: %s: %s\n", run->vmm.step, strerror(-r));
    if (cannot)
        fprintf(stderr, "this user may not create a userfaultfd for kernel faults\n");
    if (no_huge)
        fprintf(stderr, "not enough 2 MiB pages: raise /proc/sys/vm/nr_hugepages\n");
    return cannot || no_huge ? EXIT_SKIP : EXIT_WRONG;
}

/* Map, connect, send, in a VMM's order. 0 or -errno. */
static int hand_over(struct run *run, const struct vmm_layout *layout)
{
    int r = vmm_client_map(&run->vmm, layout);

    if (r == 0)
        r = vmm_client_connect(&run->vmm, run->opt.socket);
    if (r == 0 && run->opt.die_at == DIE_CONNECT)
        raise(SIGKILL);
    if (r == 0)
        r = vmm_client_send(&run->vmm);
    if (r == 0 && run->opt.die_at == DIE_SENT)
        raise(SIGKILL);
    if (r == 0 && run->opt.legacy_close)
        vmm_client_close_socket(&run->vmm);
    return r;
}

/* Decides which pages get touched and in which order, from the seed alone. 0 or -errno. */
static int plan(struct run *run)
{
    const struct options *opt = &run->opt;
    uint32_t n = run->oracle.n_pages;

    run->n_listed = opt->pages > 0 ? (uint32_t)MIN(opt->pages, n) : n;
    run->n_crowded = opt->threads > 1 ? MIN(run->n_listed, CROWDED_PAGES) : 0;
    run->n_tickets = run->n_crowded * opt->threads + (run->n_listed - run->n_crowded);
    run->order = util_page_order(n, !opt->sequential, opt->seed);
    run->latencies = calloc(run->n_tickets, sizeof(*run->latencies));
    if (!run->order || !run->latencies)
        return -ENOMEM;
    if (sem_init(&run->remove_due, 0, 0) < 0 || sem_init(&run->thread_done, 0, 0) < 0)
        return -errno;
    return 0;
}

/* @end: the signals that end --hold. Returns an exit code. */
static int client_main(struct run *run, const struct vmm_layout *layout, const sigset_t *end)
{
    uint64_t from_ns;
    double seconds;
    int r, signum;

    r = plan(run);
    if (r < 0) {
        run->vmm.step = "preparing";
        return fail(run, r);
    }
    r = hand_over(run, layout);
    if (r < 0)
        return fail(run, r);
    from_ns = clock_now_ns();
    run_pass(run, /* verifying= */ false);
    seconds = (double)(clock_now_ns() - from_ns) / (double)NS_PER_SEC;
    run_pass(run, /* verifying= */ true);
    print_result(run, seconds);
    if (run->opt.hold)
        sigwait(end, &signum);
    return verdict(run);
}

static const char usage_text[] =
    "usage: memory_client --socket PATH --image FILE [option...]\n"
    "  --regions SIZE,SIZE...   regions of guest memory (default: 3/4 and 1/4 of the image)\n"
    "  --page-size BYTES        4096 (default) or 2097152\n"
    "  --threads N              threads that touch (default 4)\n"
    "  --order random|sequential, --seed N, --pages N   what is touched, in which order\n"
    "  --removes N              madvise(MADV_DONTNEED) calls meanwhile\n"
    "  --expect-errors          at least one page must raise SIGBUS, all others be right\n"
    "  --hold                   keep the VM after the result until SIGTERM or SIGINT\n"
    "  --legacy-close           close the socket after the hand-over\n"
    "  --die-at connect|sent|half   kill -9 itself there\n"
    "  --hang-seconds N         longest wait for one page (default 20)\n"
    "  --json                   result as one JSON object\n"
    "exit: 0 all bytes right, 1 wrong byte or refused, 2 usage, 3 hang, 77 not possible here\n";

static int parse_die_at(const char *text, enum die_at *ret)
{
    static const char *const names[] = {"never", "connect", "sent", "half"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(text, names[i])) {
            *ret = (enum die_at)i;
            return 0;
        }
    return -EINVAL;
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
    case 'r':
        opt->regions = arg;
        return 0;
    case 'z':
        return util_parse_size(arg, &opt->page_bytes);
    case 't':
        return util_parse_count(arg, THREADS_MAX, &opt->threads);
    case 'o':
        opt->sequential = !strcmp(arg, "sequential");
        return opt->sequential || !strcmp(arg, "random") ? 0 : -EINVAL;
    case 'e':
        return util_parse_count(arg, UINT64_MAX, &opt->seed);
    case 'p':
        return util_parse_count(arg, UINT32_MAX, &opt->pages);
    case 'm':
        return util_parse_count(arg, UINT32_MAX, &opt->removes);
    case 'd':
        return parse_die_at(arg, &opt->die_at);
    case 'g':
        return util_parse_count(arg, 3600, &opt->hang_seconds);
    default:
        return -EINVAL;
    }
}

static int parse_command_line(struct options *opt, int argc, char **argv)
{
    int expect_errors = 0, hold = 0, legacy_close = 0, json = 0, ch;
    const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},
        {"image", required_argument, NULL, 'i'},
        {"regions", required_argument, NULL, 'r'},
        {"page-size", required_argument, NULL, 'z'},
        {"threads", required_argument, NULL, 't'},
        {"order", required_argument, NULL, 'o'},
        {"seed", required_argument, NULL, 'e'},
        {"pages", required_argument, NULL, 'p'},
        {"removes", required_argument, NULL, 'm'},
        {"die-at", required_argument, NULL, 'd'},
        {"hang-seconds", required_argument, NULL, 'g'},
        {"expect-errors", no_argument, &expect_errors, 1},
        {"hold", no_argument, &hold, 1},
        {"legacy-close", no_argument, &legacy_close, 1},
        {"json", no_argument, &json, 1},
        {0},
    };

    *opt = (struct options){.threads = 4, .seed = 1, .page_bytes = PAGE_BYTES, .hang_seconds = 20};
    while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (ch != 0 && parse_option(opt, ch, optarg) < 0)
            return -EINVAL;
    opt->expect_errors = expect_errors;
    opt->hold = hold;
    opt->legacy_close = legacy_close;
    opt->json = json;
    if (optind != argc || !opt->socket || !opt->image || opt->threads == 0)
        return -EINVAL;
    return 0;
}

/* The image and the layout of the memory that it fills. An exit code. */
static int load(struct run *run, struct vmm_layout *ret_layout)
{
    const struct options *opt = &run->opt;
    struct image image;
    int r;

    r = image_open(&image, opt->image);
    if (r < 0) {
        fprintf(stderr, "memory_client: image %s: %s\n", opt->image, strerror(-r));
        return EXIT_USAGE;
    }
    if (vmm_layout_parse(ret_layout, opt->regions, opt->page_bytes, image.bytes) < 0 ||
        page_oracle_init(&run->oracle, &image, opt->page_bytes, opt->seed) < 0) {
        fprintf(stderr,
                "memory_client: the regions must be multiples of the page size (4096 or 2097152) "
                "and add up to the image, %" PRIu64 " bytes\n",
                image.bytes);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    static struct run run;
    static struct vmm_layout layout;
    struct sigaction bus = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};
    sigset_t end;
    int code;

    if (parse_command_line(&run.opt, argc, argv) < 0) {
        fputs(usage_text, stderr);
        return EXIT_USAGE;
    }
    code = load(&run, &layout);
    if (code != EXIT_OK)
        return code;
    sigaction(SIGBUS, &bus, NULL);
    sigemptyset(&end);
    if (run.opt.hold) {
        sigaddset(&end, SIGTERM);
        sigaddset(&end, SIGINT);
        sigprocmask(SIG_BLOCK, &end, NULL);
    }
    code = client_main(&run, &layout, &end);
    vmm_client_finish(&run.vmm);
    page_oracle_finish(&run.oracle);
    free(run.order);
    free(run.latencies);
    return code;
}
