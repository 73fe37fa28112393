/* SPDX-License-Identifier: Apache-2.0 */
#include "image/build.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/header.h"
#include "format/manifest.h"
#include "image/e2b.h"
#include "store/store.h"

bool build_object_known(const struct manifest_object *o)
{
    static const uint8_t unknown[MANIFEST_SHA256_BYTES];

    return memcmp(o->sha256, unknown, sizeof(unknown)) != 0;
}

bool build_is_unverified(const struct manifest *m)
{
    return m->object_count > 0 && !build_object_known(&m->objects[0]);
}

const char *build_data_name(const char *image, enum codec codec, char *ret)
{
    if (codec == CODEC_NONE)
        snprintf(ret, OBJECT_NAME_BYTES, "%s", image);
    else
        snprintf(ret, OBJECT_NAME_BYTES, "%s.%s", image, codec_name(codec));
    return ret;
}

const char *build_header_name(const char *image, char *ret)
{
    snprintf(ret, OBJECT_NAME_BYTES, "%s" HEADER_SUFFIX, image);
    return ret;
}

/* What a stored manifest must not say: it would turn checks off. */
static int check_manifest(const struct manifest *m, const struct uuid *build, struct thaw_error *e)
{
    char other[UUID_TEXT_BYTES];

    if (uuid_compare(&m->build, build) != 0)
        return err_set(e, -EBADMSG, "it is of build %s", uuid_format(&m->build, other));
    for (size_t i = 0; i < m->object_count; i++) {
        if (!build_object_known(&m->objects[i]))
            return err_set(e, -EBADMSG, "the SHA-256 of %s is all zeros", m->objects[i].name);
    }
    return 0;
}

static int load(struct store *s, const struct uuid *build, enum e2b_use use, struct manifest **ret,
                struct thaw_error *e)
{
    struct thaw_error absent = THAW_ERROR_INIT; /* not an error if E2B wrote the build */
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct buf text CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES];
    int r = store_get(s, build, MANIFEST_NAME, MANIFEST_MAX_BYTES, &text, &absent);

    if (r == -ENOENT)
        return e2b_manifest_make(s, build, use, ret, e);
    if (r < 0)
        return err_set(e, r, "%s", absent.text);
    r = manifest_decode(text.data, text.len, &m, e);
    if (r == 0)
        r = check_manifest(m, build, e);
    if (r < 0) {
        err_wrap(e, "build %s: %s", uuid_format(build, id), MANIFEST_NAME);
        return r;
    }
    *ret = TAKE_PTR(m);
    return 0;
}

int build_manifest_load(struct store *s, const struct uuid *build, struct manifest **ret,
                        struct thaw_error *e)
{
    return load(s, build, E2B_WHOLE, ret, e);
}

int build_ancestor_load(struct store *s, const struct uuid *build, struct manifest **ret,
                        struct thaw_error *e)
{
    return load(s, build, E2B_ANCESTOR, ret, e);
}

int build_object_check(const struct manifest_object *object, const struct buf *bytes,
                       struct thaw_error *e)
{
    uint8_t digest[MANIFEST_SHA256_BYTES];

    if (bytes->len != object->size_bytes)
        return err_set(e, -EBADMSG, "%zu bytes stored, %llu by the manifest", bytes->len,
                       (unsigned long long)object->size_bytes);
    if (!build_object_known(object))
        return 0;
    if (EVP_Digest(bytes->data, bytes->len, digest, NULL, EVP_sha256(), NULL) != 1)
        return err_set(e, -ENOMEM, "cannot compute its SHA-256");
    if (memcmp(digest, object->sha256, sizeof(digest)) != 0)
        return err_set(e, -EBADMSG,
                       "its SHA-256 is not the one in the manifest: the object is damaged");
    return 0;
}

int build_object_read(struct store *s, const struct uuid *build, const struct manifest_object *o,
                      size_t max_bytes, struct buf *ret, struct thaw_error *e)
{
    struct buf bytes CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES];
    int r = store_get(s, build, o->name, max_bytes, &bytes, e);

    if (r == 0)
        r = build_object_check(o, &bytes, e);
    if (r < 0) {
        err_wrap(e, "build %s: %s", uuid_format(build, id), o->name);
        return r;
    }
    buf_put(ret, bytes.data, bytes.len);
    return ret->failed ? err_set(e, -ENOMEM, "no memory for %s", o->name) : 0;
}

int build_object_load(struct store *s, const struct manifest *m, const char *name, size_t max_bytes,
                      struct buf *ret, struct thaw_error *e)
{
    const struct manifest_object *object = manifest_find(m, name);
    char id[UUID_TEXT_BYTES];

    if (!object)
        return err_set(e, -ENOENT, "build %s has no object %s", uuid_format(&m->build, id), name);
    return build_object_read(s, &m->build, object, max_bytes, ret, e);
}

int build_header_load(struct store *s, const struct manifest *m, const char *name,
                      struct header **ret, struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    struct buf bytes CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES], object[OBJECT_NAME_BYTES];
    int r;

    build_header_name(name, object);
    r = build_object_load(s, m, object, HEADER_MAX_BYTES, &bytes, e);
    if (r < 0)
        return r;
    r = header_decode(bytes.data, bytes.len, &h, e);
    uuid_format(&m->build, id);
    if (r < 0) {
        err_wrap(e, "build %s: %s", id, object);
        return r;
    }
    if (uuid_compare(&h->build, &m->build) != 0)
        return err_set(e, -EBADMSG, "build %s: %s belongs to another build", id, object);
    *ret = TAKE_PTR(h);
    return 0;
}
