/* SPDX-License-Identifier: Apache-2.0 */

/* The files of the disk tier that are open, and which of them its thread may work on. */
#include <string.h>

#include "cache/tier_internal.h"

bool tier_is_open(struct tier *t, const char *name)
{
    LOCK_SCOPE(&t->mu);

    for (const struct tier_file *f = t->list; f; f = f->next) {
        if (strcmp(f->data_name, name) == 0 || strcmp(f->sums_name, name) == 0)
            return true;
    }
    return false;
}

void tier_enlist(struct tier_file *f)
{
    LOCK_SCOPE(&f->tier->mu);

    f->next = f->tier->list;
    f->tier->list = f;
}

void tier_set_ready(struct tier_file *f)
{
    LOCK_SCOPE(&f->tier->mu);

    f->ready = true;
}

/* From here on the thread leaves it alone. */
void tier_set_closing(struct tier_file *f)
{
    struct tier *t = f->tier;
    LOCK_SCOPE(&t->mu);

    f->ready = false;
    while (t->busy == f)
        pthread_cond_wait(&t->rest, &t->mu);
}

void tier_unlist(struct tier_file *f)
{
    struct tier *t = f->tier;
    struct tier_file **p = &t->list;
    LOCK_SCOPE(&t->mu);

    while (*p != f)
        p = &(*p)->next;
    *p = f->next;
    if (t->hand == f)
        t->hand = f->next;
}

struct tier_file *tier_next_busy(struct tier *t, const struct tier_file *f)
{
    struct tier_file *next;
    LOCK_SCOPE(&t->mu);

    next = f ? f->next : t->list;
    while (next && !next->ready)
        next = next->next;
    t->busy = next;
    pthread_cond_broadcast(&t->rest);
    return next;
}
