/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backing `memfd`: a sealed, sparse memfd, which is memory that is never written back anywhere. It
 * is mapped to be read through a guard (cache/guard.h), so that a page which is not there is an
 * error and not zeros, and, where somebody fills it by address, a second time to be written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/uuid.h"
#include "cache/guard.h"
#include "cache/memory.h"

static int memfd_open(struct memory *m, const struct memory_options *o)
{
    char id[UUID_TEXT_BYTES], name[128];
    void *view;

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
    m->fill = o->granules ? memory_map(m, PROT_READ | PROT_WRITE) : NULL;
    return o->granules && !m->fill ? -errno : 0;
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
    .settle = memfd_settle,
    .why = memfd_why,
};
