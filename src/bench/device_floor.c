/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/device_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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
    char *memory; /* borrowed */
    uint64_t slots;
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

    for (uint64_t i = 0; i < r->count && r->result == 0; i++) {
        char *buf = r->memory + i % r->slots * GRANULE_BYTES;
        ssize_t n = pread(r->fd, buf, GRANULE_BYTES, (off_t)(r->order[i] * GRANULE_BYTES));

        if (n != (ssize_t)GRANULE_BYTES)
            r->result = n < 0 ? -errno : -EIO;
    }
    r->cpu_ns = thread_cpu_ns();
    return NULL;
}

/* As a cache has it: in huge pages if there are any, touched before. */
static char *map_memory(uint64_t bytes)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    return memory;
}

static int run(int fd, const uint32_t *order, uint64_t granules, unsigned depth, char *memory,
               uint64_t slots, struct device_time *ret)
{
    struct reader readers[DEPTH_MAX];
    pthread_t ids[DEPTH_MAX];
    uint64_t begin_ns = clock_now_ns();
    unsigned started = 0;
    int r = 0;

    for (; started < depth && r == 0; started++) {
        uint64_t from = granules * started / depth, to = granules * (started + 1) / depth;

        readers[started] = (struct reader){
            .fd = fd,
            .order = order + from,
            .count = to - from,
            .memory = memory + started * (slots / depth) * GRANULE_BYTES,
            .slots = slots / depth,
        };
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

int device_floor(const char *path, unsigned depth, uint64_t memory_bytes, struct device_time *ret,
                 struct thaw_error *e)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint32_t *order CLEANUP_FREE = NULL;
    uint64_t granules, slots;
    char *memory;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, -errno, "reading %s past the page cache", path);
    depth = MIN(depth, DEPTH_MAX);
    slots = MAX(memory_bytes / GRANULE_BYTES, depth);
    granules = (uint64_t)st.st_size / GRANULE_BYTES;
    order = bench_shuffled(granules);
    memory = map_memory(slots * GRANULE_BYTES);
    r = order && memory ? run(fd, order, granules, depth, memory, slots, ret) : -ENOMEM;
    if (memory)
        munmap(memory, slots * GRANULE_BYTES);
    return r < 0 ? err_errno(e, r, "reading %s", path) : 0;
}
