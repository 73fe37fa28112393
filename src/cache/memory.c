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

uint64_t memory_run(const struct memory *m, uint64_t off, uint64_t len)
{
    const char *start = memory_view(m, off);
    uint64_t piece = UINT64_C(1) << m->shift, run;

    if (!m->places)
        return len;
    run = MIN(len, piece - off % piece);
    while (run < len && memory_view(m, off + run) == start + run)
        run += MIN(len - run, piece);
    return run;
}

/* Through a system call, which gets an error where a load would be a SIGBUS. */
int memory_read(const struct memory *m, uint64_t off, void *buf, size_t len)
{
    while (len > 0) {
        size_t run = memory_run(m, off, len);
        struct iovec to = {.iov_base = buf, .iov_len = run};
        struct iovec from = {.iov_base = (void *)(uintptr_t)memory_view(m, off), .iov_len = run};
        ssize_t n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

        /* A sandbox may forbid the call. */
        if (n < 0 && (errno == EPERM || errno == ENOSYS))
            n = bus_copy(buf, from.iov_base, run) < 0 ? -EFAULT : (ssize_t)run;
        else if (n < 0)
            n = -errno;
        if (n < 0)
            return (int)n;
        buf = (char *)buf + n;
        off += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
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
