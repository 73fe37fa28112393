/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/mailbox.h"
#include "base/units.h"
#include "base/uuid.h"
#include "bench/floor.h"
#include "bench/vm.h"
#include "fetch/fetch.h"
#include "format/manifest.h"
#include "image/image.h"
#include "kernel/io.h"
#include "memory/server.h"
#include "store/store.h"

/* --- thaw's server, in the child --- */

struct warm {
    struct fetch_waiter waiter;
    bool done;
};

static void warmed(struct message *m)
{
    container_of(container_of(m, struct fetch_waiter, msg), struct warm, waiter)->done = true;
}

/* Brings one granule into the cache, waiting for it. */
static int warm_granule(struct image *im, const struct image_extent *at, struct mailbox *inbox)
{
    struct warm w = {.waiter = {.to = inbox, .msg = {.deliver = warmed}}};
    struct pollfd p = {.fd = inbox->event_fd, .events = POLLIN};

    if (image_want(im, at, IO_DEMAND, &w.waiter) < 0)
        return 0;
    while (!w.done) {
        poll(&p, 1, -1);
        mailbox_deliver(inbox);
    }
    return w.waiter.result;
}

static int warm_image(struct image *im)
{
    struct image_extent at;
    struct mailbox inbox;
    int r = mailbox_init(&inbox);

    for (uint64_t off = 0; r == 0 && off < image_bytes(im); off += at.len_bytes) {
        r = image_lookup(im, (struct image_off){off}, &at);
        while (r == 0 && !at.zero && (r = warm_granule(im, &at, &inbox)) == -EAGAIN)
            r = 0; /* the layer is open now */
    }
    mailbox_finish(&inbox);
    return r;
}

static void serve_until_end(struct memory_server *s, bool populate, int pipe)
{
    struct pollfd p[] = {{.fd = memory_server_event_fd(s), .events = POLLIN}, {.fd = pipe}};
    struct memory_status st;
    bool told = !populate;

    /* The VM's process is the benchmark's, which lives on: its end of the pipe ends us. */
    do {
        poll(p, ARRAY_SIZE(p), -1);
        memory_server_status(s, &st);
        if (!told && st.populated_ns) {
            struct bench_server_result result = {.populate_ns = st.populated_ns - st.connected_ns};

            told = write(pipe, &result, sizeof(result)) == sizeof(result);
        }
    } while (!p[1].revents && st.phase != MEMORY_ENDED);
}

/* Everything is left to the end of the process. */
static int thaw_main(const struct bench_image *image, bool populate, const char *socket_path,
                     int pipe, struct thaw_error *e)
{
    struct io_engine *io;
    struct store *store;
    struct cache_set *caches;
    struct fetch *fetch;
    struct manifest *manifest;
    struct image *im;
    struct memory_server *server;
    struct uuid id;
    int r = uuid_parse(image->build, &id);

    if (r == 0)
        r = io_engine_create(IO_KIND_AUTO, &io, e);
    if (r == 0)
        r = store_open(image->store, io, false, &store, e);
    if (r == 0)
        r = cache_set_create(&(struct cache_set_options){.backing = image->backing}, &caches, e);
    if (r == 0)
        r = fetch_create(caches, &fetch, e);
    if (r == 0)
        r = build_manifest_load(store, &id, &manifest, e);
    if (r == 0)
        r = image_open(fetch, store, manifest, IMAGE_MEMORY, &im, e);
    if (r == 0)
        r = warm_image(im);
    if (r == 0)
        r = memory_server_create(
            &(struct memory_server_options){
                .socket_path = socket_path,
                .image = im,
                .vms = 1,
                .owner_uid = (uid_t)-1,
                .owner_gid = (gid_t)-1,
                .populate = populate,
            },
            &server, e);
    if (r < 0)
        return r;
    if (write(pipe, "r", 1) != 1)
        return -EIO;
    serve_until_end(server, populate, pipe);
    return 0;
}

/* --- processes --- */

typedef int (*server_main)(const struct bench_image *image, bool populate, const char *socket_path,
                           int pipe, struct thaw_error *e);

static int start(server_main run, const struct bench_image *image, bool populate,
                 const char *socket_path, int cpu, struct bench_server *ret, struct thaw_error *e)
{
    int pipes[2];
    char ready;

    if (pipe(pipes) < 0)
        return err_errno(e, -errno, "making a pipe");
    ret->pid = fork();
    if (ret->pid == 0) {
        struct thaw_error why = THAW_ERROR_INIT;
        int r;

        prctl(PR_SET_PDEATHSIG, SIGKILL); /* by the only thread that the parent has */
        close(pipes[0]);
        bench_pin(cpu);
        r = run(image, populate, socket_path, pipes[1], &why);
        if (r < 0)
            fprintf(stderr, "thaw: bench server: %s (%d)\n", why.text, r);
        _exit(r < 0);
    }
    close(pipes[1]);
    ret->pipe = pipes[0];
    if (ret->pid < 0)
        return err_errno(e, -errno, "starting a server");
    if (read(ret->pipe, &ready, 1) != 1)
        return err_set(e, -ECHILD, "a server of the benchmark did not start");
    return 0;
}

int bench_server_thaw(const struct bench_image *image, bool populate, const char *socket_path,
                      int cpu, struct bench_server *ret, struct thaw_error *e)
{
    return start(thaw_main, image, populate, socket_path, cpu, ret, e);
}

int bench_server_floor(const struct bench_image *image, bool populate, const char *socket_path,
                       int cpu, struct bench_server *ret, struct thaw_error *e)
{
    return start(bench_floor_main, image, populate, socket_path, cpu, ret, e);
}

uint64_t bench_server_cpu_ns(const struct bench_server *s)
{
    struct timespec ts = {0};
    clockid_t clock;

    if (clock_getcpuclockid(s->pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
        return 0;
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

int bench_server_populated(struct bench_server *s, struct bench_server_result *ret,
                           struct thaw_error *e)
{
    if (read(s->pipe, ret, sizeof(*ret)) != (ssize_t)sizeof(*ret))
        return err_set(e, -ECHILD, "a server of the benchmark has ended early");
    return 0;
}

void bench_server_finish(struct bench_server *s)
{
    close(s->pipe);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
