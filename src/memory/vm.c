/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/vm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "format/handover.h"
#include "kernel/pidfd.h"
#include "memory/handshake.h"
#include "observe/metrics.h"

#define HANDSHAKE_DEADLINE_NS (10 * NS_PER_SEC)
#define ACCEPT_RETRY_NS       NS_PER_SEC
#define RETRY_NS              (50 * NS_PER_US) /* how soon an install put off is tried again */

struct vm {
    struct memory_server *server; /* borrowed */
    unsigned index;
    pthread_t thread;
    bool started;
    struct mailbox inbox;
    struct message stop;            /* posted at most once, by vm_stop() */
    struct pager_counters counters; /* [a] */

    /* [t] the VM's thread only */
    int listen_fd; /* owned while it is this VM's turn */
    int conn_fd;
    int pidfd;
    int uffd;
    bool stopping;
    bool pager_ready;
    bool first_fault_seen;
    bool failure_told;
    struct pager pager;

    pthread_mutex_t mu;
    bool connected; /* [m] mu, as all below: what the control thread is told */
    bool ended;
    uint64_t connected_ns;
    uint64_t first_fault_ns;
    uint64_t populated_ns;
};

static void receive_stop(struct message *m)
{
    container_of(m, struct vm, stop)->stopping = true;
}

static uint64_t counter(const _Atomic(uint64_t) *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* --- listening and handshake --- */

/* Waits for @fd or the inbox; 1 when @fd is ready, 0 when stopping or past @deadline_ns. */
static int wait_for(struct vm *v, int fd, uint64_t deadline_ns)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = v->inbox.event_fd, .events = POLLIN}};

    while (!v->stopping) {
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
            mailbox_deliver(&v->inbox);
        if (p[0].revents && !v->stopping)
            return 1;
    }
    return 0;
}

static int receive_handover(struct vm *v, struct handover **ret, struct thaw_error *e)
{
    uint64_t deadline = clock_now_ns() + HANDSHAKE_DEADLINE_NS;
    struct handshake h;
    int r = handshake_init(&h);

    if (r < 0)
        return err_set(e, r, "no memory for a hand-over");
    r = -EAGAIN;
    while (r == -EAGAIN) {
        if (wait_for(v, v->conn_fd, deadline) == 0)
            r = err_set(e, -ETIMEDOUT, "a VMM connected, but sent no whole hand-over in time");
        else
            r = handshake_receive(&h, v->conn_fd, ret, &v->uffd, e);
    }
    handshake_finish(&h);
    return r;
}

static int take_vmm(struct vm *v, struct thaw_error *e)
{
    const struct memory_server_options *o = server_options(v->server);
    struct handover *h CLEANUP_HANDOVER = NULL;
    pid_t pid = 0;
    int r = receive_handover(v, &h, e);

    if (r < 0)
        return r;
    v->pidfd = pidfd_of_peer(v->conn_fd, &pid);
    r = pager_init(&v->pager,
                   &(struct pager_options){
                       .ops = &uffd_kernel,
                       .uffd = v->uffd,
                       .handover = h,
                       .image = o->image,
                       .inbox = &v->inbox,
                       .counters = &v->counters,
                       .populate = o->populate,
                   },
                   e);
    if (r < 0)
        return r;
    v->pager_ready = true;
    log_debug("memory of process %d: %zu regions, pages of %llu bytes", pid, h->region_count,
              (unsigned long long)h->page_bytes);
    return 0;
}

static void drop_vmm(struct vm *v)
{
    close_fd(&v->conn_fd);
    close_fd(&v->uffd);
    close_fd(&v->pidfd);
}

/* Without a descriptor or memory, the connection stays and poll(2) returns at once: wait a bit. */
static void refuse(struct vm *v, int err)
{
    struct thaw_error why = THAW_ERROR_INIT;

    if (err != EMFILE && err != ENFILE && err != ENOMEM && err != ENOBUFS)
        return;
    err_errno(&why, -err, "accepting a VMM (each takes four descriptors: see ulimit -n)");
    server_reject(v->server, &why);
    wait_for(v, -1, clock_now_ns() + ACCEPT_RETRY_NS);
}

/* Returns with a VMM to serve, or with nothing when stopping. The socket is then somebody else's.
 */
static void listen_for_vmm(struct vm *v)
{
    while (!v->pager_ready && wait_for(v, v->listen_fd, 0) == 1) {
        struct thaw_error why = THAW_ERROR_INIT;

        v->conn_fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (v->conn_fd < 0) {
            refuse(v, errno);
            continue;
        }
        if (take_vmm(v, &why) < 0) {
            drop_vmm(v);
            if (!v->stopping)
                server_reject(v->server, &why);
        }
    }
    server_next(v->server, TAKE_FD(v->listen_fd));
}

/* --- serving --- */

static void note_connected(struct vm *v)
{
    mutex_lock(&v->mu);
    v->connected = true;
    v->connected_ns = clock_now_ns();
    mutex_unlock(&v->mu);
    server_tell(v->server);
}

/* After each turn: what the control thread should hear about. */
static void note_news(struct vm *v)
{
    struct pager *p = &v->pager;
    const struct pager_counters *c = &v->counters;
    bool fault = !v->first_fault_seen && counter(&c->faults) > 0;
    bool failed = !v->failure_told && counter(&c->failed) > 0;
    bool populated = p->populated && v->populated_ns == 0;

    if (p->kill) {
        /* The page cannot be made to fail, so the VM must: it would wait for ever otherwise. */
        if (v->pidfd >= 0)
            pidfd_kill(v->pidfd, SIGKILL);
        p->kill = false;
    }
    if (!fault && !failed && !populated)
        return;
    mutex_lock(&v->mu);
    if (fault)
        v->first_fault_ns = clock_now_ns();
    if (populated)
        v->populated_ns = clock_now_ns();
    mutex_unlock(&v->mu);
    v->first_fault_seen |= fault;
    v->failure_told |= failed;
    server_tell(v->server);
}

/* Each page that is installed lets a guest go on, whose next fault need not wait for all others. */
static void deliver_between_events(struct vm *v)
{
    struct message *m = mailbox_take(&v->inbox), *next;

    for (; m; m = next) {
        next = m->next;
        m->deliver(m);
        if (next)
            pager_serve(&v->pager);
    }
}

static void serve(struct vm *v)
{
    enum { UFFD, INBOX, PIDFD, CONN };
    struct pollfd p[] = {
        [UFFD] = {.fd = v->uffd, .events = POLLIN},
        [INBOX] = {.fd = v->inbox.event_fd, .events = POLLIN},
        [PIDFD] = {.fd = v->pidfd, .events = POLLIN},
        [CONN] = {.fd = v->pidfd >= 0 ? -1 : v->conn_fd, .events = POLLIN},
    };
    const struct timespec soon = {.tv_nsec = RETRY_NS}, now = {0};

    while (!v->stopping && !v->pager.gone) {
        const struct timespec *timeout = NULL;

        if (pager_has_put_off(&v->pager))
            timeout = &soon;
        else if (pager_has_work(&v->pager))
            timeout = &now;
        if (ppoll(p, ARRAY_SIZE(p), timeout, NULL) < 0)
            continue; /* EINTR */
        if (p[UFFD].revents & POLLIN)
            pager_serve(&v->pager);
        if (p[INBOX].revents)
            deliver_between_events(v);
        if (p[PIDFD].revents || p[CONN].revents || (p[UFFD].revents & ~POLLIN))
            v->pager.gone = true;
        pager_work(&v->pager);
        note_news(v);
    }
}

/* Fetches under way point into the pager: they land before it goes. */
static void land_waits(struct vm *v)
{
    struct pollfd p = {.fd = v->inbox.event_fd, .events = POLLIN};

    v->pager.gone = true;
    while (pager_waits_out(&v->pager) > 0) {
        poll(&p, 1, -1);
        mailbox_deliver(&v->inbox);
    }
}

static void *vm_thread(void *arg)
{
    struct vm *v = arg;

    metrics_thread_begin();
    listen_for_vmm(v);
    if (v->pager_ready) {
        note_connected(v);
        serve(v);
        land_waits(v);
        drop_vmm(v);
        mutex_lock(&v->mu);
        v->ended = true;
        mutex_unlock(&v->mu);
        server_tell(v->server);
    }
    return NULL;
}

/* --- from outside --- */

int vm_create(struct memory_server *s, unsigned index, struct vm **ret)
{
    struct vm *v = calloc(1, sizeof(*v));
    int r;

    if (!v)
        return -ENOMEM;
    v->server = s;
    v->index = index;
    v->listen_fd = v->conn_fd = v->pidfd = v->uffd = -1;
    v->stop.deliver = receive_stop;
    pthread_mutex_init(&v->mu, NULL);
    r = mailbox_init(&v->inbox);
    if (r < 0) {
        v->inbox.event_fd = -1;
        vm_destroy(v);
        return r;
    }
    *ret = v;
    return 0;
}

int vm_start(struct vm *v, int listen_fd)
{
    char name[16];
    int r;

    snprintf(name, sizeof(name), "thaw-pager/%u", v->index % 1000);
    v->listen_fd = listen_fd;
    v->started = true;
    r = thread_start(&v->thread, name, vm_thread, v);
    if (r < 0) {
        v->listen_fd = -1;
        v->started = false;
    }
    return r;
}

void vm_stop(struct vm *v)
{
    mailbox_post(&v->inbox, &v->stop);
}

void vm_destroy(struct vm *v)
{
    if (!v)
        return;
    if (v->started)
        thread_join(v->thread);
    if (v->pager_ready)
        pager_finish(&v->pager);
    mailbox_finish(&v->inbox);
    pthread_mutex_destroy(&v->mu);
    free(v);
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    if (a_ns == 0 || b_ns == 0)
        return a_ns + b_ns;
    return MIN(a_ns, b_ns);
}

void vm_add_status(struct vm *v, struct memory_status *st)
{
    const struct pager_counters *c = &v->counters;

    st->faults.total += counter(&c->faults);
    st->faults.ram += counter(&c->from_ram);
    st->faults.disk += counter(&c->from_disk);
    st->faults.store += counter(&c->from_store);
    st->faults.zero += counter(&c->from_zero);
    st->faults.removed += counter(&c->from_removed);
    st->pages_installed += counter(&c->pages);
    st->installed_bytes += counter(&c->data_bytes);
    /* In this order: see struct pager_counters. */
    st->failed_pages += atomic_load_explicit(&c->failed, memory_order_acquire);
    if (st->failure == 0) {
        st->failure = atomic_load_explicit(&c->failure, memory_order_acquire);
        st->failure_at = counter(&c->failure_at);
    }
    mutex_lock(&v->mu);
    st->connected += v->connected;
    st->ended += v->ended;
    st->connected_ns = earlier(st->connected_ns, v->connected_ns);
    st->first_fault_ns = earlier(st->first_fault_ns, v->first_fault_ns);
    st->populated_ns = earlier(st->populated_ns, v->populated_ns);
    mutex_unlock(&v->mu);
}
