/* SPDX-License-Identifier: Apache-2.0 */

/* The small objects of a build, each checked against the manifest before anyone believes it. */
#include "image/image.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/header.h"
#include "format/manifest.h"
#include "store/store.h"

int build_manifest_load(struct store *s, const struct uuid *build, struct manifest **ret,
                        struct thaw_error *e)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct buf text CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES], other[UUID_TEXT_BYTES];
    int r = store_get(s, build, MANIFEST_NAME, MANIFEST_MAX_BYTES, &text, e);

    uuid_format(build, id);
    if (r == -ENOENT)
        return err_set(e, r, "no build %s in this store (it has no %s)", id, MANIFEST_NAME);
    if (r == 0)
        r = manifest_decode(text.data, text.len, &m, e);
    if (r < 0)
        return err_wrap(e, "build %s: %s", id, MANIFEST_NAME);
    if (uuid_compare(&m->build, build) != 0)
        return err_set(e, -EBADMSG, "build %s: its manifest is of build %s", id,
                       uuid_format(&m->build, other));
    *ret = TAKE_PTR(m);
    return 0;
}

static int check_object(const struct manifest_object *object, const struct buf *bytes,
                        struct thaw_error *e)
{
    uint8_t digest[MANIFEST_SHA256_BYTES];

    if (bytes->len != object->size_bytes)
        return err_set(e, -EBADMSG, "%zu bytes stored, %llu by the manifest", bytes->len,
                       (unsigned long long)object->size_bytes);
    if (EVP_Digest(bytes->data, bytes->len, digest, NULL, EVP_sha256(), NULL) != 1)
        return err_set(e, -ENOMEM, "cannot compute its SHA-256");
    if (memcmp(digest, object->sha256, sizeof(digest)) != 0)
        return err_set(e, -EBADMSG,
                       "its SHA-256 is not the one in the manifest: the object is damaged");
    return 0;
}

int build_object_load(struct store *s, const struct manifest *m, const char *name, size_t max_bytes,
                      struct buf *ret, struct thaw_error *e)
{
    const struct manifest_object *object = manifest_find(m, name);
    struct buf bytes CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES];
    int r;

    uuid_format(&m->build, id);
    if (!object)
        return err_set(e, -ENOENT, "build %s has no object %s", id, name);
    r = store_get(s, &m->build, name, max_bytes, &bytes, e);
    if (r == 0)
        r = check_object(object, &bytes, e);
    if (r < 0)
        return err_wrap(e, "build %s: %s", id, name);
    buf_put(ret, bytes.data, bytes.len);
    return ret->failed ? err_set(e, -ENOMEM, "no memory for %s", name) : 0;
}

int build_header_load(struct store *s, const struct manifest *m, const char *name,
                      struct header **ret, struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    struct buf bytes CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES], object[OBJECT_NAME_BYTES];
    int r;

    snprintf(object, sizeof(object), "%s.header", name);
    r = build_object_load(s, m, object, HEADER_MAX_BYTES, &bytes, e);
    if (r < 0)
        return r;
    r = header_decode(bytes.data, bytes.len, &h, e);
    uuid_format(&m->build, id);
    if (r < 0)
        return err_wrap(e, "build %s: %s", id, object);
    if (uuid_compare(&h->build, &m->build) != 0)
        return err_set(e, -EBADMSG, "build %s: %s belongs to another build", id, object);
    *ret = TAKE_PTR(h);
    return 0;
}
