/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/build.h"

#include <errno.h>

#include "base/error.h"
#include "image/export.h"
#include "kernel/io.h"
#include "lib/options.h"
#include "store/store.h"

static void engine_destroy(struct io_engine **io)
{
    io_engine_destroy(*io);
}

int thaw_export(const struct thaw_export_options *options, struct thaw_export_info *ret,
                struct thaw_error *e)
{
    struct io_engine *io CLEANUP(engine_destroy) = NULL; /* outlives the store */
    struct store *store CLEANUP_STORE = NULL;
    struct thaw_export_options o;
    struct scan_progress progress;
    struct uuid build;
    int r = OPTIONS_COPY(&o, options, e);

    if (r == 0 && (!o.store || !o.dir))
        r = err_set(e, -EINVAL, "an export needs a store and a folder");
    if (r == 0)
        r = build_id_parse(o.build, &build, e);
    if (r == 0)
        r = io_engine_create(IO_KIND_AUTO, &io, e);
    if (r == 0)
        r = store_open(o.store, io, false, &store, e);
    if (r < 0)
        return r;
    progress = (struct scan_progress){.report = o.progress, .arg = o.progress_arg};
    return build_export(store, &build, o.dir, &progress, ret, e);
}
