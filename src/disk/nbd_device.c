/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/nbd_device.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "observe/metrics.h"

#define EVENTS            64
#define SEND_BUFFER_BYTES (512 * 1024)
#define ACCEPT_RETRY_NS   NS_PER_SEC

/* One connection of a device, or in the handshake. */
struct nbd_peer {
    struct nbd_device *device; /* borrowed */
    struct nbd_conn *conn;     /* owned */
    int fd;                    /* owned */
    bool runnable;             /* in that list */
    bool ending;
    uint64_t deadline_ns; /* of the handshake */
    struct message moved; /* to another device */
    struct nbd_peer *prev, *next;
    struct nbd_peer *next_runnable;
    struct nbd_peer *prev_handshake, *next_handshake;
};

/* --- what a connection stands on --- */

static ssize_t peer_receive(void *arg, struct iovec *iov, size_t count)
{
    const struct nbd_peer *p = arg;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n;

    do
        n = recvmsg(p->fd, &msg, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t peer_send(void *arg, struct iovec *iov, size_t count)
{
    const struct nbd_peer *p = arg;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n;

    do
        n = sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void make_runnable(struct nbd_peer *p)
{
    if (p->runnable || p->ending)
        return;
    p->runnable = true;
    p->next_runnable = p->device->runnable;
    p->device->runnable = p;
}

static void peer_wake(void *arg)
{
    make_runnable(arg);
}

static const struct nbd_conn_ops peer_ops = {
    .receive = peer_receive,
    .send = peer_send,
    .submit = disk_submit,
    .cancel = disk_cancel,
    .view = disk_view,
    .view_end = disk_view_end,
    .zeros = disk_zeros,
    .wake = peer_wake,
};

/* --- connections --- */

static void link_peer(struct nbd_device *d, struct nbd_peer *p)
{
    p->device = d;
    p->prev = NULL;
    p->next = d->peers;
    if (d->peers)
        d->peers->prev = p;
    d->peers = p;
}

static void unlink_peer(struct nbd_peer *p)
{
    struct nbd_device *d = p->device;

    if (p->prev)
        p->prev->next = p->next;
    else
        d->peers = p->next;
    if (p->next)
        p->next->prev = p->prev;
}

static void link_handshake(struct nbd_device *d, struct nbd_peer *p)
{
    p->prev_handshake = d->youngest_handshake;
    p->next_handshake = NULL;
    if (d->youngest_handshake)
        d->youngest_handshake->next_handshake = p;
    else
        d->oldest_handshake = p;
    d->youngest_handshake = p;
    p->deadline_ns = clock_now_ns() + NBD_HANDSHAKE_SECONDS * NS_PER_SEC;
}

/* It is through the handshake, one way or the other. */
static void unlink_handshake(struct nbd_peer *p)
{
    struct nbd_device *d = p->device;

    if (p->deadline_ns == 0)
        return;
    p->deadline_ns = 0;
    if (p->prev_handshake)
        p->prev_handshake->next_handshake = p->next_handshake;
    else
        d->oldest_handshake = p->next_handshake;
    if (p->next_handshake)
        p->next_handshake->prev_handshake = p->prev_handshake;
    else
        d->youngest_handshake = p->prev_handshake;
}

static int watch(struct nbd_device *d, struct nbd_peer *p)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = p};

    return epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, p->fd, &ev) < 0 ? -errno : 0;
}

static void free_peer(struct nbd_shared *shared, struct nbd_peer *p)
{
    p->ending = true; /* what is given up now wakes nobody */
    nbd_conn_destroy(p->conn);
    close_fd(&p->fd);
    free(p);
    atomic_fetch_sub_explicit(&shared->connections, 1, memory_order_relaxed);
}

static void add(_Atomic(uint64_t) *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* The connection is over. It is not in the list of the runnable. */
static void end_peer(struct nbd_peer *p)
{
    struct nbd_device *d = p->device;
    int error = nbd_conn_error(p->conn);
    bool served = p->deadline_ns == 0;

    if (error < 0) {
        add(served ? &d->shared->broken : &d->shared->rejected);
        log_debug("NBD connection: %s", strerror(-error));
    }
    unlink_handshake(p);
    unlink_peer(p);
    free_peer(d->shared, p);
    /* Last: whoever sees that it is gone finds its descriptor closed. */
    if (served)
        atomic_fetch_sub_explicit(&d->connections, 1, memory_order_release);
}

static void attach(struct nbd_device *d, struct nbd_peer *p)
{
    link_peer(d, p);
    atomic_fetch_add_explicit(&d->connections, 1, memory_order_relaxed);
    nbd_count(&d->connections_total, 1);
    nbd_conn_attach(p->conn, d->disk, &d->counters);
    if (d->stopping)
        nbd_conn_drain(p->conn);
    make_runnable(p);
}

static void receive_moved(struct message *m)
{
    struct nbd_peer *p = container_of(m, struct nbd_peer, moved);
    struct nbd_device *d = p->device;

    if (watch(d, p) < 0)
        free_peer(d->shared, p);
    else
        attach(d, p);
}

/* To the thread of the export that it has chosen. */
static void move_peer(struct nbd_peer *p)
{
    struct nbd_device *d = p->device;
    struct nbd_device *to = &d->shared->devices[nbd_conn_export(p->conn)];

    unlink_handshake(p);
    unlink_peer(p);
    if (to == d) {
        attach(d, p);
        return;
    }
    epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, p->fd, NULL);
    p->device = to;
    p->moved.deliver = receive_moved;
    mailbox_post(&to->inbox, &p->moved);
}

static void run_peer(struct nbd_peer *p)
{
    bool more = nbd_conn_run(p->conn);

    if (nbd_conn_state(p->conn) == NBD_CONN_OVER)
        end_peer(p);
    else if (nbd_conn_state(p->conn) == NBD_CONN_CHOSEN)
        move_peer(p);
    else if (more)
        make_runnable(p);
}

static void run_peers(struct nbd_device *d)
{
    struct nbd_peer *p = d->runnable;

    d->runnable = NULL;
    while (p) {
        struct nbd_peer *next = p->next_runnable;

        p->runnable = false;
        run_peer(p);
        p = next;
    }
}

/* --- listening --- */

/* So that a reply of the usual 256 KiB leaves in one go; the kernel gives what it may. */
static void widen(int fd)
{
    int bytes = SEND_BUFFER_BYTES;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int new_peer(struct nbd_device *d, int fd)
{
    struct nbd_peer *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    r = nbd_conn_create(
        &(struct nbd_conn_options){
            .ops = &peer_ops,
            .peer = p,
            .exports = d->shared->infos,
            .export_count = d->shared->count,
        },
        &p->conn);
    p->fd = fd;
    widen(fd);
    if (r == 0)
        r = watch(d, p);
    if (r < 0) {
        nbd_conn_destroy(p->conn);
        free(p);
        return r;
    }
    link_peer(d, p);
    link_handshake(d, p);
    make_runnable(p);
    return 0;
}

static void watch_listener(struct nbd_device *d, bool on)
{
    struct epoll_event ev = {.events = on ? EPOLLIN : 0, .data.ptr = &d->listen_fd};

    epoll_ctl(d->epoll_fd, EPOLL_CTL_MOD, d->listen_fd, &ev);
}

/* Without descriptors the connection stays where it is, and epoll would tell at once, and again. */
static void accept_later(struct nbd_device *d)
{
    d->accept_again_ns = clock_now_ns() + ACCEPT_RETRY_NS;
    watch_listener(d, false);
}

static void accept_one(struct nbd_device *d)
{
    struct nbd_shared *shared = d->shared;
    int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            accept_later(d);
        return;
    }
    if (atomic_fetch_add_explicit(&shared->connections, 1, memory_order_relaxed) <
            NBD_CONNECTIONS_MAX &&
        new_peer(d, fd) == 0)
        return;
    atomic_fetch_sub_explicit(&shared->connections, 1, memory_order_relaxed);
    add(&shared->refused);
    close(fd);
}

/* --- time --- */

static int timeout_ms(const struct nbd_device *d)
{
    uint64_t deadline = UINT64_MAX, now;

    if (d->runnable)
        return 0;
    if (d->oldest_handshake)
        deadline = d->oldest_handshake->deadline_ns;
    if (d->accept_again_ns != 0)
        deadline = MIN(deadline, d->accept_again_ns);
    if (d->stopping)
        deadline = MIN(deadline, d->deadline_ns);
    if (deadline == UINT64_MAX)
        return -1;
    now = clock_now_ns();
    return deadline > now ? (int)((deadline - now) / NS_PER_MS) + 1 : 0;
}

static void break_all(struct nbd_device *d)
{
    for (struct nbd_peer *p = d->peers; p; p = p->next) {
        nbd_conn_break(p->conn);
        make_runnable(p);
    }
}

/* Whoever has still not got its answers gets errors, if it takes them; then it is over. */
static void stop_late(struct nbd_device *d)
{
    disk_cancel_all(d->disk);
    d->cancelled = true;
    run_peers(d);
    break_all(d);
}

static void check_time(struct nbd_device *d)
{
    struct nbd_peer *oldest = d->oldest_handshake;
    uint64_t now;

    if (!oldest && d->accept_again_ns == 0 && !d->stopping)
        return;
    now = clock_now_ns();
    for (; oldest && oldest->deadline_ns <= now; oldest = oldest->next_handshake) {
        nbd_conn_time_out(oldest->conn);
        make_runnable(oldest);
    }
    if (d->accept_again_ns != 0 && d->accept_again_ns <= now) {
        d->accept_again_ns = 0;
        watch_listener(d, true);
    }
    if (d->stopping && !d->cancelled && d->deadline_ns <= now)
        stop_late(d);
}

/* --- the thread --- */

static void receive_stop(struct message *m)
{
    struct nbd_device *d = container_of(m, struct nbd_device, stop);

    d->stopping = true;
    d->accept_again_ns = 0;
    d->deadline_ns = clock_now_ns() + NBD_GRACE_SECONDS * NS_PER_SEC;
    close_fd(&d->listen_fd);
    for (struct nbd_peer *p = d->peers; p; p = p->next) {
        nbd_conn_drain(p->conn);
        make_runnable(p);
    }
}

static void take_event(struct nbd_device *d, const struct epoll_event *ev)
{
    if (ev->data.ptr == &d->inbox) {
        mailbox_deliver(&d->inbox);
    } else if (ev->data.ptr == &d->listen_fd) {
        if (d->listen_fd >= 0)
            accept_one(d);
    } else {
        struct nbd_peer *p = ev->data.ptr;

        nbd_conn_ready(p->conn, ev->events & EPOLLIN, ev->events & EPOLLOUT,
                       ev->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        make_runnable(p);
    }
}

/* The disk's messages that are still under way point into it: they land before it goes. */
static void land(struct nbd_device *d)
{
    struct pollfd p = {.fd = d->inbox.event_fd, .events = POLLIN};

    disk_cancel_all(d->disk);
    while (disk_under_way(d->disk) > 0) {
        poll(&p, 1, -1);
        mailbox_deliver(&d->inbox);
    }
}

static void *device_thread(void *arg)
{
    struct nbd_device *d = arg;
    struct epoll_event events[EVENTS];

    metrics_thread_begin();
    /* Connections are freed by run_peers() alone, when no event that names them is left. */
    while (!d->stopping || d->peers) {
        int n = epoll_wait(d->epoll_fd, events, EVENTS, timeout_ms(d));

        for (int i = 0; i < n; i++)
            take_event(d, &events[i]);
        check_time(d);
        run_peers(d);
    }
    land(d);
    return NULL;
}

/* --- from outside --- */

static int watch_plain(struct nbd_device *d, int fd, void *what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};

    return epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int nbd_device_init(struct nbd_device *d, struct nbd_shared *shared, unsigned index,
                    const struct nbd_export *x, struct thaw_error *e)
{
    int r;

    d->shared = shared;
    d->index = index;
    d->listen_fd = d->epoll_fd = -1;
    d->stop.deliver = receive_stop;
    r = mailbox_init(&d->inbox);
    if (r < 0)
        return err_errno(e, r, "setting up an NBD export");
    d->made = true;
    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    r = d->epoll_fd < 0 ? -errno : watch_plain(d, d->inbox.event_fd, &d->inbox);
    if (r < 0)
        return err_errno(e, r, "setting up an NBD export");
    return disk_create(
        &(struct disk_options){
            .image = x->image,
            .build = x->build,
            .inbox = &d->inbox,
            .read_only = x->read_only,
        },
        &d->disk, e);
}

int nbd_device_start(struct nbd_device *d, int listen_fd)
{
    char name[16];
    int r = 0;

    if (listen_fd >= 0)
        r = watch_plain(d, listen_fd, &d->listen_fd);
    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "thaw-nbd/%u", d->index % 1000);
    d->listen_fd = listen_fd;
    d->started = true;
    r = thread_start(&d->thread, name, device_thread, d);
    if (r < 0) {
        d->listen_fd = -1;
        d->started = false;
    }
    return r;
}

void nbd_device_stop(struct nbd_device *d)
{
    if (d->started)
        mailbox_post(&d->inbox, &d->stop);
}

void nbd_device_join(struct nbd_device *d)
{
    if (d->started)
        thread_join(d->thread);
    d->started = false;
}

void nbd_device_finish(struct nbd_device *d)
{
    if (!d->made)
        return;
    disk_destroy(d->disk);
    close_fd(&d->epoll_fd);
    mailbox_finish(&d->inbox);
}
