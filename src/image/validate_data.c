/* SPDX-License-Identifier: Apache-2.0 */
#include "image/validate_internal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"
#include "format/sums.h"
#include "image/build.h"
#include "image/granules.h"
#include "store/store.h"

/* One object that is being read, front to back. */
struct reading {
    struct validation *v;
    const struct check *check;
    struct store_object *object; /* owned */
    EVP_MD_CTX *digest;          /* owned */
    uint64_t *sums;              /* owned; NULL: none that can be held against it */
    uint64_t asked;              /* bytes that reads were sent for */
    uint64_t bad_granules;
    uint64_t first_bad;
};

static bool next_range(void *arg, struct scan_range *ret)
{
    struct reading *r = arg;
    uint64_t left = r->check->object.size_bytes - r->asked;

    if (left == 0)
        return false;
    *ret = (struct scan_range){
        .object = r->object,
        .offset = {r->asked},
        .len_bytes = MIN(left, SCAN_RANGE_BYTES),
    };
    r->asked += ret->len_bytes;
    return true;
}

static void check_granules(struct reading *r, uint64_t offset, const char *bytes, size_t len_bytes)
{
    for (size_t at = 0; r->sums && at < len_bytes; at += GRANULE_BYTES) {
        uint64_t granule = (offset + at) / GRANULE_BYTES;

        if (sums_of(bytes + at, MIN(GRANULE_BYTES, len_bytes - at)) == r->sums[granule])
            continue;
        if (r->bad_granules++ == 0)
            r->first_bad = granule;
    }
}

static void tell_progress(struct validation *v, uint64_t bytes)
{
    LOCK_SCOPE(&v->mu);

    v->done_bytes += bytes;
    if (v->progress->report)
        v->progress->report(v->progress->arg, v->done_bytes, v->total_bytes);
}

static int take_range(void *arg, const struct scan_range *range, void *bytes, int64_t result)
{
    struct reading *r = arg;

    if (result < 0)
        return (int)result;
    if ((uint64_t)result < range->len_bytes)
        return -ESTALE; /* it had its size a moment ago */
    if (EVP_DigestUpdate(r->digest, bytes, range->len_bytes) != 1)
        return -ENOMEM;
    check_granules(r, range->offset.v, bytes, range->len_bytes);
    r->v->verdicts.list[r->check->verdict].read_bytes += range->len_bytes;
    tell_progress(r->v, range->len_bytes);
    return 0;
}

/* 1 when a header has the SHA-256 right, 0 when none says anything, -EBADMSG with whose is not. */
static int check_claims(const struct validation *v, const struct check *c, const uint8_t *digest,
                        struct thaw_error *why)
{
    char by[UUID_TEXT_BYTES];
    int r = 0;

    for (size_t i = 0; i < v->claim_count; i++) {
        const struct claim *claim = &v->claims[i];

        if (uuid_compare(&claim->build, &c->build) != 0 ||
            strcmp(claim->image, c->object.name) != 0)
            continue;
        if (memcmp(claim->sha256, digest, sizeof(claim->sha256)) != 0)
            return err_set(why, -EBADMSG,
                           "its SHA-256 is not the one in %s" HEADER_SUFFIX " of build %s",
                           claim->image, uuid_format(&claim->by, by));
        r = 1;
    }
    return r;
}

/* All was read: what is to be said of it. */
static void judge(struct reading *r, const uint8_t *digest)
{
    struct thaw_verdict *word = &r->v->verdicts.list[r->check->verdict];
    const struct manifest_object *o = &r->check->object;
    bool differs = build_object_known(o) && memcmp(digest, o->sha256, sizeof(o->sha256)) != 0;
    struct thaw_error why = THAW_ERROR_INIT;
    char text[200];
    int claims;

    if (r->bad_granules > 0) {
        snprintf(
            text, sizeof(text),
            "granule %llu, at byte %llu, does not match its sum (%llu of them in all)%s",
            (unsigned long long)r->first_bad, (unsigned long long)(r->first_bad * GRANULE_BYTES),
            (unsigned long long)r->bad_granules,
            differs ? "; nor does its SHA-256" : ", but its SHA-256 matches: the sums are bad");
        verdict_set(word, THAW_VERDICT_BAD, text);
        return;
    }
    if (differs) {
        verdict_set(word, THAW_VERDICT_BAD, "its SHA-256 is not the one in the manifest");
        return;
    }
    claims = check_claims(r->v, r->check, digest, &why);
    if (claims < 0)
        verdict_set(word, THAW_VERDICT_BAD, why.text);
    else if (claims > 0 || build_object_known(o))
        verdict_set(word, THAW_VERDICT_OK, NULL);
}

/* -ENOMEM stops the validation; any other failure is the object's, and told in its verdict. */
static int read_all(struct reading *r)
{
    uint8_t digest[MANIFEST_SHA256_BYTES];
    const struct scan_source source = {.next = next_range, .take = take_range, .arg = r};
    struct thaw_error why = THAW_ERROR_INIT;
    int result;

    r->digest = EVP_MD_CTX_new();
    if (!r->digest || EVP_DigestInit_ex(r->digest, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    result = store_object_open(r->v->store, &r->check->build, r->check->object.name, &r->object);
    if (result == 0)
        result = scan_run(&source);
    if (result == -ENOMEM)
        return result;
    if (result < 0) {
        err_errno(&why, result, "reading it");
        verdict_set(&r->v->verdicts.list[r->check->verdict], THAW_VERDICT_BAD, why.text);
        return 0;
    }
    if (EVP_DigestFinal_ex(r->digest, digest, NULL) != 1)
        return -ENOMEM;
    judge(r, digest);
    return 0;
}

static bool check_size(const struct validation *v, const struct check *c, struct thaw_verdict *word)
{
    struct thaw_error why = THAW_ERROR_INIT;
    uint64_t size_bytes = 0;
    int r = store_size(v->store, &c->build, c->object.name, &size_bytes);

    if (r == -ENOENT)
        err_set(&why, r, "it is missing from the store");
    else if (r < 0)
        err_errno(&why, r, "looking for it");
    else if (size_bytes != c->object.size_bytes)
        r = err_set(&why, -EBADMSG, "%llu bytes stored, %llu by the manifest",
                    (unsigned long long)size_bytes, (unsigned long long)c->object.size_bytes);
    if (r < 0)
        verdict_set(word, THAW_VERDICT_BAD, why.text);
    return r == 0;
}

static int load_sums(struct reading *r)
{
    struct thaw_verdict *word = &r->v->verdicts.list[r->check->sums_verdict];
    struct thaw_error why = THAW_ERROR_INIT;
    int result = granule_sums_load(r->v->store, &r->check->build, &r->check->sums,
                                   r->check->object.uncompressed_bytes, &r->sums, &why);

    if (result == -ENOMEM)
        return result;
    verdict_set(word, result < 0 ? THAW_VERDICT_BAD : THAW_VERDICT_OK,
                result < 0 ? why.text : NULL);
    word->read_bytes = r->check->sums.size_bytes;
    return 0;
}

static int check_object(struct validation *v, const struct check *c)
{
    struct thaw_verdict *word = &v->verdicts.list[c->verdict];
    struct reading r = {.v = v, .check = c};
    int result = 0;

    if (c->sums_verdict != NO_VERDICT)
        result = load_sums(&r);
    else if (c->object.sums[0] != '\0')
        verdict_set(word, THAW_VERDICT_BAD, "the manifest has no object with its sums");
    /* Sums are of what it decompresses to. */
    if (c->object.codec != CODEC_NONE) {
        free(r.sums);
        r.sums = NULL;
    }
    if (result == 0 && word->kind != THAW_VERDICT_BAD && check_size(v, c, word))
        result = read_all(&r);
    EVP_MD_CTX_free(r.digest);
    store_object_close(r.object);
    free(r.sums);
    return result;
}

static void work(void *arg)
{
    struct validation *v = arg;
    size_t i;

    while ((i = atomic_fetch_add_explicit(&v->next, 1, memory_order_relaxed)) < v->check_count) {
        int r = check_object(v, &v->checks[i]);

        if (r < 0) {
            LOCK_SCOPE(&v->mu);
            err_errno(&v->error, r, "checking %s", v->checks[i].object.name);
            return;
        }
    }
}

int validate_data(struct validation *v, struct thaw_error *e)
{
    scan_crew(work, v);
    return v->error.code < 0 ? err_set(e, v->error.code, "%s", v->error.text) : 0;
}
