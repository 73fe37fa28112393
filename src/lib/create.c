/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/build.h"

#include <errno.h>

#include "base/error.h"
#include "format/metadata.h"
#include "image/create.h"
#include "lib/options.h"
#include "store/store.h"

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

int thaw_create(const struct thaw_create_options *options, char ret_id[THAW_BUILD_ID_BYTES],
                struct thaw_error *e)
{
    struct store *store CLEANUP_STORE = NULL;
    struct metadata *metadata CLEANUP_METADATA = NULL;
    struct thaw_create_options o;
    struct pack_progress progress;
    struct uuid id;
    int r = OPTIONS_COPY(&o, options, e);

    if (r < 0)
        return r;
    if (!o.store || !o.memory_path)
        return err_set(e, -EINVAL, "a build needs a store and a memory image");
    progress = (struct pack_progress){.report = o.progress, .arg = o.progress_arg};
    r = metadata_create(&metadata);
    if (r == 0)
        r = uuid_random(&id);
    if (r < 0)
        return err_errno(e, r, "starting a build");
    r = describe_vmm(&o, metadata, e);
    if (r == 0)
        r = store_open(o.store, NULL, true, &store, e);
    if (r == 0)
        r = build_create(store, &id,
                         &(struct build_source){
                             .memory_path = o.memory_path,
                             .snapfile_path = o.snapfile_path,
                             .metadata = metadata,
                             .progress = o.progress ? &progress : NULL,
                         },
                         e);
    if (r == 0)
        uuid_format(&id, ret_id);
    return r;
}
