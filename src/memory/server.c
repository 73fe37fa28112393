/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"
#include "image/image.h"
#include "kernel/unix_socket.h"
#include "memory/vm.h"
#include "observe/metrics.h"

#define LISTEN_BACKLOG 8 /* each VM connects once */

struct memory_server {
    struct memory_server_options options; /* strings owned */
    int event_fd;                         /* owned: there is news */
    pthread_mutex_t mu;
    struct vm **vms;     /* owned; [m] mu: entries up to vm_count */
    unsigned vm_count;   /* [m] mu */
    unsigned vms_wanted; /* [m] mu: options.vms, or fewer if no more can be had */
    bool stopping;       /* [m] mu: no further VM is started */
    uint64_t rejected;   /* [m] mu */
    char rejection[sizeof(((struct thaw_error *)0)->text)];
};

/* --- called by the threads of VMs --- */

const struct memory_server_options *server_options(const struct memory_server *s)
{
    return &s->options;
}

void server_tell(struct memory_server *s)
{
    static const uint64_t one = 1;

    if (write(s->event_fd, &one, sizeof(one)) < 0)
        log_debug("event of a memory server: %s", strerror(errno));
}

void server_reject(struct memory_server *s, const struct thaw_error *why)
{
    metric_errors_add(1, metric_error_of(why->code));
    mutex_lock(&s->mu);
    s->rejected++;
    snprintf(s->rejection, sizeof(s->rejection), "%s", why->text);
    mutex_unlock(&s->mu);
    server_tell(s);
}

/* The next VM in line, made but not started; NULL when there is to be none. */
static struct vm *next_vm_locked(struct memory_server *s)
{
    struct vm *v;

    if (s->stopping || s->vm_count == s->options.vms || vm_create(s, s->vm_count, &v) < 0)
        return NULL;
    s->vms[s->vm_count++] = v;
    return v;
}

/* Fewer VMs than were asked for: that must not go unsaid. */
static void tell_short(struct memory_server *s)
{
    struct thaw_error why = THAW_ERROR_INIT;

    err_set(&why, -ENOMEM,
            "no further VM can be served than those connected: no memory, thread or descriptors "
            "(see ulimit -n; each VM takes four)");
    server_reject(s, &why);
}

void server_next(struct memory_server *s, int listen_fd)
{
    struct vm *v;
    bool more;

    mutex_lock(&s->mu);
    more = !s->stopping && s->vm_count < s->options.vms;
    v = next_vm_locked(s);
    mutex_unlock(&s->mu);
    if (v && vm_start(v, listen_fd) == 0)
        return;
    /* The last one, or no more can be had: with those that are there it will end. */
    mutex_lock(&s->mu);
    s->vms_wanted = s->vm_count - (v != NULL);
    mutex_unlock(&s->mu);
    if (more)
        tell_short(s);
    close(listen_fd);
    unlink(s->options.socket_path);
}

/* --- control thread --- */

static int server_init(struct memory_server *s, const struct memory_server_options *o)
{
    s->options = *o;
    s->vms_wanted = o->vms;
    pthread_mutex_init(&s->mu, NULL);
    s->options.socket_path = strdup(o->socket_path);
    s->vms = calloc(o->vms, sizeof(*s->vms));
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event_fd < 0)
        return -errno;
    return s->options.socket_path && s->vms ? 0 : -ENOMEM;
}

static void server_free(struct memory_server *s)
{
    for (unsigned i = 0; i < s->vm_count; i++)
        vm_destroy(s->vms[i]);
    close_fd(&s->event_fd);
    pthread_mutex_destroy(&s->mu);
    free(s->vms);
    free((char *)(uintptr_t)s->options.socket_path);
    free(s);
}

static int start_first(struct memory_server *s, struct thaw_error *e)
{
    struct unix_listen_options at = {
        .path = s->options.socket_path,
        .owner_uid = s->options.owner_uid,
        .owner_gid = s->options.owner_gid,
        .backlog = LISTEN_BACKLOG,
    };
    int listen_fd = unix_listen(&at, e);
    struct vm *v;
    int r;

    if (listen_fd < 0)
        return listen_fd;
    mutex_lock(&s->mu);
    v = next_vm_locked(s);
    mutex_unlock(&s->mu);
    r = v ? vm_start(v, listen_fd) : -ENOMEM;
    if (r < 0) {
        close(listen_fd);
        unlink(s->options.socket_path);
        return err_errno(e, r, "starting a pager");
    }
    return 0;
}

int memory_server_create(const struct memory_server_options *options, struct memory_server **ret,
                         struct thaw_error *e)
{
    struct memory_server *s;
    int r;

    if (options->vms < 1 || options->vms > MEMORY_VMS_MAX)
        return err_set(e, -EINVAL, "%u VMs: a memory server takes 1 to %u", options->vms,
                       MEMORY_VMS_MAX);
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "no memory for a memory server");
    r = server_init(s, options);
    if (r < 0)
        err_errno(e, r, "setting up a memory server");
    else
        r = start_first(s, e);
    if (r < 0) {
        server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void memory_server_destroy(struct memory_server *s)
{
    unsigned count;

    if (!s)
        return;
    mutex_lock(&s->mu);
    s->stopping = true; /* from here on vm_count stays as it is */
    count = s->vm_count;
    mutex_unlock(&s->mu);
    for (unsigned i = 0; i < count; i++)
        vm_stop(s->vms[i]);
    server_free(s);
}

int memory_server_event_fd(const struct memory_server *s)
{
    return s->event_fd;
}

void memory_server_status(struct memory_server *s, struct memory_status *ret)
{
    uint64_t count;

    if (read(s->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        log_debug("event of a memory server: %s", strerror(errno));
    *ret = (struct memory_status){.pages_total = image_bytes(s->options.image) / PAGE_BYTES};
    mutex_lock(&s->mu);
    for (unsigned i = 0; i < s->vm_count; i++)
        vm_add_status(s->vms[i], ret);
    ret->rejected = s->rejected;
    static_assert(sizeof(ret->rejection) == sizeof(s->rejection), "one text");
    memcpy(ret->rejection, s->rejection, sizeof(ret->rejection));
    if (ret->ended >= s->vms_wanted)
        ret->phase = MEMORY_ENDED;
    else if (ret->connected > 0)
        ret->phase = MEMORY_SERVING;
    mutex_unlock(&s->mu);
}
