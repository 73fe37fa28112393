/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/resume.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "cache/set.h"
#include "fetch/fetch.h"
#include "kernel/io.h"
#include "lib/options.h"
#include "sandbox/sandbox.h"
#include "store/store.h"

/* A sandbox with the machinery that it stands on, from the bottom up. */
struct thaw_sandbox {
    struct io_engine *io;
    struct store *store;
    struct cache_set *caches;
    struct fetch *fetch;
    struct sandbox *sandbox;
};

void thaw_sandbox_destroy(struct thaw_sandbox *s)
{
    if (!s)
        return;
    sandbox_destroy(s->sandbox);
    fetch_destroy(s->fetch);
    cache_set_destroy(s->caches);
    store_close(s->store);
    io_engine_destroy(s->io);
    free(s);
}

static int build_up(struct thaw_sandbox *s, const struct thaw_resume_options *o,
                    const struct uuid *build, struct thaw_error *e)
{
    int r = io_engine_create(IO_KIND_AUTO, &s->io, e);

    if (r == 0)
        r = store_open(o->store, s->io, false, &s->store, e);
    if (r == 0)
        r = cache_set_create(&(struct cache_set_options){0}, &s->caches, e);
    if (r == 0)
        r = fetch_create(s->caches, &s->fetch, e);
    if (r == 0)
        r = sandbox_resume(
            &(struct sandbox_options){
                .fetch = s->fetch,
                .store = s->store,
                .build = *build,
                .vmm = o->vmm,
                .vmm_program = o->vmm_program,
                .vmm_options = o->vmm_options,
                .run_dir = o->run_dir,
                .jail = o->jail,
                .accept = o->accept,
                .populate = o->populate != 0,
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

void thaw_sandbox_stats(struct thaw_sandbox *s, struct thaw_sandbox_stats *ret)
{
    sandbox_stats(s->sandbox, ret);
}
