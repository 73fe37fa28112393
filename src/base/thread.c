/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret, const char *name, void *(*fn)(void *arg), void *arg)
{
    sigset_t block, old;
    int r;

    sigfillset(&block);
    sigdelset(&block, SIGBUS);
    sigdelset(&block, SIGFPE);
    sigdelset(&block, SIGILL);
    sigdelset(&block, SIGSEGV);
    sigdelset(&block, SIGABRT);
    /* The new thread inherits the mask: there is no moment at which it could take a signal. */
    pthread_sigmask(SIG_SETMASK, &block, &old);
    r = pthread_create(ret, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        pthread_setname_np(*ret, name);
    return -r;
}

void thread_join(pthread_t t)
{
    int r = pthread_join(t, NULL);

    assert(r == 0);
    (void)r;
}
