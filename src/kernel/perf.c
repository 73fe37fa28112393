/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/perf.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

#define RECORD_MAX_BYTES 512 /* a sample of a tracepoint has about 150 */

static int open_event(uint32_t event_id, int cpu)
{
    struct perf_event_attr attr;
    long fd;

    memset(&attr, 0, sizeof(attr));
    attr.size = sizeof(attr);
    attr.type = PERF_TYPE_TRACEPOINT;
    attr.config = event_id;
    attr.sample_period = 1;
    attr.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_RAW;
    fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}

int perf_ring_open(uint32_t event_id, int cpu, const char *filter, size_t data_bytes,
                   struct perf_ring *ret)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int fd CLEANUP_FD = open_event(event_id, cpu);
    void *map;

    if (fd < 0)
        return fd;
    if (ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter) < 0)
        return -errno;
    map = mmap(NULL, page + data_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    *ret = (struct perf_ring){
        .fd = TAKE_FD(fd), .map = map, .map_len = page + data_bytes, .data_len = data_bytes};
    return 0;
}

/* @len bytes from position @at, which goes on at the start of the ring where it ends. */
static void copy_out(const struct perf_ring *ring, uint64_t at, void *ret, size_t len)
{
    const uint8_t *data = (const uint8_t *)ring->map + (ring->map_len - ring->data_len);
    size_t from = (size_t)(at & (ring->data_len - 1));
    size_t first = len < ring->data_len - from ? len : ring->data_len - from;

    memcpy(ret, data + from, first);
    memcpy((uint8_t *)ret + first, data, len - first);
}

/* PERF_SAMPLE_TID | PERF_SAMPLE_RAW: u32 pid, u32 tid, u32 size, the bytes. */
static void give_sample(const uint8_t *body, size_t len,
                        void (*take)(void *arg, const struct perf_sample *sample), void *arg)
{
    uint32_t words[3];

    if (len < sizeof(words))
        return;
    memcpy(words, body, sizeof(words));
    if (words[2] > len - sizeof(words))
        return;
    take(arg, &(struct perf_sample){.pid = (pid_t)words[0],
                                    .tid = (pid_t)words[1],
                                    .raw = body + sizeof(words),
                                    .raw_len = words[2]});
}

uint64_t perf_ring_drain(struct perf_ring *ring,
                         void (*take)(void *arg, const struct perf_sample *sample), void *arg)
{
    struct perf_event_mmap_page *control = ring->map;
    /* Pairs with the kernel's release of data_head: what lies before it is written. */
    uint64_t head = __atomic_load_n(&control->data_head, __ATOMIC_ACQUIRE);
    uint64_t at = control->data_tail, lost = 0;

    while (at < head) {
        struct perf_event_header h;
        uint8_t body[RECORD_MAX_BYTES];
        size_t len;

        copy_out(ring, at, &h, sizeof(h));
        if (h.size < sizeof(h))
            break; /* the kernel writes none */
        len = h.size - sizeof(h) < sizeof(body) ? h.size - sizeof(h) : sizeof(body);
        copy_out(ring, at + sizeof(h), body, len);
        if (h.type == PERF_RECORD_SAMPLE) {
            give_sample(body, len, take, arg);
        } else if (h.type == PERF_RECORD_LOST && len >= 16) {
            uint64_t n; /* u64 id, u64 lost */

            memcpy(&n, body + 8, sizeof(n));
            lost += n;
        }
        at += h.size;
    }
    /* Everything is copied before the kernel may write there again. */
    __atomic_store_n(&control->data_tail, head, __ATOMIC_RELEASE);
    return lost;
}

void perf_ring_close(struct perf_ring *ring)
{
    if (ring->map)
        munmap(ring->map, ring->map_len);
    ring->map = NULL;
    close_fd(&ring->fd);
}
