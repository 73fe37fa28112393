/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Counting by the kernel's delay accounting: a pause is a wait for a block device, but so is the
 * read of a page. Nothing at all is good evidence that nothing was; something is no proof.
 *
 * By taskstats, in nanoseconds and with their number, where CAP_NET_ADMIN allows it; else by field
 * 42 of /proc/self/task/TID/stat (proc_pid_stat(5)), in ticks of 10 ms and without a number.
 *
 * Linux 6.18 was seen to add the whole time since boot to a thread once, and to count some waits
 * twice. No thread can have waited for longer than it was watched: a wait beyond that is left out,
 * and all of them together are cut at it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/taskstats.h"
#include "observe/throttle_internal.h"

#define STAT_FIELD 42

struct delay_state {
    struct taskstats_socket socket;
    bool by_taskstats;
};

static int delay_open(void **ret_state, struct thaw_error *e)
{
    struct delay_state *s;
    struct taskstats_delay ours;

    if (!delayacct_enabled())
        return err_set(e, -EOPNOTSUPP,
                       "sysctl kernel.task_delayacct is not 1; threads that begin later would be "
                       "counted if it were");
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "no memory");
    s->socket.fd = -1;
    s->by_taskstats =
        taskstats_open(&s->socket) == 0 && taskstats_delay_of(&s->socket, gettid(), &ours) == 0;
    *ret_state = s;
    return 0;
}

static void delay_close(void *state)
{
    struct delay_state *s = state;

    taskstats_close(&s->socket);
    free(s);
}

/* "TID (NAME) STATE ...": a name may hold blanks and parentheses. */
static int parse_stat(const char *text, struct taskstats_delay *ret)
{
    const char *at = strrchr(text, ')');
    uint64_t ticks;

    for (int field = 2; at && field < STAT_FIELD; field++) {
        at = strchr(at, ' ');
        if (at)
            at++;
    }
    if (!at || sscanf(at, "%" SCNu64, &ticks) != 1)
        return -EPROTO;
    *ret = (struct taskstats_delay){.ns = ticks * (NS_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK))};
    return 0;
}

static int read_delay(struct throttle *t, const struct throttle_watched *w,
                      struct taskstats_delay *ret)
{
    struct delay_state *s = t->state;
    char text[1024];
    ssize_t n;

    if (s->by_taskstats)
        return taskstats_delay_of(&s->socket, w->tid, ret);
    n = pread(w->source_fd, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return -ESRCH;
    text[n] = '\0';
    return parse_stat(text, ret);
}

static void delay_begin(struct throttle *t, struct throttle_watched *w, bool old)
{
    const struct delay_state *s = t->state;
    struct taskstats_delay now;

    if (!s->by_taskstats)
        w->source_fd = throttle_open_task(t, w->tid, "stat");
    if (old && read_delay(t, w, &now) == 0) {
        w->said_pauses = now.count;
        w->said_ns = now.ns;
    }
    w->since_ns = t->looked_at_ns; /* it may have begun right after that look */
}

/* What of @waited_ns can be true; a wait is added when it ends. */
static uint64_t believe(const struct throttle_watched *w, uint64_t waited_ns, uint64_t now_ns)
{
    uint64_t lived = now_ns - w->since_ns;

    if (waited_ns > lived)
        return 0;
    return waited_ns < lived - w->taken_ns ? waited_ns : lived - w->taken_ns;
}

static void collect_of(struct throttle *t, struct throttle_watched *w)
{
    struct taskstats_delay now;
    uint64_t ns;

    if (read_delay(t, w, &now) < 0 || now.ns == w->said_ns)
        return;
    /* A sum that is less than before has gone round: the difference is large, and not believed. */
    ns = believe(w, now.ns - w->said_ns, clock_now_ns());
    throttle_add(t, w->tid, now.count - w->said_pauses, ns);
    w->taken_ns += ns;
    w->said_pauses = now.count;
    w->said_ns = now.ns;
}

static void delay_collect(struct throttle *t)
{
    for (size_t i = 0; i < t->watched_count; i++)
        collect_of(t, &t->watched[i]);
}

const struct throttle_source throttle_delayacct = {
    .name = "delayacct",
    .exact = false,
    .open = delay_open,
    .begin = delay_begin,
    .collect = delay_collect,
    .close = delay_close,
};
