/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/device_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "bench/vm.h"

#define DEPTH_MAX 64u

struct reader {
    const uint32_t *order;
    uint64_t count;
    uint64_t cpu_ns;
    int fd; /* borrowed */
    int result;
};

static uint64_t thread_cpu_ns(void)
{
    struct timespec ts = {0};

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void *read_all(void *arg)
{
    struct reader *r = arg;
    char *buf CLEANUP_FREE = aligned_alloc(PAGE_BYTES, GRANULE_BYTES);

    if (!buf)
        r->result = -ENOMEM;
    for (uint64_t i = 0; i < r->count && r->result == 0; i++) {
        ssize_t n = pread(r->fd, buf, GRANULE_BYTES, (off_t)(r->order[i] * GRANULE_BYTES));

        if (n != (ssize_t)GRANULE_BYTES)
            r->result = n < 0 ? -errno : -EIO;
    }
    r->cpu_ns = thread_cpu_ns();
    return NULL;
}

static int run(int fd, const uint32_t *order, uint64_t granules, unsigned depth,
               struct device_time *ret)
{
    struct reader readers[DEPTH_MAX];
    pthread_t ids[DEPTH_MAX];
    uint64_t begin_ns = clock_now_ns();
    unsigned started = 0;
    int r = 0;

    for (; started < depth && r == 0; started++) {
        uint64_t from = granules * started / depth, to = granules * (started + 1) / depth;

        readers[started] = (struct reader){.fd = fd, .order = order + from, .count = to - from};
        r = thread_start(&ids[started], "reader", read_all, &readers[started]);
        if (r < 0)
            break;
    }
    *ret = (struct device_time){.reads = granules};
    for (unsigned i = 0; i < started; i++) {
        thread_join(ids[i]);
        r = r < 0 ? r : readers[i].result;
        ret->cpu_ns += readers[i].cpu_ns;
    }
    ret->wall_ns = clock_now_ns() - begin_ns;
    return r;
}

int device_floor(const char *path, unsigned depth, struct device_time *ret, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint32_t *order CLEANUP_FREE = NULL;
    uint64_t granules;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, -errno, "reading %s past the page cache", path);
    granules = (uint64_t)st.st_size / GRANULE_BYTES;
    order = bench_shuffled(granules);
    r = order ? run(fd, order, granules, MIN(depth, DEPTH_MAX), ret) : -ENOMEM;
    return r < 0 ? err_errno(e, r, "reading %s", path) : 0;
}
