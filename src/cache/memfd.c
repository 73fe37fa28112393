/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "cache/guard.h"

static void unmap(const void *map, size_t bytes)
{
    if (map)
        munmap((void *)(uintptr_t)map, bytes);
}

static void *map_shared(int fd, size_t bytes, int prot)
{
    void *map = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);

    return map == MAP_FAILED ? NULL : map;
}

static int set_up(struct memfd *m, const char *name, bool fill)
{
    void *view;

    m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0)
        return -errno;
    if (ftruncate(m->fd, (off_t)m->bytes) < 0)
        return -errno;
    if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    m->view = view = map_shared(m->fd, m->bytes, PROT_READ);
    if (!view)
        return -errno;
    m->guarded = guard_get(view, m->bytes) == 0;
    m->fill = fill ? map_shared(m->fd, m->bytes, PROT_READ | PROT_WRITE) : NULL;
    return fill && !m->fill ? -errno : 0;
}

int memfd_init(struct memfd *m, const char *name, uint64_t bytes, bool fill)
{
    int r;

    *m = (struct memfd)MEMFD_INIT;
    if (bytes == 0)
        return 0;
    m->bytes = bytes;
    r = set_up(m, name, fill);
    if (r < 0)
        memfd_finish(m);
    return r;
}

void memfd_finish(struct memfd *m)
{
    unmap(m->fill, m->bytes);
    unmap(m->view, m->bytes);
    if (m->guarded)
        guard_put();
    close_fd(&m->fd);
    *m = (struct memfd)MEMFD_INIT;
}

void memfd_map(const struct memfd *m, uint64_t off, size_t len)
{
    /* The kernel maps 16 pages, a granule, with the first fault; it stops at a hole. */
    (void)madvise((void *)(uintptr_t)(m->view + off), len, MADV_POPULATE_READ);
}

/* Through a system call, which gets an error where a load would be a SIGBUS. */
int memfd_read(const struct memfd *m, uint64_t off, void *buf, size_t len)
{
    while (len > 0) {
        struct iovec to = {.iov_base = buf, .iov_len = len};
        struct iovec from = {.iov_base = (void *)(uintptr_t)(m->view + off), .iov_len = len};
        ssize_t n = m->guarded ? process_vm_readv(getpid(), &to, 1, &from, 1, 0) : -1;

        if (n < 0 && m->guarded && errno != EPERM && errno != ENOSYS)
            return -errno;
        if (n < 0) {
            /* Nothing to guard against, or a sandbox that forbids the call. */
            memcpy(buf, m->view + off, len);
            return 0;
        }
        buf = (char *)buf + n;
        off += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int memfd_write(const struct memfd *m, uint64_t off, const void *buf, size_t len)
{
    return file_write_at(m->fd, buf, len, off);
}

int memfd_punch(const struct memfd *m, uint64_t off, uint64_t len)
{
    int r;

    do
        r = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int64_t memfd_allocated_bytes(const struct memfd *m)
{
    struct stat st;

    if (m->fd < 0)
        return 0;
    if (fstat(m->fd, &st) < 0)
        return -errno;
    return (int64_t)st.st_blocks * 512;
}
