/* SPDX-License-Identifier: Apache-2.0 */

/* The folder of a directory store, its builds' folders and who may write in them. */
#include "store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/crash.h"
#include "base/error.h"
#include "base/file.h"
#include "base/thread.h"
#include "format/sums.h"

/* A folder may vanish between finding and locking it as often as others discard it. */
#define CLAIM_ATTEMPTS 100

int dir_fail(const struct dir_store *d, const struct uuid *build, const char *name, int code,
             const char *verb, struct thaw_error *e)
{
    const char *slash = name ? "/" : "";
    char id[UUID_TEXT_BYTES];

    uuid_format(build, id);
    name = name ? name : "";
    switch (code) {
    case -EBADMSG:
        return err_set(e, code, "%s %s/%s%s%s: it is not a regular file", verb, d->path, id, slash,
                       name);
    case -ENOSPC:
    case -EDQUOT:
        return err_set(e, code,
                       "%s %s/%s%s%s: no space is left there; make room or use another store", verb,
                       d->path, id, slash, name);
    case -EBUSY:
        return err_set(e, code, "%s %s/%s%s%s: another process is writing or deleting this build",
                       verb, d->path, id, slash, name);
    default:
        return err_errno(e, code, "%s %s/%s%s%s", verb, d->path, id, slash, name);
    }
}

int dir_open_build(const struct dir_store *d, const struct uuid *build)
{
    char id[UUID_TEXT_BYTES];
    int fd =
        openat(d->dir_fd, uuid_format(build, id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int dir_check_object(int fd, int flags)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    /* O_NONBLOCK has done its work; io_uring would answer -EAGAIN to reads because of it. */
    return fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

/* --- claims --- */

static struct dir_claim **find_claim_locked(struct dir_store *d, const struct uuid *build)
{
    struct dir_claim **at = &d->claims;

    while (*at && uuid_compare(&(*at)->build, build) != 0)
        at = &(*at)->next;
    return at;
}

/* Whether @fd still is what bears the build's name, not a folder that was removed meanwhile. */
static bool still_there(const struct dir_store *d, const char *id, int fd)
{
    struct stat now, opened;

    return fstatat(d->dir_fd, id, &now, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &opened) == 0 &&
           now.st_ino == opened.st_ino && now.st_dev == opened.st_dev;
}

/* Descriptor of the locked folder, -EAGAIN if it has vanished under our hands, or -errno. */
static int lock_folder(const struct dir_store *d, const struct uuid *build, bool create)
{
    char id[UUID_TEXT_BYTES];
    int fd CLEANUP_FD = -1;

    uuid_format(build, id);
    if (create && mkdirat(d->dir_fd, id, 0777) < 0 && errno != EEXIST)
        return -errno;
    fd = dir_open_build(d, build);
    if (fd < 0)
        return fd == -ENOENT && create ? -EAGAIN : fd;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return -EBUSY; /* any other failure: a file system without such locks */
    if (!still_there(d, id, fd))
        return -EAGAIN;
    /* Even if somebody else has made the folder: who knows whether they came to flush it. */
    if (create && fsync(d->dir_fd) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int dir_claim(struct dir_store *d, const struct uuid *build, bool create)
{
    struct dir_claim *claim;
    int fd = -EAGAIN;

    LOCK_SCOPE(&d->mu);
    if (*find_claim_locked(d, build))
        return 0;
    for (int i = 0; i < CLAIM_ATTEMPTS && fd == -EAGAIN; i++)
        fd = lock_folder(d, build, create);
    if (fd < 0)
        return fd;
    claim = malloc(sizeof(*claim));
    if (!claim) {
        close(fd);
        return -ENOMEM;
    }
    *claim = (struct dir_claim){.next = d->claims, .build = *build, .fd = fd};
    d->claims = claim;
    return 0;
}

static void remove_claim_locked(struct dir_claim **at)
{
    struct dir_claim *claim = *at;

    *at = claim->next;
    close_fd(&claim->fd);
    free(claim);
}

void dir_claim_release(struct dir_store *d, const struct uuid *build)
{
    struct dir_claim **at;

    LOCK_SCOPE(&d->mu);
    at = find_claim_locked(d, build);
    if (*at)
        remove_claim_locked(at);
}

/* --- small objects --- */

static int open_object(const struct dir_store *d, const struct uuid *build, const char *name)
{
    int dir CLEANUP_FD = dir_open_build(d, build);
    int fd CLEANUP_FD = -1;
    int r;

    if (dir < 0)
        return dir;
    fd = openat(dir, name, DIR_OBJECT_FLAGS | O_CLOEXEC);
    if (fd < 0) /* a link; a socket or a driverless device, which cannot be opened */
        return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
    r = dir_check_object(fd, DIR_OBJECT_FLAGS);
    return r < 0 ? r : TAKE_FD(fd);
}

static int dir_get(struct store *s, const struct uuid *build, const char *name, size_t max_bytes,
                   struct buf *ret, struct thaw_error *e)
{
    struct dir_store *d = dir_store_of(s);
    int fd CLEANUP_FD = open_object(d, build, name);
    int r = fd < 0 ? fd : file_load_fd(fd, max_bytes, ret);
    char id[UUID_TEXT_BYTES];

    if (r == -EFBIG)
        return err_set(e, r, "%s/%s/%s is larger than the %zu bytes such an object may have",
                       d->path, uuid_format(build, id), name, max_bytes);
    return r < 0 ? dir_fail(d, build, name, r, "reading", e) : 0;
}

static int dir_size(struct store *s, const struct uuid *build, const char *name,
                    uint64_t *ret_bytes)
{
    int dir CLEANUP_FD = dir_open_build(dir_store_of(s), build);
    struct stat st;

    if (dir < 0)
        return dir;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

/* --- the store --- */

static void dir_close(struct store *s)
{
    struct dir_store *d = dir_store_of(s);

    while (d->claims)
        remove_claim_locked(&d->claims);
    pthread_mutex_destroy(&d->mu);
    close_fd(&d->dir_fd);
    free(d->path);
    free(d);
}

static const struct store_ops dir_ops = {
    .close = dir_close,
    .object_open = dir_object_open,
    .object_close = dir_object_close,
    .read = dir_read,
    .get = dir_get,
    .size = dir_size,
    .writer_open = dir_writer_open,
    .writer_append = dir_writer_append,
    .writer_commit = dir_writer_commit,
    .writer_close = dir_writer_close,
    .list_builds = dir_list_builds,
    .list_objects = dir_list_objects,
    .object_delete = dir_object_delete,
    .build_delete = dir_build_delete,
    .build_discard = dir_build_discard,
};

/*
 * Makes the folder as durable as what will be put in it: its name is in the folder above, which is
 * flushed even if somebody else has made it, for they may have died before they came to that.
 */
static int make_folder(const char *path)
{
    bool made = mkdir(path, 0777) == 0;
    char *above CLEANUP_FREE = NULL;
    int fd CLEANUP_FD = -1;

    if (!made && errno != EEXIST)
        return -errno;
    crash_point("store:made");
    if (asprintf(&above, "%s/..", path) < 0) {
        above = NULL;
        return -ENOMEM;
    }
    fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return made ? -errno : 0; /* an old store may be all that we are allowed to see */
    return 0;
}

/* A folder is another one if it was made anew where one of its name had been. */
static int find_origin(struct dir_store *d)
{
    char *path CLEANUP_FREE = realpath(d->path, NULL);
    struct statx stx = {0};
    uint64_t parts[4];

    if (!path || statx(d->dir_fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &stx) < 0)
        return -errno;
    parts[0] = sums_of(path, strlen(path));
    parts[1] = stx.stx_ino;
    parts[2] = (uint64_t)stx.stx_btime.tv_sec; /* 0 where the file system keeps none */
    parts[3] = stx.stx_btime.tv_nsec;
    d->store.origin = sums_of(parts, sizeof(parts));
    return 0;
}

int dir_store_open(const char *path, struct io_engine *io, bool create, struct store **ret,
                   struct thaw_error *e)
{
    struct store *s CLEANUP_STORE = NULL;
    struct dir_store *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return err_set(e, -ENOMEM, "no memory for a store");
    s = &d->store;
    s->ops = &dir_ops;
    d->io = io;
    d->dir_fd = -1;
    pthread_mutex_init(&d->mu, NULL);
    d->path = strdup(path);
    if (!d->path)
        return err_set(e, -ENOMEM, "no memory for a store");
    r = create ? make_folder(path) : 0;
    if (r < 0)
        return err_errno(e, r, "making the store's folder %s", path);
    d->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir_fd < 0)
        return err_errno(e, -errno, "opening the store %s", path);
    r = find_origin(d);
    if (r < 0)
        return err_errno(e, r, "opening the store %s", path);
    *ret = TAKE_PTR(s);
    return 0;
}
