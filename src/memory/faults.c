/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How long faults take, from the moment that their events were read to the one at which their pages
 * are installed. Most are over when the pager has looked at them. The others are kept here until
 * then, by page: a thread that touches a page which is on its way has a fault of its own.
 *
 * A look at the clock costs as much as all else that thaw does for a page in memory. So one begins
 * all faults of a batch of events, one ends those of them whose pages were there, with the last of
 * them, and one ends all faults of a page that comes later. A fault is of the kind that it is
 * counted as (struct pager_counters): where its page was when the event was read.
 */
#include "memory/pager_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "observe/metrics.h"

#define OPEN_BUCKETS 1024u

struct open_fault {
    uint64_t start_ns;
    struct open_fault *next; /* of its bucket, or among the free ones */
    uint32_t page;
    uint8_t source; /* enum page_source */
};

int faults_create(struct pager *p)
{
    struct open_faults *o = &p->open_faults;

    o->list = calloc(PAGER_OPEN_FAULTS, sizeof(*o->list));
    o->buckets = calloc(OPEN_BUCKETS, sizeof(struct open_fault *));
    return o->list && o->buckets ? 0 : -ENOMEM;
}

void faults_destroy(struct pager *p)
{
    free(p->open_faults.list);
    free(p->open_faults.buckets);
    p->open_faults = (struct open_faults){0};
}

static void record(uint64_t start_ns, uint64_t end_ns, enum page_source source, unsigned n)
{
    static const enum metric_where where[] = {
        [SOURCE_RAM] = METRIC_FROM_RAM,      [SOURCE_DISK] = METRIC_FROM_DISK,
        [SOURCE_STORE] = METRIC_FROM_STORE,  [SOURCE_ZERO] = METRIC_FROM_ZERO,
        [SOURCE_REMOVED] = METRIC_FROM_ZERO,
    };

    metric_fault_service_record_many(metric_ms(end_ns - start_ns), n, where[source]);
}

static struct open_fault **bucket_of(const struct pager *p, uint32_t page)
{
    return &p->open_faults.buckets[page % OPEN_BUCKETS];
}

static void open_fault(struct pager *p, uint32_t page, enum page_source source)
{
    struct open_faults *o = &p->open_faults;
    struct open_fault **bucket = bucket_of(p, page);
    struct open_fault *f = o->free;

    if (f)
        o->free = f->next;
    else if (o->used < PAGER_OPEN_FAULTS)
        f = &o->list[o->used++];
    else {
        metric_metrics_lost_add(1, METRIC_LOSS_TOO_MANY);
        return;
    }
    *f = (struct open_fault){p->read_ns, *bucket, page, (uint8_t)source};
    *bucket = f;
    o->count++;
}

void fault_note(struct pager *p, uint32_t page, enum page_source source)
{
    uint8_t flags = p->flags[page];
    bool removed = source == SOURCE_REMOVED; /* whatever else was to become of the page */

    if (flags & PAGE_FAILED && !removed)
        return;
    if (flags & PAGE_DEFERRED || (flags & PAGE_WAITING && !removed))
        open_fault(p, page, source);
    else if (flags & PAGE_INSTALLED)
        p->served[source]++;
}

void faults_end_batch(struct pager *p)
{
    uint64_t end_ns = 0;

    for (unsigned source = 0; source < PAGE_SOURCES; source++) {
        if (p->served[source] == 0)
            continue;
        end_ns = end_ns ? end_ns : clock_now_ns();
        record(p->read_ns, end_ns, (enum page_source)source, p->served[source]);
        p->served[source] = 0;
    }
}

/* Ends the open faults of @page; measures them unless @end_ns is 0. */
static void close_faults(struct pager *p, uint32_t page, uint64_t end_ns)
{
    struct open_faults *o = &p->open_faults;
    struct open_fault **at = bucket_of(p, page);

    while (*at) {
        struct open_fault *f = *at;

        if (f->page != page) {
            at = &f->next;
            continue;
        }
        if (end_ns != 0)
            record(f->start_ns, end_ns, (enum page_source)f->source, 1);
        *at = f->next;
        f->next = o->free;
        o->free = f;
        o->count--;
    }
}

void faults_served(struct pager *p, uint32_t page)
{
    if (p->open_faults.count > 0)
        close_faults(p, page, clock_now_ns());
}

void faults_forget(struct pager *p, uint32_t page)
{
    if (p->open_faults.count > 0)
        close_faults(p, page, 0);
}
