/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Writing to a directory store: a temporary name in the same folder, fsync, a rename that refuses
 * to replace, fsync of the folder. A reader sees the whole object or none; after a crash at most
 * a temporary file is left, which no reader asks for and gc removes.
 */
#include "store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"

struct store_writer {
    struct store *store; /* borrowed */
    int dir_fd;          /* owned: the build's folder */
    int fd;              /* owned: the temporary file */
    uint64_t written_bytes;
    bool committed;
    char build[UUID_TEXT_BYTES];
    char name[STORE_NAME_MAX + 1];
    char temporary[UUID_TEXT_BYTES + 8];
};

int dir_open_build(struct store *s, const struct uuid *build, bool create)
{
    char id[UUID_TEXT_BYTES];
    int fd;

    uuid_format(build, id);
    if (create) {
        if (mkdirat(s->dir_fd, id, 0777) == 0) {
            if (fsync(s->dir_fd) < 0)
                return -errno;
        } else if (errno != EEXIST) {
            return -errno;
        }
    }
    fd = openat(s->dir_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int writer_fail(const struct store_writer *w, int code, const char *verb,
                       struct thaw_error *e)
{
    return err_errno(e, code, "%s %s/%s/%s", verb, w->store->path, w->build, w->name);
}

int store_writer_open(struct store *s, const struct uuid *build, const char *name,
                      struct store_writer **ret, struct thaw_error *e)
{
    struct store_writer *w CLEANUP_STORE_WRITER = NULL;
    char suffix[UUID_TEXT_BYTES];
    struct uuid random;
    int r;

    if (strlen(name) > STORE_NAME_MAX)
        return err_set(e, -EINVAL, "object name '%s' is too long", name);
    r = uuid_random(&random);
    if (r < 0)
        return err_errno(e, r, "naming a temporary file");
    w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(e, -ENOMEM, "no memory to write %s", name);
    w->store = s;
    w->fd = -1;
    uuid_format(build, w->build);
    snprintf(w->name, sizeof(w->name), "%s", name);
    snprintf(w->temporary, sizeof(w->temporary), ".tmp-%s", uuid_format(&random, suffix));
    w->dir_fd = dir_open_build(s, build, true);
    if (w->dir_fd < 0)
        return writer_fail(w, w->dir_fd, "making the folder of", e);
    if (faccessat(w->dir_fd, name, F_OK, 0) == 0)
        return writer_fail(w, -EEXIST, "writing", e);
    w->fd = openat(w->dir_fd, w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return writer_fail(w, -errno, "writing", e);
    *ret = TAKE_PTR(w);
    return 0;
}

int store_writer_append(struct store_writer *w, const void *bytes, size_t len_bytes,
                        struct thaw_error *e)
{
    int r = file_write_at(w->fd, bytes, len_bytes, w->written_bytes);

    if (r < 0)
        return writer_fail(w, r, "writing", e);
    w->written_bytes += len_bytes;
    return 0;
}

/* The rename that fails if the target exists; where a file system cannot, link(2) does the same. */
static int rename_noreplace(const struct store_writer *w)
{
    if (renameat2(w->dir_fd, w->temporary, w->dir_fd, w->name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    if (linkat(w->dir_fd, w->temporary, w->dir_fd, w->name, 0) < 0)
        return -errno;
    return unlinkat(w->dir_fd, w->temporary, 0) < 0 ? -errno : 0;
}

int store_writer_commit(struct store_writer *w, struct thaw_error *e)
{
    int r;

    if (fsync(w->fd) < 0)
        return writer_fail(w, -errno, "flushing", e);
    r = rename_noreplace(w);
    if (r < 0)
        return writer_fail(w, r, "naming", e);
    w->committed = true;
    if (fsync(w->dir_fd) < 0)
        return writer_fail(w, -errno, "flushing the folder of", e);
    return 0;
}

void store_writer_close(struct store_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0 && !w->committed)
        unlinkat(w->dir_fd, w->temporary, 0); /* on failure it is left for gc */
    close_fd(&w->fd);
    close_fd(&w->dir_fd);
    free(w);
}
