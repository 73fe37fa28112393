/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Counting without any privilege. A thread that is found in the throttle is taken to have been
 * there since the look before, which is right on average. How often it slept is the number of its
 * voluntary context switches (/proc/self/task/TID/status) between two looks of which one found it
 * there: in a thread that does nothing but store, each pause is one switch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "observe/throttle_internal.h"

static int wchan_open(void **ret_state, struct thaw_error *e)
{
    (void)e;
    *ret_state = NULL;
    return 0;
}

static int read_switches(const struct throttle_watched *w, uint64_t *ret)
{
    static const char key[] = "\nvoluntary_ctxt_switches:";
    char text[4096];
    const char *at;
    ssize_t n = pread(w->source_fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return -ESRCH;
    text[n] = '\0';
    at = strstr(text, key);
    if (!at)
        return -EPROTO;
    *ret = strtoull(at + strlen(key), NULL, 10);
    return 0;
}

static void wchan_begin(struct throttle *t, struct throttle_watched *w, bool old)
{
    (void)old;
    w->source_fd = throttle_open_task(t, w->tid, "status");
    if (w->source_fd >= 0 && read_switches(w, &w->said_pauses) < 0)
        w->said_pauses = 0;
}

static void wchan_look(struct throttle *t, struct throttle_watched *w, bool was_inside,
                       uint64_t elapsed_ns)
{
    uint64_t switches = 0, new_switches;

    if (read_switches(w, &switches) < 0)
        return;
    new_switches = switches - w->said_pauses;
    w->said_pauses = switches;
    if (w->inside || was_inside)
        throttle_add(t, w->tid, new_switches, w->inside ? elapsed_ns : 0);
}

const struct throttle_source throttle_wchan = {
    .name = "wchan",
    .exact = false,
    .open = wchan_open,
    .begin = wchan_begin,
    .look = wchan_look,
};
