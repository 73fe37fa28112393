/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The floor: the least that can serve a VM's memory by the hand-over that vmm_client.h describes.
 * One thread, the image mapped and touched before, a poll that blocks, a read, a UFFDIO_COPY per
 * fault; no cache, no checks, no prefetch. What thaw adds to these system calls is measured
 * against it. Serves one VM and ends with it; also the peer of the test clients' own tests.
 *
 * Prints a line of JSON when it listens and another one at the end.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "client_util.h"

#define BODY_MAX    (64 * KIB)
#define REGIONS_MAX 256
#define BATCH       64
#define PENDING_MAX 4096 /* faults at once: one for each thread that waits */

struct region {
    uint64_t base, bytes, offset;
};

struct server {
    struct image image;
    int uffd;   /* the VM's */
    int pid_fd; /* readable when the VM's process is gone */
    uint64_t page_bytes;
    size_t n_regions;
    struct region regions[REGIONS_MAX];
    bool *removed;     /* owned: per page of the image */
    const void *zeros; /* a page of them */
    uint64_t pending[PENDING_MAX];
    size_t n_pending;
    uint64_t n_faults, n_zero, n_removed, n_present, n_again;
    sigset_t unblocked; /* in force while it waits */
};

static volatile sig_atomic_t stopping;

static void on_stop(int signum)
{
    (void)signum;
    stopping = 1;
}

/* Waits for one of two descriptors; false when told to stop. */
static bool wait_for(struct server *s, int first, int second, struct pollfd ret[2])
{
    ret[0] = (struct pollfd){.fd = first, .events = POLLIN};
    ret[1] = (struct pollfd){.fd = second, .events = POLLIN};
    while (!stopping)
        if (ppoll(ret, 2, NULL, &s->unblocked) > 0)
            return true;
    return false;
}

static int listen_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path));
    if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* Appends to @body what one recvmsg() brings, and takes the userfaultfd if it comes along. */
static ssize_t receive_part(struct server *s, int conn, char *body, size_t cap)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = body, .iov_len = cap};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    ssize_t n = recvmsg(conn, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    if (cmsg && cmsg->cmsg_type == SCM_RIGHTS && s->uffd < 0)
        memcpy(&s->uffd, CMSG_DATA(cmsg), sizeof(int));
    return n < 0 ? -errno : n;
}

/* A full JSON parser is for those who meet strangers; this one meets the test clients. */
static int parse_body(struct server *s, const char *body)
{
    const char *at = body;

    while ((at = strstr(at, "{\"base_host_virt_addr\":")) != NULL) {
        struct region *r = &s->regions[s->n_regions];

        if (s->n_regions == REGIONS_MAX ||
            sscanf(at,
                   "{\"base_host_virt_addr\":%" SCNu64 ",\"size\":%" SCNu64 ",\"offset\":%" SCNu64
                   ",\"page_size\":%" SCNu64,
                   &r->base, &r->bytes, &r->offset, &s->page_bytes) != 4)
            return -EPROTO;
        if (r->bytes > s->image.bytes || r->offset > s->image.bytes - r->bytes)
            return -ERANGE;
        s->n_regions++;
        at++;
    }
    return s->n_regions > 0 && s->page_bytes >= PAGE_BYTES ? 0 : -EPROTO;
}

static int receive_memory(struct server *s, int conn)
{
    char *body CLEANUP_FREE = calloc(1, BODY_MAX);
    size_t len = 0;
    ssize_t n;

    if (!body)
        return -ENOMEM;
    do {
        n = receive_part(s, conn, body + len, BODY_MAX - 1 - len);
        if (n <= 0)
            return n < 0 ? (int)n : -ECONNRESET;
        len += (size_t)n;
    } while (body[len - 1] != ']' && len < BODY_MAX - 1);
    return s->uffd < 0 ? -EPROTO : parse_body(s, body);
}

/* Who connected, as a descriptor that tells of its death: the socket may be closed long before. */
static int open_peer(int conn)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int fd;

    if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -errno;
    fd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    return fd < 0 ? -errno : fd;
}

/* The offset in the image of address @addr of the VM; UINT64_MAX if it is in no region. */
static uint64_t image_offset(const struct server *s, uint64_t addr)
{
    for (size_t i = 0; i < s->n_regions; i++)
        if (addr - s->regions[i].base < s->regions[i].bytes)
            return addr - s->regions[i].base + s->regions[i].offset;
    return UINT64_MAX;
}

static void take_event(struct server *s, const struct uffd_msg *msg)
{
    if (msg->event == UFFD_EVENT_PAGEFAULT) {
        s->pending[s->n_pending++] = round_down(msg->arg.pagefault.address, s->page_bytes);
        s->n_faults++;
        return;
    }
    if (msg->event != UFFD_EVENT_REMOVE)
        return;
    for (uint64_t at = msg->arg.remove.start; at < msg->arg.remove.end; at += s->page_bytes) {
        uint64_t offset = image_offset(s, at);

        if (offset != UINT64_MAX)
            s->removed[offset / s->page_bytes] = true;
        s->n_removed++;
    }
}

/*
 * Reads all events, so that no REMOVE stays unread behind a fault: the kernel hands out faults
 * first, whatever came first, and refuses to install anything while a REMOVE is unread.
 */
static int drain_events(struct server *s)
{
    struct uffd_msg msgs[BATCH];
    size_t room, n;
    ssize_t got;

    do {
        room = MIN((size_t)BATCH, PENDING_MAX - s->n_pending);
        got = room > 0 ? read(s->uffd, msgs, room * sizeof(*msgs)) : -1;
        if (room == 0)
            return -E2BIG;
        if (got < 0)
            return errno == EAGAIN ? 0 : -errno;
        n = (size_t)got / sizeof(*msgs);
        for (size_t i = 0; i < n; i++)
            take_event(s, &msgs[i]);
    } while (n == room);
    return 0;
}

/* Installs the page at @addr. 0 when there is nothing left to do, -EAGAIN for another try. */
static int install(struct server *s, uint64_t addr)
{
    uint64_t offset = image_offset(s, addr);
    struct uffdio_copy copy = {.dst = addr, .len = s->page_bytes};
    struct uffdio_range wake = {.start = addr, .len = s->page_bytes};
    bool removed;

    if (offset == UINT64_MAX)
        return -EFAULT;
    removed = s->removed[offset / s->page_bytes];
    copy.src = removed ? (uintptr_t)s->zeros : (uintptr_t)s->image.data + offset;
    if (ioctl(s->uffd, UFFDIO_COPY, &copy) == 0) {
        s->n_zero += removed;
        return 0;
    }
    switch (errno) {
    case EEXIST: /* two threads faulted on it, and the second came to sleep after the wake-up */
        s->n_present++;
        return ioctl(s->uffd, UFFDIO_WAKE, &wake) < 0 ? -errno : 0;
    case ENOENT: /* unmapped */
    case ESRCH:  /* the VM is gone */
        return 0;
    default:
        return -errno;
    }
}

static int serve(struct server *s)
{
    struct pollfd ready[2];
    int r;

    while (s->n_pending > 0 || wait_for(s, s->uffd, s->pid_fd, ready)) {
        size_t kept = 0;

        if (s->n_pending == 0 && ready[1].revents)
            return 0;
        r = drain_events(s);
        if (r < 0)
            return r;
        for (size_t i = 0; i < s->n_pending; i++) {
            r = install(s, s->pending[i]);
            if (r == -EAGAIN)
                s->pending[kept++] = s->pending[i];
            else if (r < 0)
                return r;
        }
        s->n_pending = kept;
        s->n_again += kept;
        if (kept > 0)
            sched_yield(); /* the thread in madvise() has to run before anything installs */
    }
    return 0;
}

static int serve_one_vm(struct server *s, int listener)
{
    struct pollfd ready[2];
    int conn CLEANUP_FD = -1;
    int r;

    if (!wait_for(s, listener, -1, ready))
        return 0;
    conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (conn < 0)
        return -errno;
    s->pid_fd = open_peer(conn);
    if (s->pid_fd < 0)
        return s->pid_fd;
    r = receive_memory(s, conn);
    if (r < 0)
        return r;
    s->removed = calloc(s->image.bytes / s->page_bytes + 1, sizeof(*s->removed));
    s->zeros = mmap(NULL, s->page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!s->removed || s->zeros == MAP_FAILED)
        return -ENOMEM;
    return serve(s);
}

static int parse_command_line(int argc, char **argv, const char **ret_socket,
                              const char **ret_image)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},
        {"image", required_argument, NULL, 'i'},
        {0},
    };
    int ch;

    while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (ch == 's')
            *ret_socket = optarg;
        else if (ch == 'i')
            *ret_image = optarg;
        else
            return -EINVAL;
    }
    return optind == argc && *ret_socket && *ret_image ? 0 : -EINVAL;
}

static void catch_signals(struct server *s)
{
    struct sigaction stop = {.sa_handler = on_stop};
    sigset_t block;

    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGINT);
    sigprocmask(SIG_BLOCK, &block, &s->unblocked);
    sigdelset(&s->unblocked, SIGTERM);
    sigdelset(&s->unblocked, SIGINT);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
}

int main(int argc, char **argv)
{
    static struct server s = {.uffd = -1, .pid_fd = -1};
    const char *socket_path = NULL, *image_path = NULL;
    int listener, r;

    if (parse_command_line(argc, argv, &socket_path, &image_path) < 0) {
        fputs("usage: minimal_handler --socket PATH --image FILE\n", stderr);
        return EXIT_USAGE;
    }
    catch_signals(&s);
    r = image_open(&s.image, image_path);
    listener = r < 0 ? r : listen_at(socket_path);
    if (listener < 0) {
        fprintf(stderr, "minimal_handler: %s: %s\n", r < 0 ? image_path : socket_path,
                strerror(-listener));
        return EXIT_WRONG;
    }
    printf("{\"memory_socket\":\"%s\",\"memory_bytes\":%" PRIu64 "}\n", socket_path, s.image.bytes);
    fflush(stdout);
    r = serve_one_vm(&s, listener);
    unlink(socket_path);
    if (r < 0)
        fprintf(stderr, "minimal_handler: %s\n", strerror(-r));
    printf("{\"faults\":{\"total\":%" PRIu64 ",\"zero\":%" PRIu64 ",\"removed\":%" PRIu64
           ",\"present\":%" PRIu64 ",\"again\":%" PRIu64 "}}\n",
           s.n_faults, s.n_zero, s.n_removed, s.n_present, s.n_again);
    free(s.removed);
    return r < 0 ? EXIT_WRONG : EXIT_OK;
}
