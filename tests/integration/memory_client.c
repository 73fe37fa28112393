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
#include "memory_client.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"

/* --- the result --- */

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

/* --- the run --- */

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
    sigset_t end;
    int code;

    if (parse_command_line(&run.opt, argc, argv) < 0) {
        fputs(usage_text, stderr);
        return EXIT_USAGE;
    }
    code = load(&run, &layout);
    if (code != EXIT_OK)
        return code;
    catch_sigbus();
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
