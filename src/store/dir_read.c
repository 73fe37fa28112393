/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ranged reads of a directory store.
 *
 * The file is opened by the first read, on the I/O engine, because opening may block: first the
 * build's folder, then the object in it (dir.h says why one by one). Reads that come meanwhile
 * queue on the object. A failed open fails them and is forgotten: the next read tries again. Files
 * are opened O_DIRECT where the file system can: thaw's own cache is the cache, and a second copy
 * in the page cache would be memory that no budget counts.
 *
 * Lock: dir_object.mu, a leaf, never held over a system call or a callback.
 */
#include "store/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/thread.h"

enum object_state { OBJECT_CLOSED, OBJECT_OPENING, OBJECT_OPEN };

struct dir_object {
    struct store_object object;
    struct io_engine *io; /* borrowed */
    pthread_mutex_t mu;
    enum object_state state;    /* [m] mu */
    struct store_read *pending; /* [m] mu: waiting for the open, newest first */
    int fd;                     /* owned; set before state becomes OBJECT_OPEN */
    int folder;                 /* owned; the build's, while OBJECT_OPENING */
    struct io_request open;     /* in use while OBJECT_OPENING */
    char build[UUID_TEXT_BYTES];
    char name[STORE_NAME_MAX + 1];
};

static struct dir_object *dir_object_of(struct store_object *o)
{
    return container_of(o, struct dir_object, object);
}

int dir_object_open(struct store *s, const struct uuid *build, const char *name,
                    struct store_object **ret)
{
    struct dir_object *o = calloc(1, sizeof(*o));

    if (!o)
        return -ENOMEM;
    o->object.store = s;
    o->io = dir_store_of(s)->io;
    o->fd = -1;
    o->folder = -1;
    pthread_mutex_init(&o->mu, NULL);
    uuid_format(build, o->build);
    snprintf(o->name, sizeof(o->name), "%s", name);
    *ret = &o->object;
    return 0;
}

void dir_object_close(struct store_object *object)
{
    struct dir_object *o = dir_object_of(object);

    close_fd(&o->fd);
    pthread_mutex_destroy(&o->mu);
    free(o);
}

static void read_done(struct io_request *io, ssize_t result)
{
    struct store_read *r = container_of(io, struct store_read, io);

    /* Whole pages were asked for; bytes past the end of the object are nobody's. */
    r->done(r, MIN(result, (ssize_t)r->len_bytes));
}

static void start_read(struct dir_object *o, struct store_read *r)
{
    r->io = (struct io_request){
        .op = IO_READ,
        .priority = r->priority,
        .fd = o->fd,
        .buf = r->buf,
        .iov = r->iov,
        .iov_count = r->iov_count,
        .len_bytes = round_up(r->len_bytes, PAGE_BYTES),
        .offset = r->offset.v,
        .done = read_done,
    };
    io_submit(o->io, &r->io);
}

/* The end of opening: @result is the object's descriptor or -errno. */
static void finish_open(struct dir_object *o, int result)
{
    struct store_read *list, *next;

    close_fd(&o->folder);
    mutex_lock(&o->mu);
    if (result >= 0)
        o->fd = result;
    o->state = result >= 0 ? OBJECT_OPEN : OBJECT_CLOSED;
    list = TAKE_PTR(o->pending);
    mutex_unlock(&o->mu);
    /* With a failure, nothing of @o is touched from here on: its reads may be its end. */
    for (; list; list = next) {
        next = list->next;
        if (result >= 0)
            start_read(o, list);
        else
            list->done(list, result);
    }
}

static void start_open(struct dir_object *o, int at, const char *path, int flags,
                       void (*done)(struct io_request *io, ssize_t result))
{
    o->open = (struct io_request){
        .op = IO_OPEN,
        .priority = IO_DEMAND,
        .fd = at,
        .path = path,
        .flags = flags,
        .done = done,
    };
    io_submit(o->io, &o->open);
}

static void object_opened(struct io_request *io, ssize_t result)
{
    struct dir_object *o = container_of(io, struct dir_object, open);
    int fd CLEANUP_FD = (int)result;
    int r;

    if (result == -EINVAL && (io->flags & O_DIRECT)) {
        /* a file system without O_DIRECT: open(2) */
        start_open(o, o->folder, o->name, DIR_OBJECT_FLAGS, object_opened);
        return;
    }
    if (result == -ELOOP || result == -ENXIO) /* a link; a socket or a driverless device */
        result = -EBADMSG;
    r = result < 0 ? (int)result : dir_check_object(fd, io->flags);
    finish_open(o, r < 0 ? r : TAKE_FD(fd));
}

static void folder_opened(struct io_request *io, ssize_t result)
{
    struct dir_object *o = container_of(io, struct dir_object, open);

    if (result < 0) {
        finish_open(o, (int)result);
        return;
    }
    o->folder = (int)result;
    start_open(o, o->folder, o->name, DIR_OBJECT_FLAGS | O_DIRECT, object_opened);
}

void dir_read(struct store_read *r)
{
    struct dir_object *o = dir_object_of(r->object);
    bool open_now = false, read_now = false;

    mutex_lock(&o->mu);
    if (o->state == OBJECT_OPEN) {
        read_now = true;
    } else {
        r->next = o->pending;
        o->pending = r;
        open_now = o->state == OBJECT_CLOSED;
        o->state = OBJECT_OPENING;
    }
    mutex_unlock(&o->mu);
    if (read_now)
        start_read(o, r);
    if (open_now)
        start_open(o, dir_store_of(o->object.store)->dir_fd, o->build,
                   O_PATH | O_DIRECTORY | O_NOFOLLOW, folder_opened);
}
