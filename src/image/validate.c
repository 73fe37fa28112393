/* SPDX-License-Identifier: Apache-2.0 */
#include "image/validate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/metadata.h"
#include "image/build.h"
#include "image/layout.h"
#include "image/validate_internal.h"
#include "store/store.h"

#define NO_CHECKSUM "no checksum"

void verdict_set(struct thaw_verdict *v, enum thaw_verdict_kind kind, const char *text)
{
    char where[sizeof(v->build) + sizeof(v->object) + 16];
    int len = snprintf(where, sizeof(where), "build %s: %s: ", v->build, v->object);

    /* Errors begin with what they are about, which the verdict says already. */
    if (text && strncmp(text, where, (size_t)len) == 0)
        text += len;
    v->kind = kind;
    snprintf(v->text, sizeof(v->text), "%s", text ? text : "");
}

void verdicts_finish(struct verdicts *v)
{
    free(v->list);
    *v = (struct verdicts){0};
}

/* Makes room for one more element of an array that grows. */
static int make_room(void **array, size_t count, size_t *cap, size_t size)
{
    size_t more = *cap ? *cap * 2 : 16;
    void *grown;

    if (count < *cap)
        return 0;
    grown = reallocarray(*array, more, size);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *cap = more;
    return 0;
}

static int no_memory(struct thaw_error *e)
{
    return err_set(e, -ENOMEM, "no memory to check the build");
}

/* A new verdict, unverified until somebody says otherwise; its index in *@ret. */
static int add_verdict(struct validation *v, const struct uuid *build, const char *object,
                       size_t *ret, struct thaw_error *e)
{
    struct verdicts *list = &v->verdicts;
    struct thaw_verdict *verdict;

    if (make_room((void **)&list->list, list->count, &list->cap, sizeof(*list->list)) < 0)
        return no_memory(e);
    verdict = &list->list[list->count];
    *verdict = (struct thaw_verdict){0};
    uuid_format(build, verdict->build);
    snprintf(verdict->object, sizeof(verdict->object), "%s", object);
    verdict_set(verdict, THAW_VERDICT_UNVERIFIED, NO_CHECKSUM);
    *ret = list->count++;
    return 0;
}

/* Remembers to look at a build, too. */
static int visit(struct validation *v, const struct uuid *build, bool mapped, struct thaw_error *e)
{
    uint16_t index;
    int r = build_table_add(&v->builds, build, &index);

    if (r < 0)
        return err_set(e, r, "cannot check more than %d builds at once", MAP_MAX_BUILDS);
    v->mapped[index] |= mapped;
    return 0;
}

static int add_claim(struct validation *v, const struct header_build *b, const char *image,
                     const struct uuid *by, struct thaw_error *e)
{
    static const uint8_t unknown[HEADER_SHA256_BYTES];
    struct claim *claim;

    if (!b->known || memcmp(b->sha256, unknown, sizeof(unknown)) == 0)
        return 0;
    for (size_t i = 0; i < v->claim_count; i++) {
        claim = &v->claims[i];
        if (uuid_compare(&claim->build, &b->id) == 0 && claim->image == image &&
            memcmp(claim->sha256, b->sha256, sizeof(claim->sha256)) == 0)
            return 0;
    }
    if (make_room((void **)&v->claims, v->claim_count, &v->claim_cap, sizeof(*v->claims)) < 0)
        return no_memory(e);
    claim = &v->claims[v->claim_count++];
    *claim = (struct claim){.build = b->id, .image = image, .by = *by};
    memcpy(claim->sha256, b->sha256, sizeof(claim->sha256));
    return 0;
}

/* What a header that could be read says of other builds. */
static int follow_header(struct validation *v, const struct header *h, const char *image,
                         struct thaw_error *e)
{
    bool *used CLEANUP_FREE = calloc(h->build_count + 1, sizeof(*used));
    int r = 0;

    if (!used)
        return no_memory(e);
    for (size_t i = 0; i < map_run_count(h->map); i++) {
        uint16_t build = map_run_at(h->map, i).build;

        if (build != MAP_ZERO)
            used[build] = true;
    }
    for (size_t i = 0; i < h->build_count && r == 0; i++) {
        r = add_claim(v, &h->builds[i], image, &h->build, e);
        if (r == 0 && v->recursive && used[i])
            r = visit(v, &h->builds[i].id, true, e);
    }
    return r;
}

/* --- the small objects --- */

static int check_header(struct validation *v, const struct manifest *m, const char *image,
                        size_t verdict, uint64_t *ret_bytes, struct thaw_error *e)
{
    struct thaw_verdict *word = &v->verdicts.list[verdict];
    struct thaw_error why = THAW_ERROR_INIT;
    struct layout *layout CLEANUP_LAYOUT = NULL;
    struct header *alone CLEANUP_HEADER = NULL;
    const struct header *h;
    int r = layout_load(v->store, m, image, &layout, &why);

    if (r == -ENOMEM)
        return no_memory(e);
    if (r < 0)
        verdict_set(word, THAW_VERDICT_BAD, why.text);
    /* Sound in itself, though not together with the objects: it still says what to look at. */
    if (r < 0 && build_header_load(v->store, m, image, &alone, NULL) < 0)
        return 0;
    h = layout ? layout->header : alone;
    *ret_bytes = h->size_bytes;
    if (layout && !build_is_unverified(m))
        verdict_set(word, THAW_VERDICT_OK, NULL);
    else if (layout && header_format(h) >= HEADER_V4)
        verdict_set(word, THAW_VERDICT_UNVERIFIED, "a checksum covers all but its first 64 bytes");
    return follow_header(v, h, image, e);
}

static void check_metadata(struct validation *v, const struct manifest *m, size_t verdict,
                           uint64_t memory_bytes)
{
    struct thaw_verdict *word = &v->verdicts.list[verdict];
    struct metadata *metadata CLEANUP_METADATA = NULL;
    struct thaw_error why = THAW_ERROR_INIT;
    struct buf text CLEANUP_BUF = {0};
    int r = build_object_load(v->store, m, METADATA_NAME, METADATA_MAX_BYTES, &text, &why);

    if (r == 0)
        r = metadata_decode(text.data, text.len, &metadata, &why);
    if (r == 0 && metadata->memory_bytes != 0 && memory_bytes != 0 &&
        metadata->memory_bytes != memory_bytes)
        r = err_set(&why, -EBADMSG, "it says %llu bytes of memory, " IMAGE_MEMORY " has %llu",
                    (unsigned long long)metadata->memory_bytes, (unsigned long long)memory_bytes);
    if (r < 0)
        verdict_set(word, THAW_VERDICT_BAD, why.text);
    else if (!build_is_unverified(m))
        verdict_set(word, THAW_VERDICT_OK, NULL);
    word->read_bytes = text.len;
}

/* --- a build --- */

static const char *const images[] = {IMAGE_MEMORY, IMAGE_ROOTFS};

/* The image whose header @object is, or NULL. */
static const char *image_of_header(const char *object)
{
    char name[OBJECT_NAME_BYTES];

    for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
        if (strcmp(object, build_header_name(images[i], name)) == 0)
            return images[i];
    }
    return NULL;
}

static bool is_sums_of_any(const struct manifest *m, const char *name)
{
    for (size_t i = 0; i < m->object_count; i++) {
        if (strcmp(m->objects[i].sums, name) == 0)
            return true;
    }
    return false;
}

static int add_check(struct validation *v, const struct manifest *m, size_t object,
                     size_t first_verdict, struct thaw_error *e)
{
    const struct manifest_object *o = &m->objects[object];
    const struct manifest_object *sums = o->sums[0] != '\0' ? manifest_find(m, o->sums) : NULL;
    struct check *c;

    if (make_room((void **)&v->checks, v->check_count, &v->check_cap, sizeof(*v->checks)) < 0)
        return no_memory(e);
    c = &v->checks[v->check_count++];
    *c = (struct check){
        .build = m->build,
        .object = *o,
        .verdict = first_verdict + object,
        .sums_verdict = NO_VERDICT,
    };
    if (sums) {
        c->sums = *sums;
        c->sums_verdict = first_verdict + (size_t)(sums - m->objects);
    }
    v->total_bytes += o->size_bytes;
    return 0;
}

/* Headers come first: they know how much memory there is. One verdict for each object exists. */
static int check_objects(struct validation *v, const struct manifest *m, size_t first_verdict,
                         struct thaw_error *e)
{
    uint64_t memory_bytes = 0, rootfs_bytes = 0;
    int r = 0;

    for (size_t i = 0; i < m->object_count && r == 0; i++) {
        const char *image = image_of_header(m->objects[i].name);

        if (!image)
            continue;
        v->verdicts.list[first_verdict + i].read_bytes = m->objects[i].size_bytes;
        r = check_header(v, m, image, first_verdict + i,
                         image == images[0] ? &memory_bytes : &rootfs_bytes, e);
    }
    for (size_t i = 0; i < m->object_count && r == 0; i++) {
        const char *name = m->objects[i].name;

        if (strcmp(name, METADATA_NAME) == 0)
            check_metadata(v, m, first_verdict + i, memory_bytes);
        else if (!image_of_header(name) && !is_sums_of_any(m, name))
            r = add_check(v, m, i, first_verdict, e);
    }
    return r;
}

/* A manifest that cannot be had: an error for the build that was asked for, else a verdict. */
static int judge_absence(struct validation *v, size_t index, int code, const struct thaw_error *why,
                         struct thaw_error *e)
{
    size_t verdict;
    int r;

    if (code == -ENOMEM || (index == 0 && code == -ENOENT))
        return err_set(e, code, "%s", why->text);
    /* A parent that nothing maps may be gone: it was needed to make its child, not to run it. */
    if (code == -ENOENT && !v->mapped[index])
        return 0;
    v->verdicts.build_count++;
    r = add_verdict(v, &v->builds.builds[index].id, MANIFEST_NAME, &verdict, e);
    if (r == 0)
        verdict_set(&v->verdicts.list[verdict], THAW_VERDICT_BAD, why->text);
    return r;
}

static int check_build(struct validation *v, size_t index, struct thaw_error *e)
{
    struct thaw_error why = THAW_ERROR_INIT;
    struct manifest *m CLEANUP_MANIFEST = NULL;
    const struct uuid id = v->builds.builds[index].id;
    size_t verdict, first;
    int r = index == 0 ? build_manifest_load(v->store, &id, &m, &why)
                       : build_ancestor_load(v->store, &id, &m, &why);

    if (r < 0)
        return judge_absence(v, index, r, &why, e);
    v->verdicts.build_count++;
    if (!build_is_unverified(m)) {
        r = add_verdict(v, &id, MANIFEST_NAME, &verdict, e);
        if (r == 0)
            verdict_set(&v->verdicts.list[verdict], THAW_VERDICT_OK, NULL);
    }
    first = v->verdicts.count;
    for (size_t i = 0; i < m->object_count && r == 0; i++)
        r = add_verdict(v, &id, m->objects[i].name, &verdict, e);
    if (r == 0)
        r = check_objects(v, m, first, e);
    if (r == 0 && v->recursive && m->has_parent)
        r = visit(v, &m->parent, false, e);
    return r;
}

static void validation_finish(struct validation *v)
{
    verdicts_finish(&v->verdicts);
    build_table_finish(&v->builds);
    free(v->mapped);
    free(v->checks);
    free(v->claims);
    pthread_mutex_destroy(&v->mu);
}

int build_validate(struct store *store, const struct uuid *id, bool recursive,
                   const struct scan_progress *progress, struct verdicts *ret, struct thaw_error *e)
{
    struct validation v CLEANUP(validation_finish) = {
        .store = store, .recursive = recursive, .progress = progress};
    int r;

    pthread_mutex_init(&v.mu, NULL);
    v.builds = build_table_init(0);
    v.mapped = calloc(MAP_MAX_BUILDS, sizeof(*v.mapped));
    r = v.mapped ? visit(&v, id, true, e) : no_memory(e);
    /* The table grows while it is walked; each build is in it once, whoever refers to it. */
    for (size_t i = 0; r == 0 && i < v.builds.count; i++)
        r = check_build(&v, i, e);
    if (r == 0)
        r = validate_data(&v, e);
    if (r < 0)
        return r;
    *ret = v.verdicts;
    v.verdicts = (struct verdicts){0};
    return 0;
}
