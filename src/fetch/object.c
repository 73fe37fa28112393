/* SPDX-License-Identifier: Apache-2.0 */

/* Objects and who shares them: one cache for each, however many sandboxes read it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "fetch/internal.h"

static int chunks_create(struct fetch_object *o, struct thaw_error *e)
{
    uint64_t chunks = div_round_up(cache_granules(o->cache), CHUNK_GRANULES) + 1;

    o->chunks = calloc(chunks, sizeof(*o->chunks));
    return o->chunks ? 0 : err_set(e, -ENOMEM, "no memory to fetch %s", o->name);
}

/* Of what is kept on the disk: an object whose content is another one is another object. */
static uint64_t origin_of(const struct fetch_object_options *options)
{
    uint64_t parts[2] = {store_origin(options->store), options->content};

    return parts[1] ? sums_of(parts, sizeof(parts)) : parts[0];
}

/* Where the disk tier keeps it. An object that it cannot take is fetched all the same. */
static void open_tier(struct fetch_object *o, const struct fetch_object_options *options)
{
    struct tier *tier = cache_set_tier(o->fetch->caches);
    struct tier_file_options file = {
        .build = &options->build,
        .name = options->name,
        .size_bytes = options->size_bytes,
        .origin = origin_of(options),
    };

    if (tier && options->size_bytes > 0 && tier_file_open(tier, &file, &o->tier) < 0)
        o->tier = NULL;
}

static int object_init(struct fetch_object *o, const struct fetch_object_options *options,
                       struct thaw_error *e)
{
    struct cache_options cache = {&options->build, options->name, options->size_bytes};
    int r = cache_create(o->fetch->caches, &cache, &o->cache, e);

    if (r < 0)
        return r;
    o->store = options->store;
    o->build = options->build;
    o->content = options->content;
    o->name = strdup(options->name);
    if (!o->name)
        return err_set(e, -ENOMEM, "no memory to fetch %s", options->name);
    r = store_object_open(options->store, &options->build, options->name, &o->data);
    if (r == 0 && options->sums_name && *options->sums_name) {
        r = store_object_open(options->store, &options->build, options->sums_name, &o->sums.object);
        if (r == 0)
            r = sums_table_init(&o->sums, options->size_bytes);
    }
    if (r < 0)
        return err_errno(e, r, "opening object %s", options->name);
    open_tier(o, options);
    return chunks_create(o, e);
}

/* Nobody uses it any more: gives back all but its name. */
static void object_finish(struct fetch_object *o)
{
    mutex_lock(&o->mu);
    while (o->flights > 0)
        pthread_cond_wait(&o->landed, &o->mu);
    mutex_unlock(&o->mu);
    behind_forget(o->fetch->behind, o);
    sums_table_finish(&o->sums);
    cache_destroy(o->cache);
    if (o->data) /* else the file is of whoever spills */
        tier_file_close(o->tier);
    store_object_close(o->data);
}

static void object_free(struct fetch_object *o)
{
    free(o->name);
    free(o->chunks);
    pthread_cond_destroy(&o->landed);
    pthread_mutex_destroy(&o->mu);
    free(o);
}

static void object_destroy(struct fetch_object *o)
{
    object_finish(o);
    object_free(o);
}

static struct fetch_object *object_new(struct fetch *f)
{
    struct fetch_object *o = calloc(1, sizeof(*o));

    if (!o)
        return NULL;
    o->fetch = f;
    o->users = 1;
    pthread_mutex_init(&o->mu, NULL);
    pthread_cond_init(&o->landed, NULL);
    return o;
}

static int object_create_locked(struct fetch *f, const struct fetch_object_options *options,
                                struct fetch_object **ret, struct thaw_error *e)
{
    struct fetch_object *o = object_new(f);
    int r;

    if (!o)
        return err_set(e, -ENOMEM, "no memory to fetch %s", options->name);
    r = object_init(o, options, e);
    if (r < 0) {
        object_destroy(o);
        return r;
    }
    o->next = f->objects;
    f->objects = o;
    *ret = o;
    return 0;
}

static struct fetch_object *find_locked(const struct fetch *f,
                                        const struct fetch_object_options *options)
{
    struct fetch_object *o = f->objects;

    while (o && (o->store != options->store || uuid_compare(&o->build, &options->build) != 0 ||
                 strcmp(o->name, options->name) != 0))
        o = o->next;
    return o;
}

/* One that is just being closed has the files in the disk tier: the next one is to have them. */
static struct fetch_object *find_open_locked(struct fetch *f,
                                             const struct fetch_object_options *options)
{
    struct fetch_object *o;

    while ((o = find_locked(f, options)) && o->users == 0)
        pthread_cond_wait(&f->released, &f->objects_mu);
    return o;
}

int fetch_object_open(struct fetch *f, const struct fetch_object_options *options,
                      struct fetch_object **ret, struct thaw_error *e)
{
    struct fetch_object *o;
    int r = 0;

    mutex_lock(&f->objects_mu);
    o = find_open_locked(f, options);
    if (o && (uint64_t)cache_size(o->cache) != options->size_bytes) {
        r = err_set(e, -ESTALE, "object %s is %llu bytes long by one build and %llu by another",
                    options->name, (unsigned long long)cache_size(o->cache),
                    (unsigned long long)options->size_bytes);
    } else if (o && o->content != options->content) {
        r = err_set(e, -ESTALE,
                    "object %s was another one when it was opened: its build was made "
                    "anew while it is in use",
                    options->name);
    } else if (o) {
        o->users++;
        *ret = o;
    } else {
        r = object_create_locked(f, options, ret, e);
    }
    mutex_unlock(&f->objects_mu);
    return r;
}

/* --- what overlays have spilled: known to nobody else, so on no list --- */

static int spill_init(struct fetch_object *o, const struct uuid *build, const char *name,
                      uint32_t granules, struct thaw_error *e)
{
    struct cache_options cache = {build, name, granules * GRANULE_BYTES};
    int r = cache_create(o->fetch->caches, &cache, &o->cache, e);

    if (r < 0)
        return r;
    o->build = *build;
    o->name = strdup(name);
    return o->name ? chunks_create(o, e) : err_set(e, -ENOMEM, "no memory for %s", name);
}

int fetch_spill_open(struct fetch *f, const struct uuid *build, const char *name,
                     struct tier_file *file, uint32_t granules, struct fetch_object **ret,
                     struct thaw_error *e)
{
    struct fetch_object *o = object_new(f);
    int r;

    if (!o)
        return err_set(e, -ENOMEM, "no memory for %s", name);
    o->tier = file;
    r = spill_init(o, build, name, granules, e);
    if (r < 0) {
        object_destroy(o);
        return r;
    }
    *ret = o;
    return 0;
}

struct cache *fetch_cache(struct fetch_object *o)
{
    return o->cache;
}

static void unlist(struct fetch *f, const struct fetch_object *o)
{
    struct fetch_object **at = &f->objects;
    LOCK_SCOPE(&f->objects_mu);

    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    pthread_cond_broadcast(&f->released);
}

void fetch_object_close(struct fetch_object *o)
{
    struct fetch *f;
    bool last;

    if (!o)
        return;
    f = o->fetch;
    mutex_lock(&f->objects_mu);
    last = --o->users == 0;
    mutex_unlock(&f->objects_mu);
    if (!last)
        return;
    object_finish(o);
    if (o->store)
        unlist(f, o);
    object_free(o);
}
