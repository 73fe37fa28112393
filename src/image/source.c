/* SPDX-License-Identifier: Apache-2.0 */
#include "image/source.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"

int source_open(const char *path, struct source *ret, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    off_t size;

    if (fd < 0)
        return err_errno(e, -errno, "opening %s", path);
    if (fstat(fd, &st) < 0)
        return err_errno(e, -errno, "opening %s", path);
    size = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? lseek(fd, 0, SEEK_END) : -1;
    if (size < 0)
        return err_set(e, -EINVAL, "%s is neither a file nor a block device", path);
    *ret = (struct source){
        .path = path,
        .fd = TAKE_FD(fd),
        .size_bytes = (uint64_t)size,
        .is_file = S_ISREG(st.st_mode),
        .mtime = st.st_mtim,
    };
    return 0;
}

void source_close(struct source *s)
{
    close_fd(&s->fd);
}

bool source_next_data(const struct source *s, uint64_t from, uint64_t *ret_start, uint64_t *ret_end)
{
    off_t start, end;

    if (from >= s->size_bytes)
        return false;
    start = lseek(s->fd, (off_t)from, SEEK_DATA);
    if (start < 0 && errno == ENXIO)
        return false;
    end = start < 0 ? -1 : lseek(s->fd, start, SEEK_HOLE);
    *ret_start = start < 0 ? from : MIN((uint64_t)start, s->size_bytes);
    *ret_end = end < 0 ? s->size_bytes : MIN((uint64_t)end, s->size_bytes);
    return *ret_start < *ret_end;
}

void source_will_read(const struct source *s, uint64_t offset, uint64_t len_bytes)
{
    if (offset < s->size_bytes)
        posix_fadvise(s->fd, (off_t)offset, (off_t)MIN(len_bytes, s->size_bytes - offset),
                      POSIX_FADV_WILLNEED);
}

int source_read(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
                struct thaw_error *e)
{
    ssize_t n = file_read_at(s->fd, buf, len_bytes, offset);

    if (n < 0)
        return err_errno(e, (int)n, "reading %s at byte %llu", s->path, (unsigned long long)offset);
    if ((size_t)n < len_bytes)
        return err_set(e, -ESTALE, "%s became shorter while it was read: it ends at byte %llu now",
                       s->path, (unsigned long long)offset + (unsigned long long)n);
    return 0;
}

int source_check_unchanged(const struct source *s, struct thaw_error *e)
{
    struct stat st;

    if (!s->is_file)
        return 0;
    if (fstat(s->fd, &st) < 0)
        return err_errno(e, -errno, "looking at %s", s->path);
    if ((uint64_t)st.st_size < s->size_bytes)
        return err_set(e, -ESTALE, "%s became shorter while it was read: it has %llu bytes now",
                       s->path, (unsigned long long)st.st_size);
    if ((uint64_t)st.st_size != s->size_bytes || st.st_mtim.tv_sec != s->mtime.tv_sec ||
        st.st_mtim.tv_nsec != s->mtime.tv_nsec)
        return err_set(
            e, -ESTALE,
            "%s was written to while it was read: stop what writes to it, then try again", s->path);
    return 0;
}
