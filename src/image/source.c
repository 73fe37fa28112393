/* SPDX-License-Identifier: Apache-2.0 */
#include "image/source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "image/source_nbd.h"

static bool file_next_data(const struct source *s, uint64_t from, uint64_t *ret_start,
                           uint64_t *ret_end)
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

static void file_will_read(const struct source *s, uint64_t offset, uint64_t len_bytes)
{
    if (offset < s->size_bytes)
        posix_fadvise(s->fd, (off_t)offset, (off_t)MIN(len_bytes, s->size_bytes - offset),
                      POSIX_FADV_WILLNEED);
}

static int file_read(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
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

static int file_check_unchanged(const struct source *s, struct thaw_error *e)
{
    struct stat st;

    if (!s->may_change)
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

static void file_close(struct source *s)
{
    close_fd(&s->fd);
}

static const struct source_ops file_ops = {
    .next_data = file_next_data,
    .will_read = file_will_read,
    .read = file_read,
    .check_unchanged = file_check_unchanged,
    .close = file_close,
};

void source_of_fd(int fd, const char *name, uint64_t size_bytes, struct source *ret)
{
    *ret = (struct source){.ops = &file_ops, .path = name, .size_bytes = size_bytes, .fd = fd};
}

static int open_file(const char *path, struct source *ret, struct thaw_error *e)
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
    source_of_fd(TAKE_FD(fd), path, (uint64_t)size, ret);
    ret->may_change = S_ISREG(st.st_mode);
    ret->mtime = st.st_mtim;
    return 0;
}

int source_open(const char *path, struct source *ret, struct thaw_error *e)
{
    return source_is_nbd_uri(path) ? source_open_nbd(path, ret, e) : open_file(path, ret, e);
}

void source_close(struct source *s)
{
    if (s->ops)
        s->ops->close(s);
    *s = (struct source){0};
}

bool source_next_data(const struct source *s, uint64_t from, uint64_t *ret_start, uint64_t *ret_end)
{
    return s->ops->next_data(s, from, ret_start, ret_end);
}

void source_will_read(const struct source *s, uint64_t offset, uint64_t len_bytes)
{
    if (s->ops->will_read)
        s->ops->will_read(s, offset, len_bytes);
}

int source_read(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
                struct thaw_error *e)
{
    struct pollfd cancel = {.fd = s->cancel_fd, .events = POLLIN};

    if (s->cancel_fd > 0 && poll(&cancel, 1, 0) > 0)
        return err_set(e, -ECANCELED, "given up, as asked for by a signal");
    return s->ops->read(s, buf, len_bytes, offset, e);
}

int source_check_unchanged(const struct source *s, struct thaw_error *e)
{
    return s->ops->check_unchanged ? s->ops->check_unchanged(s, e) : 0;
}
