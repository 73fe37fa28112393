/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/create.h"

#include <errno.h>

#include "base/error.h"
#include "format/codec.h"
#include "format/metadata.h"
#include "image/create.h"
#include "kernel/io.h"
#include "lib/options.h"
#include "store/store.h"
#include "vmm/qemu_capture.h"

static int describe_vmm(const struct thaw_create_options *o, struct metadata *m,
                        struct thaw_error *e)
{
    int r = vmm_kind_parse(o->vmm ? o->vmm : "none", &m->vmm.kind);

    if (r < 0)
        return err_set(e, r, "no VMM is called '%s'; there are: none, qemu, firecracker", o->vmm);
    if (o->vmm_version) {
        m->vmm.version = strdup(o->vmm_version);
        if (!m->vmm.version)
            return err_set(e, -ENOMEM, "no memory for the metadata");
    }
    for (const char *const *arg = o->vmm_args; arg && *arg; arg++) {
        r = metadata_add_arg(m, *arg);
        if (r < 0)
            return err_errno(e, r, "recording the VMM's arguments");
    }
    return 0;
}

/* The parts that a creation stands on, and what it is to make. */
struct creation {
    struct io_engine *io;      /* owned; NULL: nothing is read from the store */
    struct store *store;       /* owned */
    struct metadata *metadata; /* owned */
    struct uuid base;
    struct pack_progress progress;
    struct build_source source;
    struct qemu_capture *capture; /* owned; NULL: no guest is stopped */
};

static void creation_finish(struct creation *c)
{
    qemu_capture_destroy(c->capture);
    store_close(c->store);
    io_engine_destroy(c->io);
    metadata_destroy(c->metadata);
}

static int describe(struct creation *c, const struct thaw_create_options *o, struct thaw_error *e)
{
    int r = 0;

    if (o->codec && strcmp(o->codec, codec_name(CODEC_NONE)) != 0)
        return err_set(e, -EINVAL, "no codec '%s' to write with; there is: none", o->codec);
    if (o->base)
        r = build_id_parse(o->base, &c->base, e);
    if (r < 0)
        return r;
    r = metadata_create(&c->metadata);
    if (r < 0)
        return err_set(e, r, "no memory for the metadata");
    c->progress = (struct pack_progress){.report = o->progress, .arg = o->progress_arg};
    c->source = (struct build_source){
        .memory_path = o->memory_path,
        .rootfs_path = o->rootfs_path,
        .snapfile_path = o->snapfile_path,
        .base = o->base ? &c->base : NULL,
        .block_bytes = o->block_bytes,
        .header_version = o->header_version,
        .inherit_vmm = o->base && !o->vmm && !o->vmm_version && !o->vmm_args,
        .metadata = c->metadata,
        .progress = o->progress ? &c->progress : NULL,
    };
    return describe_vmm(o, c->metadata, e);
}

static int check_parts(const struct thaw_create_options *o, struct thaw_error *e)
{
    bool parts = o->memory_path || o->rootfs_path;

    if (!o->store || (!o->from_qmp && !parts))
        return err_set(e, -EINVAL, "a build needs a store, and a memory or a disk image");
    if (o->from_qmp && (parts || o->snapfile_path || o->vmm || o->vmm_version || o->vmm_args))
        return err_set(e, -EINVAL,
                       "a build of a running guest takes memory, disk, state and the VMM's "
                       "arguments from the guest alone");
    return 0;
}

static int record_snapshot(struct creation *c, struct qemu_snapshot *s, struct thaw_error *e)
{
    struct metadata *m = c->metadata;

    m->vmm.kind = VMM_QEMU;
    m->vmm.version = strdup(s->version);
    if (!m->vmm.version)
        return err_set(e, -ENOMEM, "no memory for the metadata");
    for (size_t i = 0; i < s->args.n; i++) {
        int r = metadata_add_arg(m, s->args.v[i]);

        if (r < 0)
            return err_errno(e, r, "recording QEMU's arguments");
    }
    c->source.inherit_vmm = false;
    c->source.memory = &s->memory;
    c->source.rootfs = s->disk.ops ? &s->disk : NULL;
    c->source.snapfile = &s->state;
    return 0;
}

/* The guest stands still from here until its build exists, or has failed. */
static int create_from_qmp(struct creation *c, const struct thaw_create_options *o,
                           const struct uuid *id, struct thaw_error *e)
{
    struct qemu_snapshot *snapshot;
    int r = qemu_capture_create(o->from_qmp, o->cancel_fd, &c->capture, e);

    if (r == 0)
        r = qemu_capture_stop(c->capture, &snapshot, e);
    if (r == 0)
        r = record_snapshot(c, snapshot, e);
    if (r == 0)
        r = build_create(c->store, id, &c->source, e);
    if (r < 0)
        return r;
    if (qemu_capture_finish(c->capture, o->go_on, e) < 0) {
        err_wrap(e, "the build exists, but QEMU is not as it was");
        return 1;
    }
    return 0;
}

int thaw_create(const struct thaw_create_options *options, char ret_id[THAW_BUILD_ID_BYTES],
                struct thaw_error *e)
{
    struct creation c CLEANUP(creation_finish) = {0};
    struct thaw_create_options o;
    struct uuid id;
    int r = OPTIONS_COPY(&o, options, e);

    if (r < 0)
        return r;
    r = check_parts(&o, e);
    if (r == 0)
        r = describe(&c, &o, e);
    if (r == 0 && o.base)
        r = io_engine_create(IO_KIND_AUTO, &c.io, e);
    if (r == 0)
        r = store_open(o.store, c.io, !o.base, &c.store, e);
    if (r < 0)
        return r;
    r = uuid_random(&id);
    if (r < 0)
        return err_errno(e, r, "finding an id for the build");
    if (o.from_qmp)
        r = create_from_qmp(&c, &o, &id, e);
    else
        r = build_create(c.store, &id, &c.source, e);
    if (r >= 0)
        uuid_format(&id, ret_id);
    return r;
}
