/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "vmm/driver.h"
#include "vmm/process.h"

const struct vmm_driver *vmm_driver_find(const char *name)
{
    static const struct vmm_driver *const drivers[] = {&vmm_none, &vmm_qemu, &vmm_firecracker};

    for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    }
    return NULL;
}

int vmm_pidfd(const struct vmm *v)
{
    return v->process ? process_pidfd(v->process) : -1;
}

pid_t vmm_pid(const struct vmm *v)
{
    return v->process ? process_pid(v->process) : 0;
}

int vmm_event_fd(struct vmm *v)
{
    return v->driver->event_fd ? v->driver->event_fd(v) : -1;
}

bool vmm_news(struct vmm *v, char ret[VMM_NEWS_BYTES])
{
    return v->driver->news && v->driver->news(v, ret);
}

bool vmm_ended_well(const struct vmm *v)
{
    return v->process && process_succeeded(v->process);
}

const char *vmm_exit_text(struct vmm *v, char ret[VMM_EXIT_TEXT_BYTES])
{
    char exit_text[PROCESS_EXIT_TEXT_BYTES];
    char tail[PROCESS_LOG_TAIL_BYTES];

    if (!v->process) {
        snprintf(ret, VMM_EXIT_TEXT_BYTES, "not our process");
        return ret;
    }
    process_exit_text(v->process, exit_text);
    process_log_tail(v->process, tail);
    if (tail[0])
        snprintf(ret, VMM_EXIT_TEXT_BYTES, "%s; last lines of its log: %s", exit_text, tail);
    else
        snprintf(ret, VMM_EXIT_TEXT_BYTES, "%s; its log is empty", exit_text);
    return ret;
}

int vmm_explain(struct vmm *v, struct thaw_error *e)
{
    char text[VMM_EXIT_TEXT_BYTES];
    size_t len;

    if (!e)
        return -EIO;
    if (e->code == -ECONNRESET || e->code == -EBADMSG)
        process_wait(v->process, clock_now_ns() + NS_PER_SEC);
    vmm_exit_text(v, text);
    len = strlen(e->text);
    snprintf(e->text + len, sizeof(e->text) - len, "; %s: %s", v->driver->name, text);
    return e->code;
}

void vmm_destroy(struct vmm *v)
{
    if (v)
        v->driver->release(v);
}

static int none_start(const struct vmm_options *o, struct vmm **ret, struct thaw_error *e)
{
    struct vmm *v = calloc(1, sizeof(*v));

    (void)o;
    if (!v)
        return err_set(e, -ENOMEM, "no memory for the VMM's driver");
    v->driver = &vmm_none;
    *ret = v;
    return 0;
}

static int none_advance(struct vmm *v, struct thaw_error *e)
{
    (void)v;
    (void)e;
    return 0;
}

static void none_stop(struct vmm *v)
{
    (void)v;
}

static void none_release(struct vmm *v)
{
    free(v);
}

const struct vmm_driver vmm_none = {
    .name = "none",
    .start = none_start,
    .load = none_advance,
    .run = none_advance,
    .stop = none_stop,
    .release = none_release,
};
