/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

ssize_t file_read_at(int fd, void *buf, size_t len, uint64_t off)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int file_write_at(int fd, const void *buf, size_t len, uint64_t off)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(off + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

int file_load_fd(int fd, size_t max_bytes, struct buf *ret)
{
    struct stat st;
    ssize_t n;
    void *p;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if ((uint64_t)st.st_size > max_bytes)
        return -EFBIG;
    p = buf_extend(ret, (size_t)st.st_size);
    if (!p)
        return -ENOMEM;
    n = file_read_at(fd, p, (size_t)st.st_size, 0);
    if (n < 0)
        return (int)n;
    return n == st.st_size ? 0 : -ESTALE;
}

int file_load(int dir_fd, const char *path, size_t max_bytes, struct buf *ret)
{
    /* Without O_NONBLOCK the open of a FIFO would wait for somebody to write: fifo(7). */
    int fd CLEANUP_FD = openat(dir_fd, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    return fd < 0 ? -errno : file_load_fd(fd, max_bytes, ret);
}
