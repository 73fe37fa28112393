/* SPDX-License-Identifier: Apache-2.0 */

/* What the sparse backings have in common: a file of the size of the object, and mappings of it. */
#include "cache/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/bus.h"
#include "cache/tiered.h"

static const struct memory_backing *const backings[CACHE_BACKINGS] = {
    [CACHE_BACKING_MEMFD] = &memory_memfd,
    [CACHE_BACKING_FILE] = &memory_file,
    [CACHE_BACKING_TIERED] = &memory_tiered,
};

int memory_init(struct memory *m, const struct memory_options *o)
{
    int r;

    *m = (struct memory)MEMORY_INIT;
    m->backing = backings[o->backing];
    m->folder = o->folder;
    if (o->bytes == 0)
        return 0;
    m->bytes = o->bytes;
    r = m->backing->open(m, o);
    if (r < 0)
        memory_finish(m);
    return r;
}

static void unmap(const void *map, size_t bytes)
{
    if (map)
        munmap((void *)(uintptr_t)map, bytes);
}

void memory_finish(struct memory *m)
{
    const struct memory_backing *backing = m->backing;

    if (m->fd >= 0 && m->fill != m->view)
        unmap(m->fill, m->bytes);
    if (m->fd >= 0)
        unmap(m->view, m->bytes);
    if ((m->fd >= 0 || m->pool) && backing->close)
        backing->close(m);
    close_fd(&m->fd);
    *m = (struct memory)MEMORY_INIT;
    m->backing = backing;
}

void *memory_map(const struct memory *m, int prot)
{
    void *map = mmap(NULL, m->bytes, prot, MAP_SHARED, m->fd, 0);

    return map == MAP_FAILED ? NULL : map;
}

const void *memory_dirty(const struct memory *m, uint64_t off, uint64_t len, uint64_t *ret_bytes)
{
    uint32_t place;

    if (!m->places) {
        *ret_bytes = len;
        return m->view + off;
    }
    place = tiered_run(m, off, len, ret_bytes);
    if (place & PLACE_SPILLED)
        return NULL;
    return m->view + (place - 1) * PAGE_BYTES + off % PAGE_BYTES;
}

/* Through a system call, which gets an error where a load would be a SIGBUS. */
int memory_copy(const void *from, void *buf, size_t len)
{
    while (len > 0) {
        struct iovec to = {.iov_base = buf, .iov_len = len};
        struct iovec piece = {.iov_base = (void *)(uintptr_t)from, .iov_len = len};
        ssize_t n = process_vm_readv(getpid(), &to, 1, &piece, 1, 0);

        /* A sandbox may forbid the call. */
        if (n < 0 && (errno == EPERM || errno == ENOSYS))
            return bus_copy(buf, from, len) < 0 ? -EFAULT : 0;
        if (n < 0)
            return -errno;
        buf = (char *)buf + n;
        from = (const char *)from + n;
        len -= (size_t)n;
    }
    return 0;
}

int memory_read(const struct memory *m, uint64_t off, void *buf, size_t len)
{
    return memory_copy(memory_view(m, off), buf, len);
}

int memory_write(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    return m->backing->write(m, off, buf, len);
}

int memory_overwrite(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    const struct memory_backing *b = m->backing;

    return b->overwrite ? b->overwrite(m, off, buf, len) : b->write(m, off, buf, len);
}

int memory_why(const struct memory *m, uint64_t off, size_t len)
{
    return m->backing->why(m, off, len);
}

int memory_drop(const struct memory *m, uint64_t off, uint64_t len)
{
    return m->backing->drop(m, off, len);
}

int memory_punch(const struct memory *m, uint64_t off, uint64_t len)
{
    int r;

    do
        r = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int64_t memory_allocated_bytes(const struct memory *m)
{
    struct stat st;

    if (m->fd < 0)
        return 0;
    if (fstat(m->fd, &st) < 0)
        return -errno;
    return (int64_t)st.st_blocks * 512;
}
