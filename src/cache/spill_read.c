/* SPDX-License-Identifier: Apache-2.0 */

/* Reading what has been spilled: where it is, and all of it for an export. */
#include <errno.h>
#include <string.h>

#include "cache/internal.h"
#include "cache/spill_internal.h"
#include "format/sums.h"

bool cache_spilled_run(const struct cache *c, uint64_t off, uint64_t len_bytes,
                       struct cache_spilled *ret, uint64_t *ret_bytes)
{
    uint64_t in_memory = 0, run;

    while (log_spill(&c->memory) && in_memory < len_bytes) {
        uint64_t at = off + in_memory;
        uint32_t place = tiered_run(&c->memory, at, len_bytes - in_memory, &run);

        if (place & PLACE_SPILLED && in_memory > 0)
            break;
        if (place & PLACE_SPILLED) {
            *ret = spilled_at(place, off);
            *ret_bytes = MIN(run, GRANULE_BYTES - ret->offset);
            return true;
        }
        in_memory += run;
    }
    *ret_bytes = in_memory > 0 ? in_memory : len_bytes;
    return false;
}

int spill_copy(const struct spill *s, struct cache_spilled at, void *buf, size_t len)
{
    const char *memory = cache_pin(s->to.granules, at.granule);

    if (!memory)
        return -ENODATA;
    memcpy(buf, memory + at.offset, len);
    cache_unpin(s->to.granules, at.granule);
    return 0;
}

/* A read that somebody blocks for. */
struct load {
    struct tier_read read;
    pthread_mutex_t mu;
    pthread_cond_t over;
    bool done; /* [m] mu */
    int result;
};

static void load_done(struct tier_read *t, int result)
{
    struct load *l = container_of(t, struct load, read);
    LOCK_SCOPE(&l->mu);

    l->result = result;
    l->done = true;
    pthread_cond_signal(&l->over);
}

static int load_from_file(const struct spill *s, uint32_t granule, void *buf)
{
    struct iovec iov = {buf, GRANULE_BYTES};
    struct load l = {
        .read = {.file = s->to.file,
                 .first = granule,
                 .count = 1,
                 .iov = &iov,
                 .iov_count = 1,
                 .priority = IO_DEMAND,
                 .done = load_done},
        .mu = PTHREAD_MUTEX_INITIALIZER,
        .over = PTHREAD_COND_INITIALIZER,
    };

    tier_read(&l.read);
    mutex_lock(&l.mu);
    while (!l.done)
        pthread_cond_wait(&l.over, &l.mu);
    mutex_unlock(&l.mu);
    pthread_cond_destroy(&l.over);
    pthread_mutex_destroy(&l.mu);
    if (l.result < 0)
        return l.result == -ENODATA ? -EBADMSG : l.result;
    return sums_of(buf, GRANULE_BYTES) == l.read.sums[0] ? 0 : -EBADMSG;
}

int spill_load(const struct spill *s, uint32_t granule, void *buf)
{
    if (spill_copy(s, (struct cache_spilled){granule, 0}, buf, GRANULE_BYTES) == 0)
        return 0;
    return load_from_file(s, granule, buf);
}
