/* SPDX-License-Identifier: Apache-2.0 */
#include "image/scan.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mailbox.h"
#include "base/thread.h"
#include "store/store.h"

#define SCAN_DEPTH 4u /* ranges under way; together 4 MiB, where disks have reached their speed */
#define CREW       2u /* SHA-256 of one object keeps up with a disk; two do with a fast one */

struct slot {
    struct scan *scan;
    struct scan_range range;
    struct store_read read;
    struct message msg;
    int64_t result;
    bool busy; /* the store has it */
    void *buf; /* owned: SCAN_RANGE_BYTES */
};

struct scan {
    const struct scan_source *source;
    struct mailbox inbox;
    struct slot slots[SCAN_DEPTH];
};

static void arrived(struct message *m)
{
    container_of(m, struct slot, msg)->busy = false;
}

static void read_done(struct store_read *r, int64_t result)
{
    struct slot *s = container_of(r, struct slot, read);

    s->result = result;
    mailbox_post(&s->scan->inbox, &s->msg);
}

/* Sends the next range on its way; false when there is none. */
static bool start(struct slot *s)
{
    if (!s->scan->source->next(s->scan->source->arg, &s->range))
        return false;
    s->busy = true;
    s->msg.deliver = arrived;
    s->read = (struct store_read){
        .object = s->range.object,
        .buf = s->buf,
        .len_bytes = s->range.len_bytes,
        .offset = s->range.offset,
        .priority = IO_BACKGROUND,
        .done = read_done,
    };
    store_read(&s->read);
    return true;
}

static void await(struct slot *s)
{
    struct pollfd p = {.fd = s->scan->inbox.event_fd, .events = POLLIN};

    while (s->busy) {
        poll(&p, 1, -1);
        mailbox_deliver(&s->scan->inbox);
    }
}

static int run(struct scan *scan)
{
    const struct scan_source *source = scan->source;
    size_t started = 0, taken = 0;
    bool more = true;
    int r = 0;

    while (r == 0) {
        struct slot *oldest = &scan->slots[taken % SCAN_DEPTH];

        while (more && started - taken < SCAN_DEPTH) {
            more = start(&scan->slots[started % SCAN_DEPTH]);
            started += more;
        }
        if (taken == started)
            break;
        await(oldest);
        r = source->take(source->arg, &oldest->range, oldest->buf, oldest->result);
        taken++;
    }
    for (; taken < started; taken++)
        await(&scan->slots[taken % SCAN_DEPTH]);
    return r;
}

int scan_run(const struct scan_source *source)
{
    struct scan scan = {.source = source};
    int r = mailbox_init(&scan.inbox);

    if (r < 0)
        return r;
    for (size_t i = 0; i < SCAN_DEPTH && r == 0; i++) {
        scan.slots[i].scan = &scan;
        scan.slots[i].buf = aligned_alloc(PAGE_BYTES, SCAN_RANGE_BYTES);
        if (!scan.slots[i].buf)
            r = -ENOMEM;
    }
    if (r == 0)
        r = run(&scan);
    for (size_t i = 0; i < SCAN_DEPTH; i++)
        free(scan.slots[i].buf);
    mailbox_finish(&scan.inbox);
    return r;
}

struct job {
    void (*work)(void *arg);
    void *arg;
};

static void *do_job(void *arg)
{
    const struct job *job = arg;

    job->work(job->arg);
    return NULL;
}

void scan_crew(void (*work)(void *arg), void *arg)
{
    struct job job = {.work = work, .arg = arg};
    pthread_t threads[CREW - 1];
    size_t started = 0;
    char name[16];

    /* The calling thread is one of them: with no thread to be had, the work still gets done. */
    while (started < CREW - 1) {
        snprintf(name, sizeof(name), "thaw-scan/%zu", started);
        if (thread_start(&threads[started], name, do_job, &job) < 0)
            break;
        started++;
    }
    work(arg);
    while (started > 0)
        thread_join(threads[--started]);
}
