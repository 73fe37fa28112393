/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backing `tiered`: the memory of a cache is slots of the set's pool (pool.h), and a table says
 * where each piece of the cache is.
 *
 * Of a read-through cache a piece is a granule; its place is set by whoever fills it, and looked at
 * under pins. Of an overlay it is a block: segments.h.
 */
#include "cache/tiered.h"

#include <errno.h>
#include <sys/mman.h>

#include "cache/pool.h"
#include "cache/segments.h"

static size_t table_bytes(const struct memory *m)
{
    return (m->bytes >> m->shift) * sizeof(*m->places);
}

static int tiered_open(struct memory *m, const struct memory_options *o)
{
    void *places;

    m->pool = o->pool;
    m->view = m->fill = pool_memory(o->pool);
    m->shift = (unsigned)__builtin_ctzll(o->granules ? GRANULE_BYTES : PAGE_BYTES);
    places = mmap(NULL, table_bytes(m), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (places == MAP_FAILED)
        return -errno;
    m->places = places;
    return o->granules ? 0 : log_create(m);
}

static void tiered_close(struct memory *m)
{
    /* The slots of granules have been given back one by one: granules_close(). */
    log_destroy(m);
    if (m->places)
        munmap(m->places, table_bytes(m));
}

uint32_t tiered_run(const struct memory *m, uint64_t off, uint64_t len, uint64_t *ret_bytes)
{
    uint64_t piece = UINT64_C(1) << m->shift, run = MIN(len, piece - off % piece);
    uint32_t place = tiered_place(m, off >> m->shift);
    uint32_t next = place + 1;

    while (run < len && tiered_place(m, (off + run) >> m->shift) == next) {
        run += MIN(len - run, piece);
        next++;
    }
    *ret_bytes = run;
    return place;
}

static int tiered_drop(const struct memory *m, uint64_t off, uint64_t len)
{
    log_drop(m, off, len);
    return 0;
}

/* Nothing but memory can be missing: it could not be had. */
static int tiered_why(const struct memory *m, uint64_t off, size_t len)
{
    (void)m;
    (void)off;
    (void)len;
    return -ENOMEM;
}

const struct memory_backing memory_tiered = {
    .open = tiered_open,
    .close = tiered_close,
    .write = log_write,
    .drop = tiered_drop,
    .why = tiered_why,
};
