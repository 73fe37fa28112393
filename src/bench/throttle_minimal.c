/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The alternatives in `thaw bench throttle`: what one would try first to get rid of the stall while
 * keeping the cache in a file. Each is a minimal server of the usual design, threads that block:
 * take a fault, read the granule from the store, verify it, put it into the cache, install the
 * page. They differ in how bytes get into the file and out of it, and in nothing else.
 *
 *     sync_file_range   stores to a shared mapping, and starts the writing at once
 *     O_DIRECT          written and read without the page cache; there is no other memory
 *     RWF_DONTCACHE     written through the page cache, which drops the pages when they are written
 */
#include "bench/throttle_run.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/thread.h"
#include "base/units.h"
#include "format/handover.h"
#include "format/nbd.h"
#include "format/nbd_bytes.h"
#include "format/sums.h"
#include "image/build.h"
#include "memory/handshake.h"

#define SERVERS       4
#define DONTCACHE     0x80 /* RWF_DONTCACHE: linux/fs.h since 6.14 */
#define WRITE_MAX     (1 * MIB)
#define SUMS_MAX      (16 * MIB)
#define DISK_NAME     "disk"
#define MEMORY_NAME   "memory"
#define OPTION_BUFFER 256

/* A sparse file, and the way into it and out of it. */
struct minimal_cache {
    enum run_way way;
    int fd;    /* owned */
    char *map; /* owned: of RUN_SYNC_FILE_RANGE */
    uint64_t bytes;
};

enum { ABSENT, FILLING, READY };

/* Everything is left to the end of the process. */
struct minimal {
    const struct run_job *job;
    struct minimal_cache memory, disk;
    int data;                       /* owned: the object in the store */
    uint64_t *sums;                 /* owned */
    _Atomic(unsigned char) *states; /* owned: [a] of granules; READY is a release */
    _Atomic(uint64_t) served;       /* [a] bytes */
    int memory_listener, disk_listener;
    int uffd, vm;
    uint64_t base;
};

/* --- caches --- */

static int cache_open(struct minimal_cache *c, const struct run_job *job, const char *name,
                      uint64_t bytes)
{
    int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
    char path[300];
    void *map;

    c->way = (enum run_way)job->way;
    c->bytes = bytes;
    snprintf(path, sizeof(path), "%s/%s", job->folder, name);
    c->fd = open(path, c->way == RUN_O_DIRECT ? flags | O_DIRECT : flags, 0600);
    if (c->fd < 0 || ftruncate(c->fd, (off_t)bytes) < 0)
        return -errno;
    if (c->way == RUN_DONTCACHE &&
        pwritev2(c->fd, &(struct iovec){(char[]){0}, 1}, 1, 0, DONTCACHE) < 0)
        return errno == EINVAL ? -EOPNOTSUPP
                               : -errno; /* not this kernel, or not this file system */
    if (c->way != RUN_SYNC_FILE_RANGE)
        return 0;
    map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    c->map = map;
    return 0;
}

static int cache_store(const struct minimal_cache *c, uint64_t off, const void *bytes, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)bytes, len};

    switch (c->way) {
    case RUN_SYNC_FILE_RANGE:
        memcpy(c->map + off, bytes, len);
        return sync_file_range(c->fd, (off_t)off, (off_t)len, SYNC_FILE_RANGE_WRITE) < 0 ? -errno
                                                                                         : 0;
    case RUN_DONTCACHE:
        return pwritev2(c->fd, &iov, 1, (off_t)off, DONTCACHE) == (ssize_t)len ? 0 : -errno;
    default:
        return file_write_at(c->fd, bytes, len, off);
    }
}

/* A page that is in the cache: where it lies, or a copy in @buf. NULL: it could not be read. */
static const void *cache_page(const struct minimal_cache *c, uint64_t off, void *buf)
{
    if (c->map)
        return c->map + off;
    return file_read_at(c->fd, buf, PAGE_BYTES, off) == (ssize_t)PAGE_BYTES ? buf : NULL;
}

/* --- memory --- */

/* From the store into the cache; the granule is in @buf then, too. */
static int fill(struct minimal *m, uint64_t granule, void *buf)
{
    uint64_t off = granule * GRANULE_BYTES, begin = clock_now_ns();
    size_t len = MIN(GRANULE_BYTES, m->memory.bytes - off);
    ssize_t n = file_read_at(m->data, buf, len, off);
    int r;

    if (n < 0)
        return (int)n;
    if ((size_t)n < len || sums_of(buf, len) != m->sums[granule])
        return -EBADMSG;
    r = cache_store(&m->memory, off, buf, len);
    if (r == 0)
        run_record_store(m->job->record, len, clock_now_ns() - begin);
    return r;
}

static int install(struct minimal *m, uint64_t off, const void *page)
{
    struct uffdio_copy copy = {.dst = m->base + off, .src = (uintptr_t)page, .len = PAGE_BYTES};

    if (ioctl(m->uffd, UFFDIO_COPY, &copy) < 0)
        return errno == EEXIST ? 0 : -errno;
    atomic_fetch_add_explicit(&m->served, PAGE_BYTES, memory_order_relaxed);
    return 0;
}

/* Another thread is filling the granule: the guest shall fault again. */
static int again(struct minimal *m, uint64_t off)
{
    struct uffdio_range range = {m->base + off, PAGE_BYTES};

    return ioctl(m->uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

static int answer_fault(struct minimal *m, uint64_t off, unsigned char *buf)
{
    uint64_t granule = off / GRANULE_BYTES;
    unsigned char state = ABSENT;
    const void *page = buf + off % GRANULE_BYTES;
    int r;

    if (atomic_compare_exchange_strong(&m->states[granule], &state, FILLING)) {
        r = fill(m, granule, buf);
        if (r < 0)
            return r;
        atomic_store(&m->states[granule], READY);
    } else if (state == FILLING) {
        return again(m, off);
    } else {
        page = cache_page(&m->memory, off, buf);
    }
    return page ? install(m, off, page) : -EIO;
}

static void *serve_memory(void *arg)
{
    struct minimal *m = arg;
    struct pollfd p[] = {{.fd = m->uffd, .events = POLLIN}, {.fd = m->vm, .events = POLLIN}};
    unsigned char *buf = aligned_alloc(PAGE_BYTES, GRANULE_BYTES);
    int r = buf ? 0 : -ENOMEM;

    while (r == 0 && poll(p, ARRAY_SIZE(p), -1) > 0 && !p[1].revents) {
        struct uffd_msg event;

        if (read(m->uffd, &event, sizeof(event)) != sizeof(event))
            continue; /* another thread has it */
        r = answer_fault(m, round_down(event.arg.pagefault.address, PAGE_BYTES) - m->base, buf);
    }
    free(buf);
    if (r < 0) {
        fprintf(stderr, "thaw: bench throttle: a minimal cache: %s\n", strerror(-r));
        _exit(EXIT_FAILURE);
    }
    return NULL;
}

/* --- the disk --- */

static int receive_all(int sock, void *buf, size_t len)
{
    ssize_t n = recv(sock, buf, len, MSG_WAITALL);

    return n == (ssize_t)len ? 0 : -ECONNRESET;
}

static int send_all(int sock, const void *buf, size_t len)
{
    return send(sock, buf, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -ECONNRESET;
}

/* For the one client there is, which asks for the export without a name and nothing else. */
static int welcome(int sock, uint64_t bytes)
{
    uint8_t out[OPTION_BUFFER], in[NBD_CLIENT_FLAGS_BYTES + NBD_OPTION_BYTES];
    struct nbd_writer w = {.at = out, .end = out + sizeof(out)};
    uint32_t option = 0, len = 0;
    int r;

    nbd_put_greeting(&w);
    r = send_all(sock, out, (size_t)(w.at - out));
    if (r == 0)
        r = receive_all(sock, in, sizeof(in));
    if (r == 0)
        r = nbd_option_decode(in + NBD_CLIENT_FLAGS_BYTES, &option, &len);
    if (r < 0 || option != NBD_OPT_EXPORT_NAME || len != 0)
        return -EPROTO;
    w = (struct nbd_writer){.at = out, .end = out + sizeof(out)};
    nbd_put_export_name_answer(&w, bytes, NBD_HAS_FLAGS | NBD_SEND_FLUSH, true);
    return send_all(sock, out, (size_t)(w.at - out));
}

static int answer_request(struct minimal *m, int sock, void *buf)
{
    uint8_t head[NBD_REQUEST_BYTES], answer[NBD_HEAD_MAX_BYTES];
    struct nbd_request q;
    int r = receive_all(sock, head, sizeof(head)), stored = 0;

    if (r == 0)
        r = nbd_request_decode(head, &q);
    if (r == 0 && q.command == NBD_CMD_DISC)
        return -ESHUTDOWN;
    if (r == 0 && q.command == NBD_CMD_WRITE) {
        if (q.len_bytes > WRITE_MAX || q.off > m->disk.bytes - q.len_bytes)
            return -EPROTO;
        r = receive_all(sock, buf, q.len_bytes);
        if (r == 0)
            stored = cache_store(&m->disk, q.off, buf, q.len_bytes);
    }
    if (r < 0)
        return r;
    return send_all(sock, answer, nbd_simple_encode(answer, q.cookie, nbd_error(stored)));
}

static void *serve_disk(void *arg)
{
    struct minimal *m = arg;
    int sock CLEANUP_FD = accept4(m->disk_listener, NULL, NULL, SOCK_CLOEXEC);
    void *buf = aligned_alloc(PAGE_BYTES, WRITE_MAX);

    if (sock >= 0 && buf && welcome(sock, m->disk.bytes) == 0) {
        while (answer_request(m, sock, buf) == 0)
            ;
    }
    free(buf);
    return NULL;
}

/* --- start --- */

static int listen_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* The hand-over comes while the guest waits for nothing yet: this thread may block. */
static void *serve_vm(void *arg)
{
    struct minimal *m = arg;
    struct handover *h CLEANUP_HANDOVER = NULL;
    struct handshake hs;
    struct pollfd p = {.events = POLLIN};
    pthread_t others[SERVERS - 1];
    int r = handshake_init(&hs);

    p.fd = m->vm = accept4(m->memory_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    do
        poll(&p, 1, -1);
    while (r == 0 && (r = handshake_receive(&hs, m->vm, &h, &m->uffd, NULL)) == -EAGAIN);
    handshake_finish(&hs);
    if (r < 0)
        _exit(EXIT_FAILURE);
    m->base = h->regions[0].base.v;
    for (unsigned i = 0; i < SERVERS - 1; i++) {
        char name[16];

        snprintf(name, sizeof(name), "minimal/%u", i + 1);
        if (thread_start(&others[i], name, serve_memory, m) < 0)
            _exit(EXIT_FAILURE);
    }
    return serve_memory(m);
}

static int load_sums(struct minimal *m, const char *folder, struct thaw_error *e)
{
    uint64_t pages = sums_page_count(m->memory.bytes);
    struct buf bytes CLEANUP_BUF = {0};
    char path[400];
    int r;

    snprintf(path, sizeof(path), "%s/" IMAGE_MEMORY SUMS_SUFFIX, folder);
    r = file_load(AT_FDCWD, path, SUMS_MAX, &bytes);
    if (r < 0 || bytes.len < pages * SUMS_PAGE_BYTES)
        return err_errno(e, r < 0 ? r : -EBADMSG, "reading %s", path);
    m->sums = calloc(pages, SUMS_PER_PAGE * sizeof(*m->sums));
    if (!m->sums)
        return err_set(e, -ENOMEM, "no memory for sums");
    for (uint64_t i = 0; i < pages && r >= 0; i++)
        r = sums_page_decode(bytes.data + i * SUMS_PAGE_BYTES, (uint32_t)i,
                             m->sums + i * SUMS_PER_PAGE, e);
    return r < 0 ? r : 0;
}

/* The image is one object without holes: its bytes lie in the store as the guest sees them. */
static int open_object(struct minimal *m, const struct run_job *job, struct thaw_error *e)
{
    char folder[300], path[400];

    snprintf(folder, sizeof(folder), "%s/%s", job->store, job->build);
    snprintf(path, sizeof(path), "%s/" IMAGE_MEMORY, folder);
    m->data = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (m->data < 0)
        return err_errno(e, -errno, "opening %s", path);
    m->states = calloc(sums_granule_count(job->memory_bytes), sizeof(*m->states));
    return m->states ? load_sums(m, folder, e) : err_set(e, -ENOMEM, "no memory for states");
}

static uint64_t served_bytes(void *arg)
{
    return atomic_load_explicit(&((struct minimal *)arg)->served, memory_order_relaxed);
}

int run_serve_minimal(const struct run_job *job, int control, struct thaw_error *e)
{
    static struct minimal m;
    struct throttle *watch;
    pthread_t memory, disk;
    int r = run_watch(job, served_bytes, &m, &watch, e);

    if (r < 0)
        return r;
    m.job = job;
    r = cache_open(&m.memory, job, MEMORY_NAME, job->memory_bytes);
    if (r == 0)
        r = cache_open(&m.disk, job, DISK_NAME, job->disk_bytes);
    if (r < 0)
        return err_errno(e, r, "making a cache in %s", job->folder);
    r = open_object(&m, job, e);
    if (r < 0)
        return r;
    r = m.memory_listener = listen_at(job->memory_socket);
    if (r >= 0)
        r = m.disk_listener = listen_at(job->disk_socket);
    if (r >= 0)
        r = thread_start(&memory, "minimal/0", serve_vm, &m);
    if (r >= 0)
        r = thread_start(&disk, "minimal-nbd", serve_disk, &m);
    if (r < 0)
        return err_errno(e, r, "listening for the guest");
    run_serve(job, control, watch);
    return 0;
}
