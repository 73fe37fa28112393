/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/bus.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#include "base/thread.h"

/* initial-exec: a handler must not be the first to allocate the variables of its thread. */
static _Thread_local sigjmp_buf *volatile way_out __attribute__((tls_model("initial-exec")));

/* Set only while ours is not installed. */
static struct sigaction before;
static _Thread_local volatile bool passing_on __attribute__((tls_model("initial-exec")));

static void not_ours(int nr, siginfo_t *info, void *context)
{
    bool has_handler = before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN;

    /* The other one may pass it on in turn, to us. */
    if (has_handler && !passing_on) {
        passing_on = true;
        if (before.sa_flags & SA_SIGINFO)
            before.sa_sigaction(nr, info, context);
        else
            before.sa_handler(nr);
        passing_on = false;
        return;
    }
    /* The access is tried again and ends the process, as it would have; after kill(2) it is not. */
    signal(nr, SIG_DFL);
    if (info->si_code <= 0)
        raise(nr);
}

static void on_bus(int nr, siginfo_t *info, void *context)
{
    sigjmp_buf *out = way_out;

    if (!out || info->si_code <= 0) {
        not_ours(nr, info, context);
        return;
    }
    way_out = NULL;
    /* As a return would: it is cheaper here than to save the mask with each jump buffer. */
    pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
    siglongjmp(*out, 1);
}

int bus_guard(void)
{
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction now;
    LOCK_SCOPE(&mu);

    if (sigaction(SIGBUS, NULL, &now) < 0)
        return -errno;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus)
        return 0;
    before = now;
    return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

int bus_call(void (*fn)(void *arg), void *arg)
{
    sigjmp_buf out;

    if (sigsetjmp(out, 0) != 0)
        return -EFAULT;
    way_out = &out;
    atomic_signal_fence(memory_order_seq_cst); /* the compiler keeps the accesses in between */
    fn(arg);
    atomic_signal_fence(memory_order_seq_cst);
    way_out = NULL;
    return 0;
}

struct copy {
    void *to;
    const void *from;
    size_t len;
};

static void copy(void *arg)
{
    const struct copy *c = arg;

    memcpy(c->to, c->from, c->len);
}

int bus_copy(void *to, const void *from, size_t len)
{
    if (len == 0)
        return 0; /* of an object of size 0, which has no memory */
    return bus_call(copy, &(struct copy){to, from, len});
}
