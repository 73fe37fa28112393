/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backing `file`: a sparse file in the cache folder, mapped shared, filled and written by stores to
 * that mapping. This is how such caches are usually made, and it is kept to compare with: what is
 * stored are dirty pages of that disk, and who makes too many of them is put to sleep by the kernel
 * (balance_dirty_pages), be he somebody whom a guest waits for.
 *
 * A store that needs a block of a full or broken disk is a SIGBUS, as is a load of a page that the
 * disk does not give back. So every access is a system call or goes through bus_call().
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/uuid.h"
#include "cache/bus.h"
#include "cache/memory.h"

#define OBJECT_MAX 60 /* of its name that go into the file's, which has 255 bytes at most */

/* thaw-<build>-<object>-<random>, with nothing in it that a shell or a path would mind. */
static int file_name(struct memory *m, const struct memory_options *o)
{
    char id[UUID_TEXT_BYTES], random_text[UUID_TEXT_BYTES];
    struct uuid random;
    int r = uuid_random(&random);

    if (r < 0)
        return r;
    snprintf(m->name, sizeof(m->name), "thaw-%.8s-%.*s-%s", uuid_format(o->build, id), OBJECT_MAX,
             o->object, uuid_format(&random, random_text));
    for (char *c = m->name; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || *c == '-' || *c == '.';

        if (!plain)
            *c = '_';
    }
    return 0;
}

static int file_open(struct memory *m, const struct memory_options *o)
{
    int r = file_name(m, o);
    void *map;

    if (r == 0)
        r = bus_guard();
    if (r < 0)
        return r;
    m->fd = openat(m->folder, m->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (m->fd < 0)
        return -errno;
    if (ftruncate(m->fd, (off_t)m->bytes) < 0)
        return -errno;
    map = memory_map(m, PROT_READ | PROT_WRITE);
    if (!map)
        return -errno;
    m->view = m->fill = map;
    return 0;
}

static void file_close(struct memory *m)
{
    unlinkat(m->folder, m->name, 0);
}

/*
 * A store cannot say why the file system gave it no page, and write(2) can. Here it writes what was
 * to be stored; should it succeed, as well.
 */
static int file_write(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    int r = bus_copy(m->fill + off, buf, len);

    return r < 0 ? file_write_at(m->fd, buf, len, off) : 0;
}

/* Whether less than a tenth is free. */
static bool nearly_full(const struct memory *m)
{
    struct statvfs v;

    return fstatvfs(m->fd, &v) == 0 && v.f_bavail < v.f_blocks / 10;
}

/*
 * The same for a fill, of which nothing is kept. File systems that are nearly full may refuse what
 * they grant a moment later; if zeros can be written where there is room, it was not for that.
 */
static int file_why(const struct memory *m, uint64_t off, size_t len)
{
    static const char zeros[PAGE_BYTES];
    int r = 0;

    for (uint64_t at = off; at < off + len && r == 0; at += PAGE_BYTES)
        r = file_write_at(m->fd, zeros, PAGE_BYTES, at);
    if (r == 0)
        r = nearly_full(m) ? -ENOSPC : -EIO;
    return r;
}

const struct memory_backing memory_file = {
    .shareable = true,
    .open = file_open,
    .close = file_close,
    .write = file_write,
    .drop = memory_punch,
    .why = file_why,
};
