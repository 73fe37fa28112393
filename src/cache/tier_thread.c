/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The thread of the disk tier, `thaw-tier`: one thing at a time, the most urgent first. It sleeps
 * when there is nothing, or when all that there is has to wait for the end of demand reads.
 */
#include <errno.h>
#include <linux/ioprio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cache/tier_internal.h"

enum job { JOB_NONE, JOB_QUIT, JOB_OVERLAY, JOB_GIVE_BACK, JOB_SUMS, JOB_BEHIND };

/* --- what others ask for --- */

/* Under the lock, as the tier may be destroyed as soon as the thread has done what it is woken for.
 */
static void rouse_locked(struct tier *t)
{
    if (t->sleeping)
        pthread_cond_signal(&t->work);
    t->sleeping = false;
}

void tier_rouse(struct tier *t)
{
    LOCK_SCOPE(&t->mu);

    rouse_locked(t);
}

void tier_write(struct tier *t, struct tier_write *w)
{
    LOCK_SCOPE(&t->mu);

    w->next = NULL;
    if (t->first)
        t->last->next = w;
    else
        t->first = w;
    t->last = w;
    rouse_locked(t);
}

void tier_wake(struct tier *t)
{
    /* Whoever sees it set comes before the thread clears it, and asks. */
    if (!atomic_load(&t->behind_ready) && !atomic_exchange(&t->behind_ready, true))
        tier_rouse(t);
}

void tier_room_given(struct tier *t)
{
    if (atomic_exchange(&t->stuck, false))
        tier_wake(t);
}

void tier_set_behind(struct tier *t, struct tier_behind *b)
{
    LOCK_SCOPE(&t->mu);

    t->behind = b;
    while (t->asking && t->asking != b)
        pthread_cond_wait(&t->rest, &t->mu);
    atomic_store(&t->behind_ready, true);
    rouse_locked(t);
}

/* --- what is next --- */

/* No demand read is under way; else the end of the last one will rouse the thread. */
static bool is_quiet(struct tier *t)
{
    bool quiet;

    /* In this order, as demand_over() looks in the other one: one of the two sees the other. */
    atomic_store(&t->quiet_awaited, true);
    quiet = atomic_load(&t->demands) == 0;
    if (quiet)
        atomic_store(&t->quiet_awaited, false);
    return quiet;
}

static enum job next_job_locked(struct tier *t)
{
    bool behind = t->behind && atomic_load(&t->behind_ready) && tier_writable(t);

    if (t->quitting)
        return JOB_QUIT;
    if (t->first)
        return JOB_OVERLAY;
    if (atomic_exchange(&t->give_back, false))
        return JOB_GIVE_BACK;
    if (t->batches >= TIER_SUMS_EVERY)
        return JOB_SUMS;
    if (!behind && !atomic_load(&t->sums_due))
        return JOB_NONE;
    if (!is_quiet(t))
        return JOB_NONE;
    return behind ? JOB_BEHIND : JOB_SUMS;
}

/* Sleeps until there is one. */
static enum job next_job(struct tier *t, struct tier_write **ret_w, struct tier_behind **ret_behind)
{
    enum job job;
    LOCK_SCOPE(&t->mu);

    while ((job = next_job_locked(t)) == JOB_NONE) {
        t->sleeping = true;
        pthread_cond_wait(&t->work, &t->mu);
    }
    t->sleeping = false;
    if (job == JOB_OVERLAY) {
        *ret_w = t->first;
        t->first = t->first->next;
    }
    if (job == JOB_BEHIND) {
        *ret_behind = t->behind;
        t->asking = t->behind;
    }
    return job;
}

/* --- doing it --- */

/* Who waits for memory waits for the writes of overlays; for all others nobody does. */
static void set_priority(struct tier *t, bool idle)
{
    int priority = idle ? IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)
                        : IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, IOPRIO_BE_NORM);

    if (t->idle_priority == idle)
        return;
    t->idle_priority = idle;
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority); /* a wish: not all disks have them */
}

/* Whether it makes sense to ask for more. */
static bool is_stuck(struct tier *t)
{
    if (!atomic_load(&t->stuck))
        return false;
    if (!tier_has_room(t, TIER_WRITE_GRANULES * GRANULE_BYTES) || tier_still_refuses(t))
        return true;
    atomic_store(&t->stuck, false);
    return false;
}

static void write_behind(struct tier *t, struct tier_behind *b)
{
    struct tier_write w = {0};
    int r;

    atomic_store(&t->behind_ready, false);
    if (is_stuck(t) || !b->next(b, &w))
        return;
    atomic_store(&t->behind_ready, true);
    r = tier_write_now(t, &w);
    if (r == -ENOSPC)
        atomic_store(&t->stuck, true);
    w.done(&w, r);
}

static void end_asking(struct tier *t)
{
    LOCK_SCOPE(&t->mu);

    t->asking = NULL;
    pthread_cond_broadcast(&t->rest);
}

static void drop_queue(struct tier *t)
{
    struct tier_write *w, *next;

    mutex_lock(&t->mu);
    w = TAKE_PTR(t->first);
    mutex_unlock(&t->mu);
    for (; w; w = next) {
        next = w->next;
        w->done(w, -ECANCELED);
    }
}

bool tier_at_rest(struct tier *t)
{
    LOCK_SCOPE(&t->mu);

    return t->sleeping && !t->first && !atomic_load(&t->give_back) && !atomic_load(&t->sums_due);
}

void *tier_thread(void *arg)
{
    struct tier *t = arg;
    struct tier_behind *behind = NULL;
    struct tier_write *w = NULL;
    enum job job;

    while ((job = next_job(t, &w, &behind)) != JOB_QUIT) {
        set_priority(t, job != JOB_OVERLAY);
        if (job == JOB_OVERLAY) {
            w->done(w, tier_write_now(t, w));
        } else if (job == JOB_GIVE_BACK) {
            tier_give_back(t);
        } else if (job == JOB_SUMS) {
            tier_sums_write_all(t);
        } else {
            write_behind(t, behind);
            end_asking(t);
        }
    }
    drop_queue(t);
    aio_writer_finish(&t->writer);
    return NULL;
}
