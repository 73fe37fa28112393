/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"

int memfd_init(struct memfd *m, const char *name, uint64_t bytes)
{
    int fd CLEANUP_FD = -1;
    void *map;

    *m = (struct memfd)MEMFD_INIT;
    if (bytes == 0)
        return 0;
    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0)
        return -errno;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    *m = (struct memfd){.fd = TAKE_FD(fd), .map = map, .bytes = bytes};
    return 0;
}

void memfd_finish(struct memfd *m)
{
    if (m->map)
        munmap(m->map, m->bytes);
    close_fd(&m->fd);
    *m = (struct memfd)MEMFD_INIT;
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
