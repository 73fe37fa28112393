/* SPDX-License-Identifier: Apache-2.0 */
#include "image/export_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "image/pack.h"

int export_file_begin(struct export_file *f, int dir_fd, const char *name, uint64_t size_bytes,
                      struct thaw_error *e)
{
    char suffix[UUID_TEXT_BYTES];
    struct uuid random;
    int r = uuid_random(&random);

    if (r < 0)
        return err_errno(e, r, "naming a temporary file");
    f->name = name;
    f->dir_fd = dir_fd;
    f->size_bytes = size_bytes;
    snprintf(f->temporary, sizeof(f->temporary), ".tmp-%s", uuid_format(&random, suffix));
    f->fd = openat(dir_fd, f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return err_errno(e, -errno, "making %s", name);
    if (ftruncate(f->fd, (off_t)size_bytes) < 0)
        return err_errno(e, -errno, "making %s of %llu bytes", name,
                         (unsigned long long)size_bytes);
    return 0;
}

/* The next stretch of pages at or after *@at that are not zeros: its end, and its start in *@at. */
static size_t next_data(const char *bytes, size_t *at, size_t len_bytes)
{
    size_t end;

    while (*at < len_bytes && page_is_zero(bytes + *at))
        *at += PAGE_BYTES;
    end = *at;
    while (end < len_bytes && !page_is_zero(bytes + end))
        end += PAGE_BYTES;
    return end;
}

int export_file_write(struct export_file *f, const void *bytes, uint64_t offset, size_t len_bytes)
{
    uint64_t written = 0, first = 0, end_of_last = 0;
    size_t at = 0, end;

    while ((end = next_data(bytes, &at, len_bytes)) > at) {
        uint64_t start = offset + at;
        size_t n = start < f->size_bytes ? MIN(end - at, f->size_bytes - start) : 0;
        int r = file_write_at(f->fd, (const char *)bytes + at, n, start);

        if (r < 0)
            return r;
        if (written == 0)
            first = start;
        end_of_last = start + n;
        written += n;
        at = end;
    }
    if (written == 0)
        return 0;
    atomic_fetch_add_explicit(&f->written_bytes, written, memory_order_relaxed);
    /*
     * The disk begins at once: the flush at the end has little left to wait for, and dirty pages do
     * not pile up in the host's memory. Advice only, so its result does not matter.
     */
    sync_file_range(f->fd, (off_t)first, (off_t)(end_of_last - first), SYNC_FILE_RANGE_WRITE);
    return 0;
}

int export_file_flush(struct export_file *f, struct thaw_error *e)
{
    return fsync(f->fd) < 0 ? err_errno(e, -errno, "writing %s", f->name) : 0;
}

/* The rename that fails if the target exists; where a file system cannot, link(2) does the same. */
int export_file_name(struct export_file *f, struct thaw_error *e)
{
    int r = renameat2(f->dir_fd, f->temporary, f->dir_fd, f->name, RENAME_NOREPLACE);

    if (r < 0 && (errno == EINVAL || errno == ENOSYS)) {
        r = linkat(f->dir_fd, f->temporary, f->dir_fd, f->name, 0);
        if (r == 0)
            unlinkat(f->dir_fd, f->temporary, 0);
    }
    if (r < 0)
        return err_errno(e, -errno, "naming %s", f->name);
    f->named = true;
    return 0;
}

void export_file_finish(struct export_file *f, bool keep)
{
    if (f->fd >= 0 && !keep)
        unlinkat(f->dir_fd, f->named ? f->name : f->temporary, 0);
    close_fd(&f->fd);
}
