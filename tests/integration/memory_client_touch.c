/* SPDX-License-Identifier: Apache-2.0 */

/* One access of one page, and what is said of it when it is wrong. */
#include "memory_client.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/units.h"

#define REPORTS_MAX 8 /* messages of one kind before they only count */

/* Where a SIGBUS on this thread returns to, while @bus_armed. */
static _Thread_local sigjmp_buf bus_return;
static _Thread_local volatile sig_atomic_t bus_armed;

static void on_sigbus(int signum)
{
    if (bus_armed)
        siglongjmp(bus_return, 1);
    signal(signum, SIG_DFL); /* not ours: the instruction runs again and kills the program */
}

void catch_sigbus(void)
{
    struct sigaction bus = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};

    sigaction(SIGBUS, &bus, NULL);
}

void watch_begin(struct worker *w, uint32_t page)
{
    atomic_store_explicit(&w->page, page, memory_order_relaxed);
    atomic_store_explicit(&w->since_ns, clock_now_ns(), memory_order_release);
}

void watch_end(struct worker *w)
{
    atomic_store_explicit(&w->since_ns, 0, memory_order_release);
}

const char *phase_name(uint8_t state)
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

void touch_page(struct worker *w, uint32_t page, bool may_write, bool by_ticket)
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
