/* SPDX-License-Identifier: Apache-2.0 */
#include "format/metadata_json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A member that may be missing, or null as Go writes what is not there. */
static json_t *optional(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

static int get_optional_u64(const json_t *object, const char *key, uint64_t *ret,
                            struct thaw_error *e)
{
    return optional(object, key) ? json_get_u64(object, key, ret, e) : 0;
}

/* The object at @key into *@ret, which stays NULL when there is none. */
static int get_optional_object(const json_t *object, const char *key, json_t **ret,
                               struct thaw_error *e)
{
    json_t *value = optional(object, key);

    if (value && !json_is_object(value))
        return err_set(e, -EBADMSG, "\"%s\" is not a JSON object", key);
    *ret = value;
    return 0;
}

/* Whether the file is of a version that says nothing. Any number will do, as in E2B's reader. */
static bool is_stripped(const json_t *root)
{
    const json_t *version = json_object_get(root, "version");

    return !json_is_number(version) || json_number_value(version) <= METADATA_STRIPPED;
}

static int decode_args(const json_t *vmm, struct metadata *m, struct thaw_error *e)
{
    const json_t *args = optional(vmm, "args");

    if (!args)
        return 0;
    if (!json_is_array(args) || json_array_size(args) > METADATA_MAX_ARGS)
        return err_set(e, -EBADMSG, "\"args\" is not an array of at most %d strings",
                       METADATA_MAX_ARGS);
    for (size_t i = 0; i < json_array_size(args); i++) {
        const json_t *arg = json_array_get(args, i);

        if (!json_is_string(arg))
            return err_set(e, -EBADMSG, "\"args\": entry %zu is not a string", i);
        if (metadata_add_arg(m, json_string_value(arg)) < 0)
            return err_set(e, -ENOMEM, "no memory");
    }
    return 0;
}

static int decode_vmm(const json_t *vmm, struct metadata *m, struct thaw_error *e)
{
    const char *kind = NULL, *version = NULL;
    int r = json_get_text(vmm, "kind", &kind, e);

    if (r < 0)
        return r;
    if (vmm_kind_parse(kind, &m->vmm.kind) < 0)
        return err_set(e, -EBADMSG,
                       "\"kind\" is none of \"none\", \"qemu\" and \"firecracker\": use a newer "
                       "thaw");
    if (optional(vmm, "version")) {
        r = json_get_text(vmm, "version", &version, e);
        if (r < 0)
            return r;
        m->vmm.version = strdup(version);
        if (!m->vmm.version)
            return err_set(e, -ENOMEM, "no memory");
    }
    return decode_args(vmm, m, e);
}

static int decode_thaw(const json_t *thaw, struct metadata *m, struct thaw_error *e)
{
    json_t *vmm = NULL;
    int r = get_optional_object(thaw, "vmm", &vmm, e);

    if (r == 0 && vmm) {
        r = decode_vmm(vmm, m, e);
        if (r < 0)
            err_wrap(e, "\"vmm\"");
    }
    if (r == 0)
        r = get_optional_u64(thaw, "memory_bytes", &m->memory_bytes, e);
    if (r == 0)
        r = get_optional_u64(thaw, "page_bytes", &m->page_bytes, e);
    if (r < 0)
        return r;
    if (m->memory_bytes > METADATA_IMAGE_MAX_BYTES)
        return err_set(e, -EBADMSG, "\"memory_bytes\" is above 16 TiB");
    if (m->page_bytes != 0 && !metadata_block_bytes_valid(m->page_bytes))
        return err_set(e, -EBADMSG, "\"page_bytes\" is not a power of two from 4 KiB to 2 MiB");
    return 0;
}

static int decode_access(const json_t *memory, struct metadata_prefetch *p, struct thaw_error *e)
{
    const json_t *array = optional(memory, "access_types");

    if (!array)
        return 0;
    if (!json_is_array(array) || json_array_size(array) != p->count)
        return err_set(e, -EBADMSG, "\"access_types\" is not an array as long as \"indices\"");
    p->access = malloc(p->count + 1);
    if (!p->access)
        return err_set(e, -ENOMEM, "no memory");
    for (size_t i = 0; i < p->count; i++) {
        const char *text = json_string_value(json_array_get(array, i));

        if (!text || !metadata_access_valid(text[0]) || text[1] != '\0')
            return err_set(e, -EBADMSG, "\"access_types\": entry %zu is none of r, w and p", i);
        p->access[i] = text[0];
    }
    p->access[p->count] = '\0';
    return 0;
}

static int decode_indices(const json_t *array, struct metadata *m, struct thaw_error *e)
{
    struct metadata_prefetch *p = &m->prefetch;
    size_t count = json_array_size(array);

    p->indices = reallocarray(NULL, count + 1, sizeof(*p->indices));
    if (!p->indices)
        return err_set(e, -ENOMEM, "no memory");
    for (; p->count < count; p->count++) {
        const json_t *index = json_array_get(array, p->count);

        if (!json_is_integer(index) || json_integer_value(index) < 0 ||
            !metadata_index_valid(m, (uint64_t)json_integer_value(index), p->block_bytes))
            return err_set(e, -EBADMSG,
                           "\"indices\": entry %zu is not the number of a block of memory",
                           p->count);
        p->indices[p->count] = (uint64_t)json_integer_value(index);
    }
    return 0;
}

static int decode_memory(const json_t *memory, struct metadata *m, struct thaw_error *e)
{
    const json_t *array = optional(memory, "indices");
    int r;

    if (!array)
        return 0;
    if (!json_is_array(array))
        return err_set(e, -EBADMSG, "\"indices\" is not an array");
    r = json_get_u64(memory, "block_size", &m->prefetch.block_bytes, e);
    if (r < 0)
        return r;
    if (!metadata_block_bytes_valid(m->prefetch.block_bytes))
        return err_set(e, -EBADMSG, "\"block_size\" is not a power of two from 4 KiB to 2 MiB");
    r = decode_indices(array, m, e);
    return r < 0 ? r : decode_access(memory, &m->prefetch, e);
}

static int decode_prefetch(const json_t *root, struct metadata *m, struct thaw_error *e)
{
    json_t *prefetch = NULL, *memory = NULL;
    int r = get_optional_object(root, "prefetch", &prefetch, e);

    if (r < 0 || !prefetch)
        return r;
    r = get_optional_object(prefetch, "memory", &memory, e);
    if (r == 0 && memory)
        r = decode_memory(memory, m, e);
    if (r < 0)
        err_wrap(e, "\"prefetch\"");
    return r;
}

/* Leaves in @root, which becomes @m's, only what the fields of @m do not hold. */
static void keep_foreign(json_t *root, struct metadata *m)
{
    json_t *prefetch = json_object_get(root, "prefetch");

    json_object_del(root, "version");
    json_object_del(root, "thaw");
    json_object_del(prefetch, "memory");
    if (json_object_size(prefetch) == 0)
        json_object_del(root, "prefetch");
    m->foreign = json_incref(root);
}

static int decode_root(json_t *root, struct metadata *m, struct thaw_error *e)
{
    json_t *thaw = NULL;
    int r;

    if (!json_is_object(root))
        return err_set(e, -EBADMSG, "it is not a JSON object");
    if (is_stripped(root)) {
        m->version = METADATA_STRIPPED;
        return 0;
    }
    r = json_get_u64(root, "version", &m->version, e);
    if (r == 0)
        r = get_optional_object(root, "thaw", &thaw, e);
    if (r == 0 && thaw) {
        r = decode_thaw(thaw, m, e);
        if (r < 0)
            err_wrap(e, "\"thaw\"");
    }
    if (r == 0)
        r = decode_prefetch(root, m, e);
    if (r == 0)
        keep_foreign(root, m);
    return r;
}

int metadata_decode(const void *bytes, size_t len, struct metadata **ret, struct thaw_error *e)
{
    struct metadata *m CLEANUP_METADATA = NULL;
    json_t *root CLEANUP_JSON = NULL;
    int r;

    if (len > METADATA_MAX_BYTES)
        return err_set(e, -EBADMSG,
                       METADATA_WHAT ": it has %zu bytes, at most %" PRIu64 " are allowed", len,
                       METADATA_MAX_BYTES);
    r = json_parse(bytes, len, METADATA_WHAT, &root, e);
    if (r < 0)
        return r;
    if (metadata_create(&m) < 0)
        return err_set(e, -ENOMEM, METADATA_WHAT ": no memory");
    r = decode_root(root, m, e);
    if (r < 0) {
        err_wrap(e, METADATA_WHAT);
        return r;
    }
    *ret = TAKE_PTR(m);
    return 0;
}
