/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The thread of one VM and its phases:
 *
 *     listening --accept--> handshake --good--> serving --VM's end or stop--> ended
 *         ^                    |
 *         +---- broken, silent +
 *
 * It sleeps in poll(2) alone. A VM's end is seen by its pidfd; the connection only counts where
 * there is no pidfd, because Firecracker up to 1.11 closes it right after the hand-over.
 */
#include "memory/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "format/handover.h"
#include "image/image.h"
#include "kernel/pidfd.h"
#include "memory/handshake.h"
#include "memory/pager.h"

#define HANDSHAKE_DEADLINE_NS (10 * NS_PER_SEC)
#define RETRY_NS              (50 * NS_PER_US) /* how soon an install put off is tried again */

struct memory_server {
    pthread_t thread;
    char *socket_path; /* owned */
    struct image *image;
    struct mailbox inbox;
    struct message stop; /* posted once, by destroy */
    int event_fd;        /* owned: tells the control thread that the phase has changed */

    /* [t] the server's thread only */
    int listen_fd;
    int conn_fd;
    int pidfd;
    int uffd;
    bool stopping;
    bool pager_ready;
    struct pager pager;

    struct pager_counters counters; /* [a] */

    pthread_mutex_t mu;
    enum memory_phase phase; /* [m] mu */
    uint64_t connected_ns;   /* [m] mu */
    uint64_t first_fault_ns; /* [m] mu */
    uint64_t rejected;       /* [m] mu */
    int failure;             /* [m] mu: copies of the pager's */
    uint64_t failure_at;     /* [m] mu */
    char rejection[200];     /* [m] mu */
};

static void tell(struct memory_server *s)
{
    static const uint64_t one = 1;

    if (write(s->event_fd, &one, sizeof(one)) < 0)
        log_debug("event of a memory server: %s", strerror(errno));
}

static void set_phase(struct memory_server *s, enum memory_phase phase)
{
    mutex_lock(&s->mu);
    s->phase = phase;
    if (phase == MEMORY_SERVING)
        s->connected_ns = clock_now_ns();
    mutex_unlock(&s->mu);
    tell(s);
}

static void receive_stop(struct message *m)
{
    container_of(m, struct memory_server, stop)->stopping = true;
}

/* --- listening and handshake --- */

static void reject(struct memory_server *s, const struct thaw_error *why)
{
    mutex_lock(&s->mu);
    s->rejected++;
    snprintf(s->rejection, sizeof(s->rejection), "%s", why->text);
    mutex_unlock(&s->mu);
    tell(s);
}

/* Waits for @fd or the inbox; 1 when @fd is ready, 0 when stopping or past @deadline_ns. */
static int wait_for(struct memory_server *s, int fd, uint64_t deadline_ns)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = s->inbox.event_fd, .events = POLLIN}};

    while (!s->stopping) {
        uint64_t now = clock_now_ns();
        int timeout_ms = -1;

        if (deadline_ns != 0) {
            if (now >= deadline_ns)
                return 0;
            timeout_ms = (int)((deadline_ns - now) / NS_PER_MS) + 1;
        }
        if (poll(p, ARRAY_SIZE(p), timeout_ms) < 0)
            continue; /* EINTR */
        if (p[1].revents)
            mailbox_deliver(&s->inbox);
        if (p[0].revents && !s->stopping)
            return 1;
    }
    return 0;
}

static int receive_handover(struct memory_server *s, struct handover **ret, struct thaw_error *e)
{
    uint64_t deadline = clock_now_ns() + HANDSHAKE_DEADLINE_NS;
    struct handshake h;
    int r = handshake_init(&h);

    if (r < 0)
        return err_set(e, r, "no memory for a hand-over");
    r = -EAGAIN;
    while (r == -EAGAIN) {
        if (wait_for(s, s->conn_fd, deadline) == 0)
            r = err_set(e, -ETIMEDOUT, "a VMM connected, but sent no whole hand-over in time");
        else
            r = handshake_receive(&h, s->conn_fd, ret, &s->uffd, e);
    }
    handshake_finish(&h);
    return r;
}

static int take_vmm(struct memory_server *s, struct thaw_error *e)
{
    struct handover *h CLEANUP_HANDOVER = NULL;
    pid_t pid = 0;
    int r = receive_handover(s, &h, e);

    if (r < 0)
        return r;
    s->pidfd = pidfd_of_peer(s->conn_fd, &pid);
    r = pager_init(&s->pager, &uffd_kernel, s->uffd, h, s->image, &s->inbox, &s->counters, e);
    if (r < 0)
        return r;
    s->pager_ready = true;
    log_debug("memory of process %d: %zu regions", pid, h->region_count);
    return 0;
}

/* Returns with a VMM to serve, or with nothing when stopping. */
static void listen_for_vmm(struct memory_server *s)
{
    while (!s->stopping && wait_for(s, s->listen_fd, 0) == 1) {
        struct thaw_error why = THAW_ERROR_INIT;
        int r;

        s->conn_fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (s->conn_fd < 0)
            continue;
        r = take_vmm(s, &why);
        if (r == 0)
            break;
        close_fd(&s->conn_fd);
        close_fd(&s->uffd);
        close_fd(&s->pidfd);
        if (!s->stopping)
            reject(s, &why);
    }
    close_fd(&s->listen_fd);
    unlink(s->socket_path);
}

/* --- serving --- */

/* After each turn: what the control thread should hear about. */
static void publish_news(struct memory_server *s, bool *first_fault_seen)
{
    struct pager *p = &s->pager;
    bool news = false;

    if (!*first_fault_seen && atomic_load_explicit(&s->counters.faults, memory_order_relaxed) > 0) {
        mutex_lock(&s->mu);
        s->first_fault_ns = clock_now_ns();
        mutex_unlock(&s->mu);
        *first_fault_seen = news = true;
    }
    if (p->failure != 0 && s->failure == 0) {
        mutex_lock(&s->mu);
        s->failure = p->failure;
        s->failure_at = p->failure_at.v;
        mutex_unlock(&s->mu);
        news = true;
    }
    if (p->kill) {
        /* The page cannot be made to fail, so the VM must: it would wait for ever otherwise. */
        if (s->pidfd >= 0)
            pidfd_kill(s->pidfd, SIGKILL);
        p->kill = false;
    }
    if (news)
        tell(s);
}

static void serve(struct memory_server *s)
{
    enum { UFFD, INBOX, PIDFD, CONN };
    struct pollfd p[] = {
        [UFFD] = {.fd = s->uffd, .events = POLLIN},
        [INBOX] = {.fd = s->inbox.event_fd, .events = POLLIN},
        [PIDFD] = {.fd = s->pidfd, .events = POLLIN},
        [CONN] = {.fd = s->pidfd >= 0 ? -1 : s->conn_fd, .events = POLLIN},
    };
    const struct timespec soon = {.tv_nsec = RETRY_NS};
    bool first_fault_seen = false;

    while (!s->stopping && !s->pager.gone) {
        const struct timespec *timeout = pager_has_deferred(&s->pager) ? &soon : NULL;

        if (ppoll(p, ARRAY_SIZE(p), timeout, NULL) < 0)
            continue; /* EINTR */
        if (p[UFFD].revents & POLLIN)
            pager_serve(&s->pager);
        else if (timeout)
            pager_retry(&s->pager);
        if (p[INBOX].revents)
            mailbox_deliver(&s->inbox);
        if (p[PIDFD].revents || p[CONN].revents || (p[UFFD].revents & ~POLLIN))
            s->pager.gone = true;
        publish_news(s, &first_fault_seen);
    }
}

/* Fetches under way point into the pager: they land before it goes. */
static void land_waits(struct memory_server *s)
{
    struct pollfd p = {.fd = s->inbox.event_fd, .events = POLLIN};

    s->pager.gone = true;
    while (pager_waits_out(&s->pager) > 0) {
        poll(&p, 1, -1);
        mailbox_deliver(&s->inbox);
    }
}

static void *server_thread(void *arg)
{
    struct memory_server *s = arg;

    listen_for_vmm(s);
    if (s->pager_ready && !s->stopping) {
        set_phase(s, MEMORY_SERVING);
        serve(s);
    }
    if (s->pager_ready)
        land_waits(s);
    close_fd(&s->uffd);
    close_fd(&s->conn_fd);
    close_fd(&s->pidfd);
    set_phase(s, MEMORY_ENDED);
    return NULL;
}

/* --- control thread --- */

static int listen_on(const char *path, struct thaw_error *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd CLEANUP_FD = -1;

    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(e, -ENAMETOOLONG, "socket path %s: the limit is %zu characters", path,
                       sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, -errno, "making a socket");
    /* bind(2) gives the socket file the mode of the socket: it is never open to others. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return err_errno(e, -errno, "listening on %s", path);
    if (listen(fd, 8) < 0)
        return err_errno(e, -errno, "listening on %s", path);
    return TAKE_FD(fd);
}

static void server_free(struct memory_server *s)
{
    if (s->pager_ready)
        pager_finish(&s->pager);
    if (s->listen_fd >= 0)
        unlink(s->socket_path);
    close_fd(&s->listen_fd);
    close_fd(&s->event_fd);
    mailbox_finish(&s->inbox);
    pthread_mutex_destroy(&s->mu);
    free(s->socket_path);
    free(s);
}

int memory_server_create(const char *socket_path, struct image *image, struct memory_server **ret,
                         struct thaw_error *e)
{
    struct memory_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return err_set(e, -ENOMEM, "no memory for a memory server");
    s->image = image;
    s->listen_fd = s->conn_fd = s->pidfd = s->uffd = -1;
    s->inbox.event_fd = -1;
    pthread_mutex_init(&s->mu, NULL);
    s->socket_path = strdup(socket_path);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = !s->socket_path ? -ENOMEM : s->event_fd < 0 ? -errno : mailbox_init(&s->inbox);
    if (r < 0) {
        err_errno(e, r, "setting up a memory server");
    } else {
        r = s->listen_fd = listen_on(socket_path, e);
        if (r >= 0) {
            r = thread_start(&s->thread, "thaw-pager/0", server_thread, s);
            if (r < 0)
                err_errno(e, r, "starting the pager");
        }
    }
    if (r < 0) {
        server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void memory_server_destroy(struct memory_server *s)
{
    if (!s)
        return;
    s->stop.deliver = receive_stop;
    mailbox_post(&s->inbox, &s->stop);
    thread_join(s->thread);
    server_free(s);
}

int memory_server_event_fd(const struct memory_server *s)
{
    return s->event_fd;
}

static uint64_t counter(const _Atomic(uint64_t) *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

void memory_server_status(struct memory_server *s, struct memory_status *ret)
{
    const struct pager_counters *c = &s->counters;
    uint64_t count;

    if (read(s->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        log_debug("event of a memory server: %s", strerror(errno));
    *ret = (struct memory_status){
        .pages_total = image_bytes(s->image) / PAGE_BYTES,
        .faults.total = counter(&c->faults),
        .faults.ram = counter(&c->from_ram),
        .faults.disk = counter(&c->from_disk),
        .faults.store = counter(&c->from_store),
        .faults.zero = counter(&c->from_zero),
        .faults.removed = counter(&c->from_removed),
        .pages_installed = counter(&c->pages),
        .installed_bytes = counter(&c->data_bytes),
        .failed_pages = counter(&c->failed),
    };
    mutex_lock(&s->mu);
    ret->phase = s->phase;
    ret->connected_ns = s->connected_ns;
    ret->first_fault_ns = s->first_fault_ns;
    ret->failure = s->failure;
    ret->failure_at = s->failure_at;
    ret->rejected = s->rejected;
    memcpy(ret->rejection, s->rejection, sizeof(ret->rejection));
    mutex_unlock(&s->mu);
}
