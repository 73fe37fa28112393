/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/resume.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "cache/set.h"
#include "lib/host.h"
#include "lib/options.h"
#include "observe/metrics.h"
#include "sandbox/sandbox.h"

struct thaw_sandbox {
    struct thaw_host *own_host; /* owned; NULL: the host is somebody else's */
    struct sandbox *sandbox;    /* owned */
};

void thaw_sandbox_destroy(struct thaw_sandbox *s)
{
    if (!s)
        return;
    sandbox_destroy(s->sandbox);
    thaw_host_close(s->own_host);
    free(s);
}

static int build_up(struct thaw_sandbox *s, const struct thaw_resume_options *o,
                    const struct uuid *build, struct thaw_error *e)
{
    struct thaw_host_options usual = {.opts_size = sizeof(usual)};
    struct thaw_host *host = o->host;
    struct fetch *fetch;
    struct store *store;
    int r = 0;

    if (!host) {
        r = thaw_host_open(&usual, &s->own_host, e);
        host = s->own_host;
    }
    if (r == 0)
        r = host_fetch(host, &fetch, e);
    if (r == 0)
        r = host_store(host, o->store, &store, e);
    if (r == 0)
        r = sandbox_resume(
            &(struct sandbox_options){
                .fetch = fetch,
                .store = store,
                .build = *build,
                .vmm = o->vmm,
                .vmm_program = o->vmm_program,
                .vmm_options = o->vmm_options,
                .run_dir = o->run_dir,
                .jail = o->jail,
                .accept = o->accept,
                .populate = o->populate,
            },
            &s->sandbox, e);
    return r;
}

int thaw_resume(const struct thaw_resume_options *options, struct thaw_sandbox **ret,
                struct thaw_error *e)
{
    struct thaw_resume_options o;
    struct thaw_sandbox *s;
    struct uuid build;
    int r = OPTIONS_COPY(&o, options, e);

    if (r == 0)
        r = build_id_parse(o.build, &build, e);
    if (r == 0 && !o.store)
        r = err_set(e, -EINVAL, "a resume needs a store");
    if (r < 0)
        return r;
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "no memory for a sandbox");
    r = build_up(s, &o, &build, e);
    if (r < 0) {
        metric_errors_add(1, metric_error_of(r));
        thaw_sandbox_destroy(s);
        return r;
    }
    *ret = s;
    return 0;
}

int thaw_sandbox_wait(struct thaw_sandbox *s, int stop_fd,
                      void (*warn)(void *arg, const char *text), void *warn_arg,
                      struct thaw_error *e)
{
    return sandbox_wait(s->sandbox, stop_fd, warn, warn_arg, e);
}

void thaw_sandbox_stop(struct thaw_sandbox *s)
{
    sandbox_stop(s->sandbox);
}

void thaw_sandbox_info(const struct thaw_sandbox *s, struct thaw_sandbox_info *ret)
{
    sandbox_info(s->sandbox, ret);
}

void thaw_sandbox_mark(struct thaw_sandbox *s, const char *name)
{
    sandbox_mark(s->sandbox, name);
}

void thaw_sandbox_stats(struct thaw_sandbox *s, struct thaw_sandbox_stats *ret)
{
    sandbox_stats(s->sandbox, ret);
}
