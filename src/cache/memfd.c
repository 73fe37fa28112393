/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backing `memfd`: a sealed, sparse memfd, which is memory that is never written back anywhere. It
 * is mapped to be read through a guard (cache/guard.h), so that a page which is not there is an
 * error and not zeros, and a second time to be written.
 *
 * What is written for the first time goes through write(2): it takes new pages in a third less time
 * than stores that fault on them, and lack of memory is an error and not a SIGBUS. What is written
 * over goes to the mapping, in half the time of write(2), which looks up and locks page by page.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/units.h"
#include "base/uuid.h"
#include "cache/bus.h"
#include "cache/guard.h"
#include "cache/memory.h"

static int memfd_open(struct memory *m, const struct memory_options *o)
{
    char id[UUID_TEXT_BYTES], name[128];
    void *view;
    int r = bus_guard();

    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "thaw:%.8s:%s", uuid_format(o->build, id), o->object);
    m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0)
        return -errno;
    if (ftruncate(m->fd, (off_t)m->bytes) < 0)
        return -errno;
    if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    m->view = view = memory_map(m, PROT_READ);
    if (!view)
        return -errno;
    m->guarded = guard_get(view, m->bytes) == 0;
    m->fill = memory_map(m, PROT_READ | PROT_WRITE);
    return m->fill ? 0 : -errno;
}

static void memfd_close(struct memory *m)
{
    if (m->guarded)
        guard_put();
}

static void memfd_settle(const struct memory *m, uint64_t off, size_t len)
{
    /*
     * Maps it into the view. The kernel maps 16 pages, a granule, with the first fault; it stops
     * at a hole. Nothing is lost if it fails.
     */
    (void)madvise((void *)(uintptr_t)(m->view + off), len, MADV_POPULATE_READ);
}

static int memfd_write(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    return file_write_at(m->fd, buf, len, off);
}

struct stores {
    char *to;
    const char *from;
    size_t len;
};

/*
 * A load maps all pages around it that are there, 16 at once, and as shared memory needs no notice
 * of the first store, these may be written as well. A store would map its own page only.
 */
static void store(void *arg)
{
    const struct stores *s = arg;
    const volatile char *around = s->to;
    size_t first = GRANULE_BYTES - (uintptr_t)s->to % GRANULE_BYTES;

    for (size_t at = 0; at < s->len; at += at == 0 ? first : GRANULE_BYTES)
        (void)around[at];
    memcpy(s->to, s->from, s->len);
}

/* Should a page have been lost, and there is no memory for another one, write(2) will say so. */
static int memfd_overwrite(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    struct stores s = {m->fill + off, buf, len};

    if (len == 0)
        return 0; /* of an object of size 0, which has no memory */
    return bus_call(store, &s) < 0 ? memfd_write(m, off, buf, len) : 0;
}

/* There is no disk that could be full: it is memory that could not be had. */
static int memfd_why(const struct memory *m, uint64_t off, size_t len)
{
    (void)m;
    (void)off;
    (void)len;
    return -ENOMEM;
}

const struct memory_backing memory_memfd = {
    .open = memfd_open,
    .close = memfd_close,
    .write = memfd_write,
    .overwrite = memfd_overwrite,
    .drop = memory_punch,
    .settle = memfd_settle,
    .why = memfd_why,
};
