/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_STORE_DIR_H
#define THAW_STORE_DIR_H

/*
 * The directory store: STORE/<build>/<object>, plain files.
 *
 * STORE itself is the operator's choice and may be reached through symbolic links. Below it none is
 * followed: a build is a folder, an object a regular file, each opened by one name without a slash
 * and with O_NOFOLLOW, so that nothing in a store leads out of it. (Two opens of one component each
 * do without openat2(2) what its RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS would, on every kernel and
 * under every seccomp filter.) Whatever else bears such a name is no build, and as an object it is
 * -EBADMSG; opening a FIFO does not wait.
 *
 * A build that is being written or deleted is claimed: the store holds a lock, flock(2), on the
 * build's folder until the manifest is there, the build is gone or the store is closed. So the
 * second creator of an id is told before it has written anything, and nobody removes as leftovers
 * what another process is still writing. The kernel drops the claim of a process that dies. Where a
 * file system has no such locks, immutable objects alone keep creators apart.
 */

#include <pthread.h>

#include "base/cleanup.h"
#include "store/internal.h"

struct dir_claim {
    struct dir_claim *next;
    struct uuid build;
    int fd; /* owned: the build's folder, locked */
};

struct dir_store {
    struct store store;
    int dir_fd;           /* owned */
    struct io_engine *io; /* borrowed */
    char *path;           /* owned; for messages */
    pthread_mutex_t mu;
    struct dir_claim *claims; /* [m] mu; owned */
};

static inline struct dir_store *dir_store_of(struct store *s)
{
    return (struct dir_store *)(void *)s; /* its first member */
}

/** dir_store_open() - the store in folder @path, as store_open() says */
[[gnu::warn_unused_result]] int dir_store_open(const char *path, struct io_engine *io, bool create,
                                               struct store **ret, struct thaw_error *e);

/**
 * dir_fail() - "VERB STORE/BUILD/NAME: why" into @e
 * @name: NULL for the build's folder itself
 *
 * Returns: @code.
 */
int dir_fail(const struct dir_store *d, const struct uuid *build, const char *name, int code,
             const char *verb, struct thaw_error *e);

/** dir_open_build() - the folder of @build; descriptor, -ENOENT, -ENOTDIR or another -errno */
[[gnu::warn_unused_result]] int dir_open_build(const struct dir_store *d, const struct uuid *build);

/** dir_check_object() - 0 if @fd is a regular file, -EBADMSG if not; lets its reads wait again */
[[gnu::warn_unused_result]] int dir_check_object(int fd, int flags);

/* How an object is opened for reading: a FIFO must not make anybody wait. */
#define DIR_OBJECT_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

/**
 * dir_claim() - lock @build for writing; stays until dir_claim_release() or store_close()
 * @create: make the folder, durably, if it is missing
 *
 * Returns: 0 (also when this store has the claim already); -EBUSY: another one has it; -ENOENT.
 */
[[gnu::warn_unused_result]] int dir_claim(struct dir_store *d, const struct uuid *build,
                                          bool create);
void dir_claim_release(struct dir_store *d, const struct uuid *build);

/* The operations, by the file they are in: dir_read.c */
int dir_object_open(struct store *s, const struct uuid *build, const char *name,
                    struct store_object **ret);
void dir_object_close(struct store_object *o);
void dir_read(struct store_read *r);

/* dir_write.c */
int dir_writer_open(struct store *s, const struct uuid *build, const char *name,
                    struct store_writer **ret, struct thaw_error *e);
int dir_writer_append(struct store_writer *w, const void *bytes, size_t len_bytes,
                      struct thaw_error *e);
int dir_writer_commit(struct store_writer *w, struct thaw_error *e);
void dir_writer_close(struct store_writer *w);

/* dir_list.c */
int dir_list_builds(struct store *s, struct store_builds *ret, struct thaw_error *e);
int dir_list_objects(struct store *s, const struct uuid *build, struct store_objects *ret,
                     struct thaw_error *e);

/* dir_delete.c */
int dir_object_delete(struct store *s, const struct uuid *build, const char *name,
                      struct thaw_error *e);
int dir_build_delete(struct store *s, const struct uuid *build, struct thaw_error *e);
int dir_build_discard(struct store *s, const struct uuid *build, struct thaw_error *e);

#endif
