/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/host_pressure.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"
#include "cache/set.h"
#include "kernel/pressure.h"

#define CALM_NS (10 * NS_PER_SEC) /* how long the caches do not grow afterwards */

struct host_pressure {
    const struct host_pressure_ops *ops; /* borrowed */
    struct cache_set *set;               /* borrowed */
    struct pressure source;              /* owned */
    int stop_fd;                         /* owned: an eventfd */
    pthread_t thread;
};

static int open_kernel(struct pressure *ret)
{
    return pressure_open("", ret);
}

const struct host_pressure_ops host_pressure_kernel = {.open = open_kernel, .events = POLLPRI};

static void give_back(struct host_pressure *p)
{
    uint64_t bytes;

    if (p->ops->take)
        p->ops->take(p->source.fd);
    bytes = cache_set_give_back(p->set, clock_now_ns() + CALM_NS);
    log_debug("memory is short (%s): the caches gave back %" PRIu64 " bytes", p->source.path,
              bytes);
}

static void *watch(void *arg)
{
    struct host_pressure *p = arg;
    struct pollfd fds[] = {
        {.fd = p->stop_fd, .events = POLLIN},
        {.fd = p->source.fd, .events = p->ops->events},
    };

    for (;;) {
        if (poll(fds, ARRAY_SIZE(fds), -1) < 0) {
            assert(errno == EINTR);
            continue;
        }
        if (fds[0].revents)
            return NULL;
        if (fds[1].revents & p->ops->events) {
            give_back(p);
        } else {
            log_debug("%s tells of memory pressure no more", p->source.path);
            fds[1].fd = -1;
        }
    }
}

static int start(struct host_pressure *p)
{
    int r = p->ops->open(&p->source);

    if (r < 0) {
        log_debug("nobody tells when memory is short (%s): %s", p->source.path, strerror(-r));
        return r;
    }
    p->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (p->stop_fd < 0)
        return -errno;
    r = thread_start(&p->thread, "thaw-pressure", watch, p);
    if (r == 0)
        log_debug("memory is given back when %s says that it is short", p->source.path);
    return r;
}

static void finish(struct host_pressure *p)
{
    close_fd(&p->stop_fd);
    close_fd(&p->source.fd);
    free(p);
}

int host_pressure_start(struct cache_set *set, const struct host_pressure_ops *ops,
                        struct host_pressure **ret)
{
    struct host_pressure *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    p->ops = ops;
    p->set = set;
    p->source.fd = p->stop_fd = -1;
    r = start(p);
    if (r < 0) {
        finish(p);
        return r;
    }
    *ret = p;
    return 0;
}

void host_pressure_stop(struct host_pressure *p)
{
    uint64_t one = 1;

    if (!p)
        return;
    (void)!write(p->stop_fd, &one, sizeof(one)); /* cannot fail: nobody else writes */
    thread_join(p->thread);
    finish(p);
}
