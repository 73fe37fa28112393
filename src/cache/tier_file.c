/* SPDX-License-Identifier: Apache-2.0 */

/* Files of the disk tier: open and close. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/tier_internal.h"

/* Nothing but a regular file is opened here, and nothing waits for a FIFO's other end: fifo(7). */
#define OPEN_FLAGS (O_DIRECT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

/* --- the struct --- */

static void file_free(struct tier_file *f)
{
    if (!f)
        return;
    close_fd(&f->data);
    close_fd(&f->sums_file);
    if (f->tables)
        munmap(f->tables, f->tables_bytes);
    free(f);
}

DEFINE_CLEANUP(struct tier_file, file_free);

static int file_new(struct tier *t, uint64_t size_bytes, struct tier_file **ret)
{
    struct tier_file *f CLEANUP(cleanup_file_free) = NULL;
    int r;

    if (size_bytes == 0 || div_round_up(size_bytes, GRANULE_BYTES) >= UINT32_MAX)
        return -EINVAL;
    f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->tier = t;
    f->data = f->sums_file = -1;
    f->size_bytes = size_bytes;
    f->granules = (uint32_t)div_round_up(size_bytes, GRANULE_BYTES);
    r = tier_tables_make(f);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(f);
    return 0;
}

static uint64_t data_bytes(const struct tier_file *f)
{
    return round_up(f->size_bytes, PAGE_BYTES);
}

static uint64_t sums_bytes(const struct tier_file *f)
{
    return TIER_PAGE_BYTES + sums_object_bytes(f->size_bytes);
}

/* --- files with a name --- */

static bool is_file_of(int fd, uint64_t bytes)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

/*
 * What the open was not to wait for, reads may. io_uring takes the flag for a file that never makes
 * anybody wait: it has its one thread wait, or answers -EAGAIN each time, as the kernel, file
 * system, and device are.
 */
static int open_file(const struct tier *t, const char *name, int flags)
{
    int fd CLEANUP_FD = openat(t->files, name, flags | OPEN_FLAGS, 0600);
    int now;

    if (fd < 0)
        return -errno;
    now = fcntl(fd, F_GETFL);
    if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* 0, or why there are no files that are of this object, all of them. */
static int open_pair(struct tier_file *f)
{
    int flags = f->writable ? O_RDWR : O_RDONLY;
    int r;

    f->data = open_file(f->tier, f->data_name, flags);
    if (f->data < 0)
        return f->data;
    f->sums_file = open_file(f->tier, f->sums_name, flags);
    if (f->sums_file < 0)
        return f->sums_file;
    if (!is_file_of(f->data, data_bytes(f)) || !is_file_of(f->sums_file, sums_bytes(f)))
        return -EBADMSG;
    r = tier_sums_identify(f);
    f->identified = r == 0;
    return r;
}

static void remove_pair(struct tier_file *f)
{
    close_fd(&f->data);
    close_fd(&f->sums_file);
    unlinkat(f->tier->files, f->data_name, 0);
    unlinkat(f->tier->files, f->sums_name, 0);
}

static int make_file(struct tier *t, const char *name, uint64_t bytes, int *ret)
{
    int fd CLEANUP_FD = open_file(t, name, O_RDWR | O_CREAT | O_EXCL);

    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)bytes) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

static int make_pair(struct tier_file *f)
{
    int r = make_file(f->tier, f->data_name, data_bytes(f), &f->data);

    if (r == 0)
        r = make_file(f->tier, f->sums_name, sums_bytes(f), &f->sums_file);
    if (r < 0)
        remove_pair(f);
    return r;
}

/* Whether a failure to open them says something of this process or its host, not of them. */
static bool is_passing(int r)
{
    return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -EINTR || r == -EAGAIN;
}

/* Opens or makes the files, and has the name in the list. */
static int open_or_make(struct tier_file *f)
{
    struct tier *t = f->tier;
    uint64_t there;
    int r;
    LOCK_SCOPE(&t->folder_mu);

    if (tier_is_open(t, f->data_name))
        return -EBUSY;
    there = tier_blocks(t, f->data_name) + tier_blocks(t, f->sums_name);
    r = open_pair(f);
    if (is_passing(r))
        return r;
    if (r < 0 && !f->writable)
        return -EROFS;
    atomic_fetch_sub_explicit(&t->shut_bytes, (int64_t)there, memory_order_relaxed);
    if (r < 0) {
        remove_pair(f);
        r = make_pair(f);
    }
    if (r == 0)
        tier_enlist(f);
    return r;
}

/* --- open --- */

/* Used now: for whoever looks for what has not been for the longest time. */
static void touch(struct tier_file *f)
{
    if (f->writable && !f->overlay)
        futimens(f->data, NULL);
}

int tier_file_open(struct tier *t, const struct tier_file_options *o, struct tier_file **ret)
{
    struct tier_file *f CLEANUP(cleanup_file_free) = NULL;
    char build[UUID_TEXT_BYTES];
    int r = file_new(t, o->size_bytes, &f);

    if (r == 0)
        r = tier_identity_init(&f->identity, o->build, o->name, o->size_bytes, o->origin);
    if (r < 0)
        return r;
    uuid_format(o->build, build);
    snprintf(f->data_name, sizeof(f->data_name), "%s.%s.%016" PRIx64 ".data", build, o->name,
             o->origin);
    snprintf(f->sums_name, sizeof(f->sums_name), "%s.%s.%016" PRIx64 ".sums", build, o->name,
             o->origin);
    f->writable = tier_writable(t);
    r = open_or_make(f);
    if (r < 0)
        return r;
    if (f->identified)
        tier_sums_load(f);
    tier_find(f);
    f->sums_bytes = tier_blocks(t, f->sums_name);
    tier_account(f, (int64_t)f->sums_bytes);
    touch(f);
    tier_set_ready(f);
    *ret = TAKE_PTR(f);
    tier_room_given(t); /* some of it, if there is no other */
    return 0;
}

/* --- files without --- */

/* For file systems without O_TMPFILE. One that refuses O_DIRECT has made the file all the same. */
static int make_unnamed(struct tier *t)
{
    char name[UUID_TEXT_BYTES];
    struct uuid id;
    int r = uuid_random(&id), fd;

    if (r < 0)
        return r;
    fd = open_file(t, uuid_format(&id, name), O_RDWR | O_CREAT | O_EXCL);
    unlinkat(t->files, name, 0);
    return fd;
}

static int open_unnamed(struct tier *t)
{
    int fd = openat(t->files, ".", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT))
        return make_unnamed(t);
    return fd < 0 ? -errno : fd;
}

int tier_file_create(struct tier *t, uint32_t granules, struct tier_file **ret)
{
    struct tier_file *f CLEANUP(cleanup_file_free) = NULL;
    int r = file_new(t, granules * GRANULE_BYTES, &f);

    if (r < 0)
        return r;
    f->overlay = f->writable = true;
    f->data = open_unnamed(t);
    if (f->data < 0)
        return f->data;
    if (ftruncate(f->data, (off_t)data_bytes(f)) < 0)
        return -errno;
    mutex_lock(&t->folder_mu);
    tier_enlist(f);
    mutex_unlock(&t->folder_mu);
    tier_set_ready(f);
    *ret = TAKE_PTR(f);
    return 0;
}

/* --- close --- */

/* Its name is free from here on, and what is in the files belongs to nobody. */
static void leave_folder(struct tier_file *f)
{
    struct tier *t = f->tier;
    int64_t left = 0;
    LOCK_SCOPE(&t->folder_mu);

    if (!f->overlay && f->writable && !f->identified)
        remove_pair(f);
    else if (!f->overlay)
        left = (int64_t)(tier_blocks(t, f->data_name) + tier_blocks(t, f->sums_name));
    tier_account(f, -(int64_t)tier_file_bytes(f));
    atomic_fetch_add_explicit(&t->shut_bytes, left, memory_order_relaxed);
    if (!f->overlay)
        atomic_store(&t->nothing_shut, false);
    tier_unlist(f);
}

void tier_file_close(struct tier_file *f)
{
    struct tier *t;

    if (!f)
        return;
    t = f->tier;
    tier_set_closing(f);
    tier_sums_write(f);
    touch(f);
    leave_folder(f);
    file_free(f); /* gives back the room of an overlay */
    tier_room_given(t);
}
