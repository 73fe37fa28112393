/* SPDX-License-Identifier: Apache-2.0 */

/* A pass over the pages: who touches and who removes which of them, and who waits for it. */
#include "memory_client.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"

#define REMOVERS         2
#define REMOVE_PAGES_MAX 64 /* pages of one madvise() */
#define WATCH_MS         250

/* --- touching --- */

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

/* --- removing --- */

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

/* --- threads --- */

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

void run_pass(struct run *run, bool verifying)
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
