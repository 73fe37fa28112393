/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The part that is the same for all sources: which threads there are, where they sleep, the table,
 * and the thread that looks. The files of a thread stay open from one look to the next, which makes
 * a look at a thread one pread(2) of some two microseconds.
 */
#include "observe/throttle.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"
#include "observe/throttle_internal.h"

#define MAX_WATCHED 65536
#define LIST_NS     (10 * NS_PER_MS) /* threads are listed at most this often */
#define NAMED_TWICE 2                /* listings after which a thread has got its name */

static const struct throttle_source *const sources[] = {&throttle_bpf, &throttle_perf,
                                                        &throttle_delayacct, &throttle_wchan};

/* The table. */

struct throttle_thread *throttle_row(struct throttle *t, pid_t tid,
                                     const char name[THROTTLE_NAME_BYTES])
{
    struct throttle_thread *row;

    for (size_t i = 0; i < t->counts.thread_count; i++) {
        row = &t->threads[i];
        if (row->tid == tid && strncmp(row->name, name, THROTTLE_NAME_BYTES) == 0)
            return row;
    }
    if (t->counts.thread_count == THROTTLE_MAX_THREADS)
        return NULL;
    row = &t->threads[t->counts.thread_count++];
    *row = (struct throttle_thread){.tid = tid};
    memcpy(row->name, name, THROTTLE_NAME_BYTES);
    row->name[THROTTLE_NAME_BYTES - 1] = '\0';
    return row;
}

int throttle_open_task(const struct throttle *t, pid_t tid, const char *file)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "%d/%s", tid, file);
    fd = openat(dirfd(t->tasks), path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Where @tid is among the watched, or would be. */
static size_t place_of(const struct throttle *t, pid_t tid)
{
    size_t low = 0, high = t->watched_count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (t->watched[mid].tid < tid)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int read_name(const struct throttle *t, pid_t tid, char ret[THROTTLE_NAME_BYTES])
{
    int fd CLEANUP_FD = throttle_open_task(t, tid, "comm");
    char text[THROTTLE_NAME_BYTES + 1] = ""; /* with a newline */

    if (fd < 0 || pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return -ESRCH;
    text[strcspn(text, "\n")] = '\0';
    memset(ret, 0, THROTTLE_NAME_BYTES);
    memcpy(ret, text, strnlen(text, THROTTLE_NAME_BYTES - 1));
    return 0;
}

/* The name it has, else the one that it was last known by, else "". */
static void name_of(const struct throttle *t, pid_t tid, char ret[THROTTLE_NAME_BYTES])
{
    size_t at = place_of(t, tid);

    memset(ret, 0, THROTTLE_NAME_BYTES);
    if (read_name(t, tid, ret) < 0 && at < t->watched_count && t->watched[at].tid == tid)
        memcpy(ret, t->watched[at].name, THROTTLE_NAME_BYTES);
}

void throttle_add(struct throttle *t, pid_t tid, uint64_t pauses, uint64_t ns)
{
    char name[THROTTLE_NAME_BYTES];
    struct throttle_thread *row;

    name_of(t, tid, name);
    row = throttle_row(t, tid, name);
    if (row) {
        row->pauses += pauses;
        row->paused_ns += ns;
    }
    t->counts.pauses += pauses;
    t->counts.paused_ns += ns;
}

/* Which threads there are. */

static void forget(struct throttle_watched *w)
{
    close_fd(&w->wchan_fd);
    close_fd(&w->source_fd);
}

static int grow(struct throttle *t)
{
    size_t cap = t->watched_cap ? 2 * t->watched_cap : 64;
    struct throttle_watched *grown;

    if (t->watched_count < t->watched_cap)
        return 0;
    grown = cap <= MAX_WATCHED ? reallocarray(t->watched, cap, sizeof(*grown)) : NULL;
    if (!grown)
        return -ENOMEM;
    t->watched = grown;
    t->watched_cap = cap;
    return 0;
}

static int watch(struct throttle *t, size_t at, pid_t tid, bool old)
{
    struct throttle_watched w = {.tid = tid, .listed = true, .source_fd = -1};

    if (grow(t) < 0)
        return -ENOMEM;
    w.wchan_fd = throttle_open_task(t, tid, "wchan");
    if (w.wchan_fd < 0)
        return w.wchan_fd;
    (void)read_name(t, tid, w.name); /* one that ended at once has none */
    memmove(&t->watched[at + 1], &t->watched[at], (t->watched_count - at) * sizeof(w));
    t->watched[at] = w;
    t->watched_count++;
    if (t->source->begin)
        t->source->begin(t, &t->watched[at], old);
    return 0;
}

/* A number that a new thread has got again shows by the old one's descriptor. */
static bool is_gone(const struct throttle_watched *w)
{
    char c;

    return pread(w->wchan_fd, &c, 1, 0) < 0;
}

static int meet(struct throttle *t, pid_t tid, bool old)
{
    size_t at = place_of(t, tid);
    struct throttle_watched *w = &t->watched[at];

    if (at < t->watched_count && w->tid == tid) {
        if (!is_gone(w)) {
            w->listed = true;
            return w->met++ < NAMED_TWICE ? read_name(t, tid, w->name) : 0;
        }
        forget(w);
        t->watched_count--;
        memmove(w, w + 1, (t->watched_count - at) * sizeof(*w));
    }
    return watch(t, at, tid, old);
}

static void drop_unlisted(struct throttle *t)
{
    size_t kept = 0;

    for (size_t i = 0; i < t->watched_count; i++) {
        if (t->watched[i].listed)
            t->watched[kept++] = t->watched[i];
        else
            forget(&t->watched[i]);
    }
    t->watched_count = kept;
}

/* 0, or why some thread is not watched; one that ends meanwhile is no reason */
static int list_threads(struct throttle *t, bool old)
{
    const struct dirent *d;
    int result = 0;

    for (size_t i = 0; i < t->watched_count; i++)
        t->watched[i].listed = false;
    rewinddir(t->tasks);
    while ((d = readdir(t->tasks))) {
        long tid = strtol(d->d_name, NULL, 10);
        int r = tid > 0 ? meet(t, (pid_t)tid, old) : 0;

        if (r < 0 && r != -ENOENT && r != -ESRCH)
            result = r;
    }
    drop_unlisted(t);
    return result;
}

/* Where they sleep. */

static bool is_inside(const struct throttle_watched *w)
{
    char symbol[64];
    ssize_t n = pread(w->wchan_fd, symbol, sizeof(symbol), 0);
    size_t len = strlen(THROTTLE_EVENT);

    /* The beginning only: compilers and kernels put suffixes to the name. */
    return n >= (ssize_t)len && memcmp(symbol, THROTTLE_EVENT, len) == 0;
}

static void saw(struct throttle *t, const struct throttle_watched *w)
{
    char name[THROTTLE_NAME_BYTES];
    struct throttle_thread *row;

    name_of(t, w->tid, name);
    row = throttle_row(t, w->tid, name);
    if (row)
        row->seen++;
}

static unsigned look_at_threads(struct throttle *t, uint64_t now)
{
    uint64_t elapsed = now - t->looked_at_ns;
    unsigned inside = 0;

    for (size_t i = 0; i < t->watched_count; i++) {
        struct throttle_watched *w = &t->watched[i];
        bool was_inside = w->inside;

        w->inside = is_inside(w);
        if (w->inside) {
            saw(t, w);
            inside++;
        }
        if (t->source->look)
            t->source->look(t, w, was_inside, elapsed);
    }
    return inside;
}

unsigned throttle_look(struct throttle *t)
{
    uint64_t now;
    unsigned inside;

    LOCK_SCOPE(&t->mu);
    if (t->source->collect) /* before threads that ended, and their names, are forgotten */
        t->source->collect(t);
    now = clock_now_ns();
    if (now - t->listed_at_ns >= LIST_NS) {
        if (list_threads(t, false) < 0)
            log_debug("throttle: not every thread can be watched");
        t->listed_at_ns = now;
    }
    inside = look_at_threads(t, now);
    t->looked_at_ns = now;
    t->counts.looks++;
    t->counts.threads_now = inside;
    t->counts.threads_seen += inside;
    return inside;
}

/* The thread. */

static void *run(void *arg)
{
    struct throttle *t = arg;
    struct pollfd p[] = {{.fd = t->stop_fd, .events = POLLIN},
                         {.fd = t->timer_fd, .events = POLLIN}};

    for (;;) {
        uint64_t expired;
        unsigned inside;

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue; /* EINTR; nothing else can fail with these two */
        if (p[0].revents)
            return NULL;
        if (read(t->timer_fd, &expired, sizeof(expired)) < 0)
            continue;
        inside = throttle_look(t);
        if (t->options.sample)
            t->options.sample(t->options.sample_arg, clock_now_ns(), inside);
    }
}

static int start_thread(struct throttle *t)
{
    uint64_t ns = t->options.interval_ns;
    struct timespec every = {.tv_sec = (time_t)(ns / NS_PER_SEC),
                             .tv_nsec = (long)(ns % NS_PER_SEC)};
    struct itimerspec timer = {.it_interval = every, .it_value = every};
    int r;

    t->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (t->stop_fd < 0 || t->timer_fd < 0 || timerfd_settime(t->timer_fd, 0, &timer, NULL) < 0)
        return -errno;
    r = thread_start(&t->thread, "thaw-dirty", run, t);
    t->thread_runs = r == 0;
    return r;
}

/* Start and stop. */

DEFINE_CLEANUP(struct throttle, throttle_stop);

static const struct throttle_source *find_source(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
        if (strcmp(sources[i]->name, name) == 0)
            return sources[i];
    }
    return NULL;
}

static int open_source(const struct throttle_source *s, void **ret_state, struct thaw_error *e)
{
    int r = s->open(ret_state, e);

    if (r < 0)
        err_wrap(e, "counting throttle pauses by %s", s->name);
    return r;
}

static int choose_source(struct throttle *t, struct thaw_error *e)
{
    const struct throttle_source *wanted = NULL;
    int r = -EINVAL;

    if (t->options.source) {
        wanted = find_source(t->options.source);
        if (!wanted)
            return err_set(e, -EINVAL, "there is no way \"%s\" to count throttle pauses",
                           t->options.source);
    }
    for (size_t i = 0; r < 0 && i < ARRAY_SIZE(sources); i++) {
        struct thaw_error why = THAW_ERROR_INIT;

        if (wanted && sources[i] != wanted)
            continue;
        r = open_source(sources[i], &t->state, wanted ? e : &why);
        if (r == 0)
            t->source = sources[i];
        else if (!wanted)
            log_debug("%s", why.text);
    }
    return r;
}

static int prepare(struct throttle *t, struct thaw_error *e)
{
    int r;

    t->threads = calloc(THROTTLE_MAX_THREADS, sizeof(*t->threads));
    if (!t->threads)
        return err_set(e, -ENOMEM, "watching threads: no memory");
    t->tasks = opendir("/proc/self/task");
    if (!t->tasks)
        return err_errno(e, -errno, "watching threads: /proc/self/task");
    r = choose_source(t, e);
    if (r < 0)
        return r;
    t->counts.source = t->source->name;
    t->counts.exact = t->source->exact;
    t->listed_at_ns = t->looked_at_ns = clock_now_ns();
    mutex_lock(&t->mu);
    r = list_threads(t, true);
    mutex_unlock(&t->mu);
    if (r < 0)
        return err_errno(e, r, "watching threads");
    throttle_look(t);
    r = start_thread(t);
    return r < 0 ? err_errno(e, r, "watching threads: thaw-dirty") : 0;
}

int throttle_start(const struct throttle_options *options, struct throttle **ret,
                   struct thaw_error *e)
{
    struct throttle *t CLEANUP(cleanup_throttle_stop) = NULL;
    int r;

    if (options->interval_ns != 0 && options->interval_ns < THROTTLE_MIN_NS)
        return err_set(e, -EINVAL, "threads are looked at every millisecond at most");
    t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(e, -ENOMEM, "watching threads: no memory");
    t->options = *options;
    if (t->options.interval_ns == 0)
        t->options.interval_ns = THROTTLE_INTERVAL_NS;
    t->timer_fd = t->stop_fd = -1;
    pthread_mutex_init(&t->mu, NULL);
    r = prepare(t, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(t);
    return 0;
}

void throttle_stop(struct throttle *t)
{
    if (!t)
        return;
    if (t->thread_runs) {
        eventfd_write(t->stop_fd, 1);
        thread_join(t->thread);
    }
    for (size_t i = 0; i < t->watched_count; i++)
        forget(&t->watched[i]);
    if (t->source && t->source->close)
        t->source->close(t->state);
    if (t->tasks)
        closedir(t->tasks);
    close_fd(&t->timer_fd);
    close_fd(&t->stop_fd);
    pthread_mutex_destroy(&t->mu);
    free(t->watched);
    free(t->threads);
    free(t);
}

void throttle_read(struct throttle *t, struct throttle_counts *ret,
                   struct throttle_thread *ret_threads, size_t max)
{
    size_t n;

    LOCK_SCOPE(&t->mu);
    if (t->source->collect)
        t->source->collect(t);
    *ret = t->counts;
    n = t->counts.thread_count < max ? t->counts.thread_count : max;
    if (n > 0)
        memcpy(ret_threads, t->threads, n * sizeof(*ret_threads));
}

const char *throttle_source_name(size_t i)
{
    return i < ARRAY_SIZE(sources) ? sources[i]->name : NULL;
}

int throttle_probe(const char *name, struct thaw_error *e)
{
    const struct throttle_source *s = find_source(name);
    void *state = NULL;
    int r;

    if (!s)
        return err_set(e, -EINVAL, "there is no way \"%s\" to count throttle pauses", name);
    r = open_source(s, &state, e);
    if (r == 0 && s->close)
        s->close(state);
    return r;
}
