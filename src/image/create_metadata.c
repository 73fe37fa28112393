/* SPDX-License-Identifier: Apache-2.0 */
#include "image/create_metadata.h"

#include <errno.h>

#include "base/error.h"
#include "format/json.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/build.h"

/* What E2B leaves out as well when it copies the metadata of a build to its child. */
static const char *const of_one_snapshot[] = {"prefetch", "filesystem_only", "fs_quiesced"};

static int inherit(struct store *store, const struct manifest *base, bool inherit_vmm,
                   struct metadata *m, struct thaw_error *e)
{
    struct metadata *from CLEANUP_METADATA = NULL;
    struct buf text CLEANUP_BUF = {0};
    int r = build_object_load(store, base, METADATA_NAME, METADATA_MAX_BYTES, &text, e);

    if (r == 0)
        r = metadata_decode(text.data, text.len, &from, e);
    if (r < 0) {
        err_wrap(e, "the base");
        return r;
    }
    m->foreign = TAKE_PTR(from->foreign);
    for (size_t i = 0; i < ARRAY_SIZE(of_one_snapshot); i++)
        json_object_del(m->foreign, of_one_snapshot[i]);
    if (inherit_vmm) {
        struct metadata_vmm unused = m->vmm;

        m->vmm = from->vmm;
        from->vmm = unused;
    }
    return 0;
}

static int put_text_if_missing(json_t *object, const char *key, const char *text)
{
    return json_object_get(object, key) ? 0 : json_put(object, key, json_string(text));
}

/* What E2B's reader looks for: which build this is, and what to start it with. */
static int put_template(struct metadata *m, const struct uuid *id)
{
    bool firecracker = m->vmm.kind == VMM_FIRECRACKER && m->vmm.version;
    json_t *template = json_object_get(m->foreign, "template");
    char text[UUID_TEXT_BYTES];

    if (!json_is_object(template)) {
        template = json_object();
        if (json_put(m->foreign, "template", template) < 0) /* takes template over */
            return -ENOMEM;
    }
    if (firecracker && json_put(template, "firecracker_version", json_string(m->vmm.version)) < 0)
        return -ENOMEM;
    if (json_put(template, "build_id", json_string(uuid_format(id, text))) < 0 ||
        put_text_if_missing(template, "kernel_version", "") < 0 ||
        put_text_if_missing(template, "firecracker_version", "") < 0)
        return -ENOMEM;
    return 0;
}

int create_metadata(struct store *store, const struct uuid *id, const struct manifest *base,
                    bool inherit_vmm, struct metadata *m, struct thaw_error *e)
{
    int r =
        base && manifest_find(base, METADATA_NAME) ? inherit(store, base, inherit_vmm, m, e) : 0;

    if (r < 0)
        return r;
    if (!m->foreign)
        m->foreign = json_object();
    if (!m->foreign || put_template(m, id) < 0)
        return err_set(e, -ENOMEM,
                       "no memory for the metadata, or a text in it is not valid UTF-8");
    return 0;
}
