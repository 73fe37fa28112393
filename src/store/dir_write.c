/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Writing to a directory store: a temporary name in the same folder, fsync, a rename that refuses
 * to replace, fsync of the folder. A reader sees the whole object or none; after a crash at most
 * a temporary file is left. Its name begins with a dot, which no object's does: nobody asks for it,
 * and it goes with the build or its leftovers.
 */
#include "store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crash.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "format/manifest.h"

#define DIRECT_MIN_BYTES (256 * KIB)

struct dir_writer {
    struct store_writer writer;
    struct uuid build;
    int dir_fd; /* owned: the build's folder */
    int fd;     /* owned: the temporary file */
    uint64_t written_bytes;
    bool direct; /* the descriptor has O_DIRECT */
    bool committed;
    char name[STORE_NAME_MAX + 1];
    char temporary[UUID_TEXT_BYTES + 8];
};

static struct dir_writer *dir_writer_of(struct store_writer *w)
{
    return container_of(w, struct dir_writer, writer);
}

static int writer_fail(const struct dir_writer *w, int code, const char *verb, struct thaw_error *e)
{
    return dir_fail(dir_store_of(w->writer.store), &w->build, w->name, code, verb, e);
}

static int already_there(const struct dir_writer *w, struct thaw_error *e)
{
    return writer_fail(w, -EEXIST, "writing", e);
}

static int create_temporary(struct dir_writer *w, struct thaw_error *e)
{
    struct dir_store *d = dir_store_of(w->writer.store);
    char text[UUID_TEXT_BYTES];
    struct uuid random;
    struct stat st;
    int r = dir_claim(d, &w->build, true);

    if (r == -EBUSY)
        return err_set(e, -EEXIST, "build %s is being written by somebody else",
                       uuid_format(&w->build, text));
    if (r < 0)
        return writer_fail(w, r, "making the folder of", e);
    crash_point("store:claimed:%s", w->name);
    w->dir_fd = dir_open_build(d, &w->build);
    if (w->dir_fd < 0)
        return writer_fail(w, w->dir_fd, "opening the folder of", e);
    if (fstatat(w->dir_fd, w->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return already_there(w, e);
    r = uuid_random(&random);
    if (r < 0)
        return writer_fail(w, r, "finding a temporary name for", e);
    snprintf(w->temporary, sizeof(w->temporary), ".tmp-%s", uuid_format(&random, text));
    w->fd = openat(w->dir_fd, w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return writer_fail(w, -errno, "writing", e);
    crash_point("store:opened:%s", w->name);
    return 0;
}

int dir_writer_open(struct store *s, const struct uuid *build, const char *name,
                    struct store_writer **ret, struct thaw_error *e)
{
    struct dir_writer *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return err_set(e, -ENOMEM, "no memory to write %s", name);
    w->writer.store = s;
    w->build = *build;
    w->dir_fd = -1;
    w->fd = -1;
    snprintf(w->name, sizeof(w->name), "%s", name);
    r = create_temporary(w, e);
    if (r < 0) {
        dir_writer_close(&w->writer);
        return r;
    }
    *ret = &w->writer;
    return 0;
}

/*
 * Large pieces bypass the page cache: they would fill it with what nobody reads here, at several
 * times the cost in CPU, and be throttled as dirty pages. The first piece that is not whole pages,
 * in memory, length and place, ends that. File systems without O_DIRECT refuse the flag: open(2).
 */
static void choose_direct(struct dir_writer *w, const void *bytes, size_t len_bytes)
{
    uint64_t all = (uintptr_t)bytes | len_bytes | w->written_bytes;
    bool direct = all % PAGE_BYTES == 0 && (w->direct || len_bytes >= DIRECT_MIN_BYTES);
    int flags = direct == w->direct ? -1 : fcntl(w->fd, F_GETFL);

    if (flags >= 0 && fcntl(w->fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0)
        w->direct = direct;
}

int dir_writer_append(struct store_writer *writer, const void *bytes, size_t len_bytes,
                      struct thaw_error *e)
{
    struct dir_writer *w = dir_writer_of(writer);
    int r;

    choose_direct(w, bytes, len_bytes);
    r = file_write_at(w->fd, bytes, len_bytes, w->written_bytes);

    if (r < 0)
        return writer_fail(w, r, "writing", e);
    w->written_bytes += len_bytes;
    crash_point("store:appended:%s", w->name);
    return 0;
}

/* The rename that fails if the target exists; where a file system cannot, link(2) does the same. */
static int rename_noreplace(const struct dir_writer *w)
{
    if (renameat2(w->dir_fd, w->temporary, w->dir_fd, w->name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    if (linkat(w->dir_fd, w->temporary, w->dir_fd, w->name, 0) < 0)
        return -errno;
    return unlinkat(w->dir_fd, w->temporary, 0) < 0 ? -errno : 0;
}

int dir_writer_commit(struct store_writer *writer, struct thaw_error *e)
{
    struct dir_writer *w = dir_writer_of(writer);
    int r;

    if (fsync(w->fd) < 0)
        return writer_fail(w, -errno, "flushing", e);
    crash_point("store:flushed:%s", w->name);
    r = rename_noreplace(w);
    if (r == -EEXIST)
        return already_there(w, e);
    if (r < 0)
        return writer_fail(w, r, "naming", e);
    w->committed = true;
    crash_point("store:renamed:%s", w->name);
    if (fsync(w->dir_fd) < 0) {
        r = -errno;
        unlinkat(w->dir_fd, w->name, 0); /* what is reported as failed must not be there */
        return writer_fail(w, r, "flushing the folder of", e);
    }
    crash_point("store:done:%s", w->name);
    if (strcmp(w->name, MANIFEST_NAME) == 0)
        dir_claim_release(dir_store_of(writer->store), &w->build);
    return 0;
}

void dir_writer_close(struct store_writer *writer)
{
    struct dir_writer *w = dir_writer_of(writer);

    if (w->fd >= 0 && !w->committed)
        unlinkat(w->dir_fd, w->temporary, 0); /* on failure it goes with the build */
    close_fd(&w->fd);
    close_fd(&w->dir_fd);
    free(w);
}
