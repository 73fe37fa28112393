/* SPDX-License-Identifier: Apache-2.0 */
#include "format/metadata_json.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int check_prefetch(const struct metadata *m, struct thaw_error *e)
{
    const struct metadata_prefetch *p = &m->prefetch;

    if (p->count > 0 && !metadata_block_bytes_valid(p->block_bytes))
        return err_set(e, -EINVAL,
                       "the prefetch block size, %" PRIu64 ", is not a power of two from 4 KiB to "
                       "2 MiB",
                       p->block_bytes);
    for (size_t i = 0; i < p->count; i++) {
        if (!metadata_index_valid(m, p->indices[i], p->block_bytes))
            return err_set(e, -EINVAL, "prefetch index %zu, %" PRIu64 ", is beyond the memory", i,
                           p->indices[i]);
        if (p->access && !metadata_access_valid(p->access[i]))
            return err_set(e, -EINVAL, "prefetch access type %zu is none of r, w and p", i);
    }
    return 0;
}

static int check(const struct metadata *m, struct thaw_error *e)
{
    bool says_something = m->foreign || m->prefetch.count > 0 || m->memory_bytes > 0 ||
                          m->page_bytes > 0 || m->vmm.kind != VMM_NONE || m->vmm.version ||
                          m->vmm.arg_count > 0;

    if (m->version <= METADATA_STRIPPED && says_something)
        return err_set(e, -EINVAL,
                       "version %" PRIu64 " makes readers ignore the rest: set it to %d",
                       m->version, METADATA_VERSION);
    if (m->version > INT64_MAX)
        return err_set(e, -EINVAL, "the version is above 2^63-1");
    if (m->memory_bytes > METADATA_IMAGE_MAX_BYTES)
        return err_set(e, -EINVAL, "the memory size, %" PRIu64 ", is above 16 TiB",
                       m->memory_bytes);
    if (m->page_bytes != 0 && !metadata_block_bytes_valid(m->page_bytes))
        return err_set(e, -EINVAL,
                       "the page size, %" PRIu64 ", is not a power of two from 4 KiB to 2 MiB",
                       m->page_bytes);
    if (m->vmm.arg_count > METADATA_MAX_ARGS)
        return err_set(e, -EINVAL, "%zu VMM arguments, at most %d are allowed", m->vmm.arg_count,
                       METADATA_MAX_ARGS);
    return check_prefetch(m, e);
}

static json_t *encode_args(const struct metadata_vmm *vmm)
{
    json_t *args CLEANUP_JSON = json_array();

    for (size_t i = 0; i < vmm->arg_count; i++) {
        if (json_array_append_new(args, json_string(vmm->args[i])) < 0)
            return NULL;
    }
    return TAKE_PTR(args);
}

static json_t *encode_vmm(const struct metadata_vmm *vmm)
{
    json_t *value CLEANUP_JSON = json_object();

    if (json_put(value, "kind", json_string(vmm_kind_name(vmm->kind))) < 0)
        return NULL;
    if (vmm->version && json_put(value, "version", json_string(vmm->version)) < 0)
        return NULL;
    if (json_put(value, "args", encode_args(vmm)) < 0)
        return NULL;
    return TAKE_PTR(value);
}

static json_t *encode_thaw(const struct metadata *m)
{
    json_t *value CLEANUP_JSON = json_object();

    if (json_put(value, "vmm", encode_vmm(&m->vmm)) < 0)
        return NULL;
    if (m->memory_bytes > 0 &&
        json_put(value, "memory_bytes", json_integer((json_int_t)m->memory_bytes)) < 0)
        return NULL;
    if (m->page_bytes > 0 &&
        json_put(value, "page_bytes", json_integer((json_int_t)m->page_bytes)) < 0)
        return NULL;
    return TAKE_PTR(value);
}

static json_t *encode_memory(const struct metadata_prefetch *p)
{
    json_t *indices CLEANUP_JSON = json_array();
    json_t *access CLEANUP_JSON = json_array();
    json_t *value CLEANUP_JSON = json_object();

    for (size_t i = 0; i < p->count; i++) {
        if (json_array_append_new(indices, json_integer((json_int_t)p->indices[i])) < 0)
            return NULL;
        if (p->access && json_array_append_new(access, json_stringn(&p->access[i], 1)) < 0)
            return NULL;
    }
    if (json_put(value, "indices", json_incref(indices)) < 0)
        return NULL;
    if (p->access && json_put(value, "access_types", json_incref(access)) < 0)
        return NULL;
    if (json_put(value, "block_size", json_integer((json_int_t)p->block_bytes)) < 0)
        return NULL;
    return TAKE_PTR(value);
}

/* What E2B keeps under "prefetch" beside "memory" is kept as well. */
static json_t *encode_prefetch(const struct metadata *m)
{
    json_t *kept = json_object_get(m->foreign, "prefetch");
    json_t *value CLEANUP_JSON = kept ? json_copy(kept) : json_object();

    if (json_put(value, "memory", encode_memory(&m->prefetch)) < 0)
        return NULL;
    return TAKE_PTR(value);
}

static json_t *encode_root(const struct metadata *m)
{
    json_t *root CLEANUP_JSON = json_object();

    if (json_put(root, "version", json_integer((json_int_t)m->version)) < 0)
        return NULL;
    if (m->version <= METADATA_STRIPPED)
        return TAKE_PTR(root);
    if (m->foreign && json_object_update(root, m->foreign) < 0)
        return NULL;
    if (m->prefetch.count > 0 && json_put(root, "prefetch", encode_prefetch(m)) < 0)
        return NULL;
    if (json_put(root, "thaw", encode_thaw(m)) < 0)
        return NULL;
    return TAKE_PTR(root);
}

int metadata_encode(const struct metadata *m, struct buf *ret, struct thaw_error *e)
{
    json_t *root CLEANUP_JSON = NULL;
    size_t before = ret->len;
    int r = check(m, e);

    if (r < 0) {
        err_wrap(e, METADATA_WHAT);
        return r;
    }
    root = encode_root(m);
    if (!root || json_print(root, ret) < 0)
        return err_set(e, -ENOMEM, METADATA_WHAT ": no memory, or a text in it is not valid UTF-8");
    if (ret->len - before > METADATA_MAX_BYTES) {
        ret->len = before;
        return err_set(e, -EINVAL,
                       METADATA_WHAT ": it would be larger than %" PRIu64
                                     " bytes; keep fewer prefetch indices",
                       METADATA_MAX_BYTES);
    }
    return 0;
}
