/* SPDX-License-Identifier: Apache-2.0 */

/* The disk tier as a whole: its folder, the lock on it, its accounts, and when it gives up. */
#include "cache/tier_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cache/folder.h"

/* --- the folder --- */

static int open_folder(struct tier *t, const char *folder, struct thaw_error *e)
{
    char path[PATH_MAX];
    int fd CLEANUP_FD = cache_folder_open(folder, path, e);

    if (fd < 0)
        return fd;
    t->path = strdup(path);
    if (!t->path)
        return err_set(e, -ENOMEM, "no memory for the disk tier");
    if (mkdirat(fd, "tier", 0700) < 0 && errno != EEXIST)
        return err_errno(e, -errno, "making the folder %s/tier", path);
    t->files = openat(fd, "tier", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (t->files < 0)
        return err_errno(e, -errno, "opening the folder %s/tier", path);
    t->lock = openat(fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (t->lock < 0)
        return err_errno(e, -errno, "opening %s/lock", path);
    return 0;
}

/* Unless a bound was given. */
static void set_usual_bound(struct tier *t)
{
    struct statvfs v;

    if (t->max_bytes == 0)
        t->max_bytes = fstatvfs(t->files, &v) < 0 ? UINT64_MAX : v.f_blocks / 4 * v.f_frsize;
}

/* Who has the lock says so in the file, which is written like all others: past the page cache.
 * Nothing depends on it. */
static void write_owner(struct tier *t)
{
    char *page CLEANUP_FREE = aligned_alloc(PAGE_BYTES, PAGE_BYTES);

    if (!page)
        return;
    memset(page, 0, PAGE_BYTES);
    snprintf(page, PAGE_BYTES, "%d\n", (int)getpid());
    if (ftruncate(t->lock, 0) < 0 || fcntl(t->lock, F_SETFL, O_DIRECT) < 0 ||
        file_write_at(t->lock, page, PAGE_BYTES, 0) < 0)
        log_debug("%s/lock does not say whose it is: %s", t->path, strerror(errno));
}

static int take_lock(struct tier *t, struct thaw_error *e)
{
    while (flock(t->lock, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR)
            return err_errno(e, -errno, "locking %s/lock", t->path);
    }
    t->owned = true;
    write_owner(t);
    return 0;
}

/* Whether files can be made here that bypass the page cache. */
static int try_folder(struct tier *t, struct thaw_error *e)
{
    struct tier_file *f;
    int r = tier_file_create(t, 1, &f);

    if (r == -EINVAL || r == -EOPNOTSUPP)
        return err_set(e, -EINVAL,
                       "the file system of %s knows no O_DIRECT, which the disk tier needs: "
                       "name a folder on another one",
                       t->path);
    if (r < 0)
        return err_errno(e, r, "making a file in %s/tier", t->path);
    tier_file_close(f);
    return 0;
}

/* --- life --- */

static struct tier *tier_alloc(const struct tier_options *options)
{
    struct tier *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->io = options->io;
    t->files = t->lock = -1;
    t->max_bytes = options->max_bytes;
    t->keep_free_percent =
        options->keep_free_percent ? options->keep_free_percent : TIER_KEEP_FREE_PERCENT;
    pthread_mutex_init(&t->folder_mu, NULL);
    pthread_mutex_init(&t->mu, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->rest, NULL);
    return t;
}

int tier_create(const struct tier_options *options, struct tier **ret, struct thaw_error *e)
{
    struct tier *t CLEANUP_TIER = NULL;
    int r;

    if (options->keep_free_percent >= 100)
        return err_set(e, -EINVAL, "%u%% of a disk cannot be kept free by who writes to it",
                       options->keep_free_percent);
    t = tier_alloc(options);
    if (!t)
        return err_set(e, -ENOMEM, "no memory for the disk tier");
    r = open_folder(t, options->folder, e);
    if (r == 0)
        r = take_lock(t, e);
    if (r == 0)
        r = try_folder(t, e);
    if (r < 0)
        return r;
    set_usual_bound(t);
    if (io_direct_create(t->io, &t->direct) < 0)
        t->direct = NULL;
    tier_survey(t, false);
    r = thread_start(&t->thread, "thaw-tier", tier_thread, t);
    if (r < 0)
        return err_errno(e, r, "starting the thread of the disk tier");
    t->started = true;
    *ret = TAKE_PTR(t);
    return 0;
}

static void stop_thread(struct tier *t)
{
    mutex_lock(&t->mu);
    t->quitting = true;
    mutex_unlock(&t->mu);
    tier_rouse(t);
    thread_join(t->thread);
}

static void give_up_lock(struct tier *t)
{
    if (t->owned && ftruncate(t->lock, 0) < 0)
        log_debug("%s/lock still says whose it was: %s", t->path, strerror(errno));
    if (t->owned)
        flock(t->lock, LOCK_UN); /* children of the process may have the descriptor, too */
    close_fd(&t->lock);
}

void tier_destroy(struct tier *t)
{
    if (!t)
        return;
    if (t->started)
        stop_thread(t);
    assert(!t->list);
    io_engine_destroy(t->direct);
    give_up_lock(t);
    close_fd(&t->files);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->rest);
    pthread_mutex_destroy(&t->mu);
    pthread_mutex_destroy(&t->folder_mu);
    free(t->path);
    free(t);
}

bool tier_writable(const struct tier *t)
{
    return t->owned && !tier_given_up(t, TIER_WRITES);
}

bool tier_only_reads(const struct tier *t)
{
    return !t->owned && !tier_given_up(t, TIER_READS);
}

int tier_owner(const struct tier *t)
{
    char text[16] = "";
    long pid;

    if (t->owned || file_read_at(t->lock, text, sizeof(text) - 1, 0) < 0)
        return 0;
    pid = strtol(text, NULL, 10);
    return pid > 0 && pid <= INT_MAX ? (int)pid : 0;
}

/* --- giving up --- */

void tier_succeeded(struct tier *t, enum tier_failing what)
{
    if (atomic_load_explicit(&t->in_a_row[what], memory_order_relaxed) != 0)
        atomic_store_explicit(&t->in_a_row[what], 0, memory_order_relaxed);
}

/* True for the one who gives it up. */
static bool give_up(struct tier *t, enum tier_failing what, int r)
{
    int none = 0;

    return atomic_compare_exchange_strong(&t->failed[what], &none, r);
}

void tier_failure(struct tier *t, enum tier_failing what, int r)
{
    if (r == -ENOMEM)
        return; /* not the disk's fault */
    tier_count(&t->errors[what], 1);
    if (atomic_fetch_add_explicit(&t->in_a_row[what], 1, memory_order_relaxed) + 1 < TIER_FAILURES)
        return;
    /* What cannot be read need not be written. */
    if (what == TIER_READS)
        give_up(t, TIER_WRITES, r);
    if (give_up(t, what, r))
        log_warning("disk tier: cannot %s in %s/tier: %s; going on without it: %s",
                    what == TIER_READS ? "read" : "write", t->path, strerror(-r),
                    what == TIER_READS ? "everything comes from the store"
                                       : "nothing more is kept there");
}

/* --- accounts --- */

static uint64_t get(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void tier_account(struct tier_file *f, int64_t bytes)
{
    tier_count(&f->bytes, (uint64_t)bytes);
    tier_count(f->overlay ? &f->tier->overlay_bytes : &f->tier->open_bytes, (uint64_t)bytes);
}

struct tier_counters tier_counters(const struct tier *t)
{
    int64_t shut = atomic_load_explicit(&t->shut_bytes, memory_order_relaxed);

    return (struct tier_counters){
        .bytes = get(&t->open_bytes) + (uint64_t)MAX(shut, 0),
        .overlay_bytes = get(&t->overlay_bytes),
        .max_bytes = t->max_bytes == UINT64_MAX ? 0 : t->max_bytes,
        .read_bytes = get(&t->read_bytes),
        .written_bytes = get(&t->written_bytes),
        .evicted_bytes = get(&t->evicted_bytes),
        .damaged = get(&t->damaged),
        .read_errors = get(&t->errors[TIER_READS]),
        .write_errors = get(&t->errors[TIER_WRITES]),
        .no_room = get(&t->no_room),
        .stalls = get(&t->stalls),
        .writable = tier_writable(t),
    };
}
