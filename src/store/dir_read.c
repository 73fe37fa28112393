/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ranged reads of a directory store.
 *
 * The file is opened by the first read, on the I/O engine, because opening may block. Reads that
 * come meanwhile queue on the object. A failed open fails them and is forgotten: the next read
 * tries again. Files are opened O_DIRECT where the file system can: thaw's own cache is the cache,
 * and a second copy in the page cache would be memory that no budget counts.
 *
 * Lock: object.mu, a leaf, never held over a system call or a callback.
 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "store/dir.h"

enum object_state { OBJECT_CLOSED, OBJECT_OPENING, OBJECT_OPEN };

struct store_object {
    struct store *store; /* borrowed */
    pthread_mutex_t mu;
    enum object_state state;    /* [m] mu */
    struct store_read *pending; /* [m] mu: waiting for the open, newest first */
    int fd;                     /* owned; set before state becomes OBJECT_OPEN */
    struct io_request open;     /* in use while OBJECT_OPENING */
    char path[UUID_TEXT_BYTES + 1 + STORE_NAME_MAX];
};

static bool name_is_safe(const char *name)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);

    return len > 0 && len <= STORE_NAME_MAX && name[0] != '.' && strspn(name, safe) == len;
}

int store_object_open(struct store *s, const struct uuid *build, const char *name,
                      struct store_object **ret)
{
    char id[UUID_TEXT_BYTES];
    struct store_object *o;

    if (!name_is_safe(name))
        return -EINVAL;
    o = calloc(1, sizeof(*o));
    if (!o)
        return -ENOMEM;
    o->store = s;
    o->fd = -1;
    pthread_mutex_init(&o->mu, NULL);
    snprintf(o->path, sizeof(o->path), "%s/%s", uuid_format(build, id), name);
    *ret = o;
    return 0;
}

void store_object_close(struct store_object *o)
{
    if (!o)
        return;
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

static void start_read(struct store_read *r)
{
    struct store_object *o = r->object;

    r->io = (struct io_request){
        .op = IO_READ,
        .priority = r->priority,
        .fd = o->fd,
        .buf = r->buf,
        .len_bytes = round_up(r->len_bytes, PAGE_BYTES),
        .offset = r->offset.v,
        .done = read_done,
    };
    io_submit(o->store->io, &r->io);
}

static void start_open(struct store_object *o, int extra_flags);

static void open_done(struct io_request *io, ssize_t result)
{
    struct store_object *o = container_of(io, struct store_object, open);
    struct store_read *list, *next;

    if (result == -EINVAL && (io->flags & O_DIRECT)) {
        start_open(o, 0); /* a file system without O_DIRECT: open(2) */
        return;
    }
    mutex_lock(&o->mu);
    if (result >= 0)
        o->fd = (int)result;
    o->state = result >= 0 ? OBJECT_OPEN : OBJECT_CLOSED;
    list = TAKE_PTR(o->pending);
    mutex_unlock(&o->mu);
    for (; list; list = next) {
        next = list->next;
        if (result >= 0)
            start_read(list);
        else
            list->done(list, result);
    }
}

static void start_open(struct store_object *o, int extra_flags)
{
    o->open = (struct io_request){
        .op = IO_OPEN,
        .priority = IO_DEMAND,
        .fd = o->store->dir_fd,
        .path = o->path,
        .flags = O_RDONLY | extra_flags,
        .done = open_done,
    };
    io_submit(o->store->io, &o->open);
}

void store_read(struct store_read *r)
{
    struct store_object *o = r->object;
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
        start_read(r);
    if (open_now)
        start_open(o, O_DIRECT);
}
