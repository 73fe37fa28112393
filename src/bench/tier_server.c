/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/tier_server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "base/uuid.h"
#include "cache/cache.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "format/manifest.h"
#include "image/image.h"
#include "kernel/io.h"
#include "store/store.h"

#define LOOK_MS    10   /* at what tells nobody when it changes */
#define HUGE_LOOKS 500u /* what is not a huge page after five seconds is none */

/* --- the serving process: everything is left to its end --- */

struct parts {
    struct io_engine *io;
    struct cache_set *caches;
    struct fetch *fetch;
    struct store *store;
    struct manifest *manifest;
    struct image *image;
    struct memory_server *server;
};

/* A granule comes and is unused from then on. */
static int touch_granule(struct cache_set *set, struct cache *c, uint32_t granule)
{
    struct cache_room room;
    void *memory;
    int r = cache_room_take(set, 1, true, &room);

    if (r == 0)
        r = cache_reserve(c, granule, &room, &memory);
    if (r < 0)
        return r;
    memset(memory, 1, GRANULE_BYTES);
    cache_hold_put(set, cache_publish(c, granule));
    return 0;
}

/* By a cache as large as the budget: when it is destroyed its slots are free and have memory. */
static int touch_pool(struct cache_set *set, uint64_t bytes, struct thaw_error *e)
{
    struct uuid none = {0};
    struct cache *c CLEANUP_CACHE = NULL;
    int r = cache_create(
        set, &(struct cache_options){.build = &none, .object = "touched", .size_bytes = bytes}, &c,
        e);

    if (r < 0)
        return r;
    for (uint32_t g = 0; g < cache_granules(c) && r == 0; g++)
        r = touch_granule(set, c, g);
    return r < 0 ? err_errno(e, r, "touching the memory of the caches") : 0;
}

/* As that of a thaw that has run for a while: in huge pages, as far as this host has any. */
static void await_huge_pages(const struct cache_set *set, uint64_t bytes)
{
    char why[HUGE_PAGES_WHY_BYTES];

    if (huge_pages_missing("", HUGE_PAGES_THP, bytes, why))
        return;
    for (unsigned i = 0; i < HUGE_LOOKS && cache_set_huge_bytes(set) < bytes; i++)
        poll(NULL, 0, LOOK_MS);
}

static int open_caches(struct parts *p, const struct tier_job *job, struct thaw_error *e)
{
    int r = io_engine_create(IO_KIND_AUTO, &p->io, e);

    if (r == 0)
        r = cache_set_create(
            &(struct cache_set_options){
                .backing = CACHE_BACKING_TIERED,
                .folder = job->folder,
                .io = p->io,
                .budget_bytes = job->budget_bytes,
            },
            &p->caches, e);
    if (r == 0)
        r = touch_pool(p->caches, job->budget_bytes, e);
    if (r == 0)
        await_huge_pages(p->caches, job->budget_bytes);
    return r < 0 ? r : fetch_create(p->caches, &p->fetch, e);
}

static int open_image(struct parts *p, const struct tier_job *job, struct thaw_error *e)
{
    struct uuid id;
    int r = uuid_parse(job->build, &id);

    if (r < 0)
        return err_errno(e, r, "build %s", job->build);
    r = store_open(job->store, p->io, false, &p->store, e);
    if (r == 0)
        r = build_manifest_load(p->store, &id, &p->manifest, e);
    return r < 0 ? r : image_open(p->fetch, p->store, p->manifest, IMAGE_MEMORY, &p->image, e);
}

static int listen_for_guests(struct parts *p, const struct tier_job *job, struct thaw_error *e)
{
    return memory_server_create(
        &(struct memory_server_options){
            .socket_path = job->socket_path,
            .image = p->image,
            .vms = job->vms,
            .owner_uid = (uid_t)-1,
            .owner_gid = (gid_t)-1,
            .populate = job->populate,
        },
        &p->server, e);
}

static void take_stats(const struct parts *p, struct tier_stats *ret)
{
    struct timespec ts = {0};

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    ret->cpu_ns = (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
    memory_server_status(p->server, &ret->memory);
    ret->fetch = fetch_counters(p->fetch);
    ret->writable = tier_writable(cache_set_tier(p->caches));
}

/* Of the queue, of what was taken from it last, and of the sums, without which it is not found
 * again. */
static bool is_at_rest(const struct parts *p, const struct tier_stats *stats)
{
    return stats->fetch.behind == 0 && tier_at_rest(cache_set_tier(p->caches));
}

/* What was counted when the moment came. */
static void await(const struct parts *p, char when, struct tier_stats *ret)
{
    bool come = false;

    for (take_stats(p, ret); !come; take_stats(p, ret)) {
        come = when == TIER_NOW || (when == TIER_POPULATED && ret->memory.populated_ns) ||
               (when == TIER_RESTED && is_at_rest(p, ret)) || ret->memory.failed_pages > 0;
        if (!come)
            poll(NULL, 0, LOOK_MS);
    }
}

static int serve(const struct tier_job *job, int control, struct tier_stats *stats,
                 struct thaw_error *e)
{
    static struct parts parts;
    char byte = 'r';
    int r = open_caches(&parts, job, e);

    if (r == 0)
        r = open_image(&parts, job, e);
    if (r == 0)
        r = listen_for_guests(&parts, job, e);
    while (r == 0 && write(control, &byte, 1) == 1 && read(control, &byte, 1) == 1)
        await(&parts, byte, stats);
    return r;
}

/* --- the process that asks --- */

/* Both lie on pages of their own, shared with the server. */
static void *shared(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return map == MAP_FAILED ? NULL : map;
}

static int has_ended(const struct tier_server *s, struct thaw_error *e)
{
    if (s->failed->code == 0)
        return err_set(e, -ECHILD, "the process that serves has ended early");
    if (e)
        *e = *s->failed;
    return s->failed->code;
}

static int answer(const struct tier_server *s, struct thaw_error *e)
{
    char byte;
    ssize_t n;

    do
        n = read(s->control, &byte, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : has_ended(s, e);
}

static int start_process(struct tier_server *s, const struct tier_job *job, struct thaw_error *e)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "making a socket pair");
    fflush(stdout);
    s->pid = fork();
    if (s->pid == 0) {
        close(pair[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* by the only thread that the parent has */
        _exit(serve(job, pair[1], s->stats, s->failed) < 0);
    }
    close(pair[1]);
    s->control = pair[0];
    if (s->pid < 0)
        return err_errno(e, -errno, "starting a process that serves");
    return answer(s, e);
}

int tier_server_start(const struct tier_job *job, struct tier_server *ret, struct thaw_error *e)
{
    struct tier_server s = {
        .pid = -1,
        .control = -1,
        .stats = shared(sizeof(*s.stats)),
        .failed = shared(sizeof(*s.failed)),
    };
    int r;

    unlink(job->socket_path);
    if (!s.stats || !s.failed)
        r = err_set(e, -ENOMEM, "no memory to share with a server");
    else
        r = start_process(&s, job, e);
    *ret = s;
    if (r < 0)
        tier_server_kill(ret);
    return r;
}

int tier_server_ask(struct tier_server *s, enum tier_moment when, struct thaw_error *e)
{
    char byte = (char)when;
    const struct memory_status *m = &s->stats->memory;
    int r;

    if (send(s->control, &byte, 1, MSG_NOSIGNAL) != 1)
        return has_ended(s, e);
    r = answer(s, e);
    if (r == 0 && m->failed_pages > 0)
        return err_errno(e, m->failure, "%llu pages could not be served, the first at byte %llu",
                         (unsigned long long)m->failed_pages, (unsigned long long)m->failure_at);
    return r;
}

void tier_server_kill(struct tier_server *s)
{
    if (s->pid > 0)
        kill(s->pid, SIGKILL);
    while (s->pid > 0 && waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    close_fd(&s->control);
    if (s->stats)
        munmap(s->stats, sizeof(*s->stats));
    if (s->failed)
        munmap(s->failed, sizeof(*s->failed));
    *s = (struct tier_server){.pid = -1, .control = -1};
}
