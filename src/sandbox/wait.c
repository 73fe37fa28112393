/* SPDX-License-Identifier: Apache-2.0 */

/* While the VM runs: what the control thread waits for, and what it says. */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "sandbox/internal.h"

struct listener {
    void (*warn)(void *arg, const char *text);
    void *arg;
};

static const char *cause_text(int cause, char *buf, size_t len)
{
    switch (cause) {
    case -EBADMSG:
        return "the stored bytes do not match their checksum, or are too few";
    case -ENOENT:
        return "the object is missing from the store";
    case -EPROTO:
        return "the VMM never said what belongs at that address";
    default:
        return strerror_r(-cause, buf, len);
    }
}

void sandbox_failure_text(const struct sandbox *s, char *ret, size_t len)
{
    const struct memory_status *st = &s->status;
    char where[128], reason[128];

    image_describe(s->memory, (struct image_off){st->failure_at}, where, sizeof(where));
    snprintf(ret, len, "guest memory at byte %llu (%s) cannot be served: %s",
             (unsigned long long)st->failure_at, where,
             cause_text(st->failure, reason, sizeof(reason)));
}

/* Once, however often the wait is broken off and begun again. */
static void tell_news(struct sandbox *s, const struct listener *l)
{
    const struct memory_status *st = &s->status;
    char text[600];

    if (l->warn && st->rejected > s->rejected_told) {
        snprintf(text, sizeof(text), "dropped a connection to the memory socket: %s",
                 st->rejection);
        l->warn(l->arg, text);
    }
    s->rejected_told = st->rejected;
    if (l->warn && st->failed_pages > 0 && !s->failure_told) {
        sandbox_failure_text(s, text, sizeof(text));
        l->warn(l->arg, text);
        s->failure_told = true;
    }
}

/* The VMM must be listened to in any case: it stops when its pipe is full. */
static void tell_vmm_news(const struct sandbox *s, const struct listener *l)
{
    char text[VMM_NEWS_BYTES];

    while (vmm_news(s->vmm, text)) {
        if (l->warn)
            l->warn(l->arg, text);
    }
}

/* 1: stop_fd, 0: the VM is gone */
static int wait_for_end(struct sandbox *s, int stop_fd, const struct listener *l,
                        struct thaw_error *e)
{
    struct pollfd p[] = {
        {.fd = stop_fd, .events = POLLIN},
        {.fd = memory_server_event_fd(s->server), .events = POLLIN},
        {.fd = vmm_pidfd(s->vmm), .events = POLLIN},
        {.events = POLLIN},
    };

    for (;;) {
        sandbox_refresh(s);
        tell_news(s, l);
        if (s->status.phase == MEMORY_ENDED)
            return 0;
        p[3].fd = vmm_event_fd(s->vmm);
        if (poll(p, ARRAY_SIZE(p), -1) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(e, -errno, "waiting for the VM's end");
        }
        if (p[3].revents)
            tell_vmm_news(s, l);
        if (p[2].revents)
            return 0;
        if (p[0].revents)
            return 1;
    }
}

int sandbox_wait(struct sandbox *s, int stop_fd, void (*warn)(void *arg, const char *text),
                 void *warn_arg, struct thaw_error *e)
{
    struct listener l = {.warn = warn, .arg = warn_arg};
    char text[VMM_EXIT_TEXT_BYTES];
    int how;

    if (s->stopped)
        return err_set(e, -ESHUTDOWN, "the sandbox is stopped already");
    how = wait_for_end(s, stop_fd, &l, e);
    if (how < 0)
        return how;
    sandbox_refresh(s);
    tell_news(s, &l);
    if (how == 1)
        return 1; /* a VM that lacks a page may run on: what to do is the caller's to say */
    if (s->status.failed_pages > 0) {
        sandbox_failure_text(s, text, sizeof(text));
        return err_set(e, -EIO, "%s (%llu pages in all)", text,
                       (unsigned long long)s->status.failed_pages);
    }
    if (vmm_pidfd(s->vmm) >= 0) {
        s->driver->stop(s->vmm);
        if (!vmm_ended_well(s->vmm))
            return err_set(e, -ECHILD, "the VMM ended: %s", vmm_exit_text(s->vmm, text));
    }
    return 0;
}
