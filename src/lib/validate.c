/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/build.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "image/validate.h"
#include "kernel/io.h"
#include "lib/options.h"
#include "store/store.h"

/* The public struct, and what it points into. */
struct outcome {
    struct thaw_validation public;
    struct verdicts verdicts;
};

void thaw_validation_free(struct thaw_validation *validation)
{
    struct outcome *out = container_of(validation, struct outcome, public);

    if (!validation)
        return;
    verdicts_finish(&out->verdicts);
    free(out);
}

static void count(struct outcome *out)
{
    struct thaw_validation *p = &out->public;

    p->verdicts = out->verdicts.list;
    p->verdict_count = out->verdicts.count;
    p->build_count = out->verdicts.build_count;
    for (size_t i = 0; i < p->verdict_count; i++) {
        p->bad_count += p->verdicts[i].kind == THAW_VERDICT_BAD;
        p->unverified_count += p->verdicts[i].kind == THAW_VERDICT_UNVERIFIED;
        p->read_bytes += p->verdicts[i].read_bytes;
    }
}

static void engine_destroy(struct io_engine **io)
{
    io_engine_destroy(*io);
}

static int validate(const struct thaw_validate_options *o, struct verdicts *ret,
                    struct thaw_error *e)
{
    const struct scan_progress progress = {.report = o->progress, .arg = o->progress_arg};
    struct io_engine *io CLEANUP(engine_destroy) = NULL; /* outlives the store */
    struct store *store CLEANUP_STORE = NULL;
    struct uuid build;
    int r = build_id_parse(o->build, &build, e);

    if (r == 0)
        r = io_engine_create(IO_KIND_AUTO, &io, e);
    if (r == 0)
        r = store_open(o->store, io, false, &store, e);
    return r < 0 ? r : build_validate(store, &build, o->recursive, &progress, ret, e);
}

int thaw_validate(const struct thaw_validate_options *options, struct thaw_validation **ret,
                  struct thaw_error *e)
{
    struct thaw_validate_options o;
    struct outcome *out;
    int r = OPTIONS_COPY(&o, options, e);

    if (r == 0 && !o.store)
        r = err_set(e, -EINVAL, "a validation needs a store");
    if (r < 0)
        return r;
    out = calloc(1, sizeof(*out));
    if (!out)
        return err_set(e, -ENOMEM, "no memory to check a build");
    r = validate(&o, &out->verdicts, e);
    if (r < 0) {
        thaw_validation_free(&out->public);
        return r;
    }
    count(out);
    *ret = &out->public;
    return 0;
}
