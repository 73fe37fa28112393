/* SPDX-License-Identifier: Apache-2.0 */

/* Finds the implementation of a store, and lets only sound names through to it. */
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "format/manifest.h"
#include "store/dir.h"
#include "store/internal.h"

static_assert(STORE_NAME_MAX == OBJECT_NAME_BYTES - 1, "what a manifest can name can be stored");

int store_open(const char *url, struct io_engine *io, bool create, struct store **ret,
               struct thaw_error *e)
{
    const char *path = strncmp(url, "file://", 7) == 0 ? url + 7 : url;

    if (path == url && strstr(url, "://"))
        return err_set(e, -EPROTONOSUPPORT,
                       "store '%s': only directories (DIR or file:///DIR) can be opened", url);
    if (*path == '\0')
        return err_set(e, -EINVAL, "the store needs a folder: --store DIR");
    return dir_store_open(path, io, create, ret, e);
}

void store_close(struct store *s)
{
    if (s)
        s->ops->close(s);
}

static int check_name(const char *name, struct thaw_error *e)
{
    if (object_name_valid(name))
        return 0;
    return err_set(e, -EINVAL,
                   "'%s' cannot be the name of an object: 1 to %d of A-Z a-z 0-9 . _ - "
                   "without a dot at the start",
                   name, STORE_NAME_MAX);
}

uint64_t store_origin(const struct store *s)
{
    return s->origin;
}

/* --- the guest's way --- */

int store_object_open(struct store *s, const struct uuid *build, const char *name,
                      struct store_object **ret)
{
    return object_name_valid(name) ? s->ops->object_open(s, build, name, ret) : -EINVAL;
}

void store_object_close(struct store_object *o)
{
    if (o)
        o->store->ops->object_close(o);
}

void store_read(struct store_read *r)
{
    r->object->store->ops->read(r);
}

/* --- the operator's way --- */

int store_get(struct store *s, const struct uuid *build, const char *name, size_t max_bytes,
              struct buf *ret, struct thaw_error *e)
{
    int r = check_name(name, e);

    return r < 0 ? r : s->ops->get(s, build, name, max_bytes, ret, e);
}

int store_size(struct store *s, const struct uuid *build, const char *name, uint64_t *ret_bytes)
{
    return object_name_valid(name) ? s->ops->size(s, build, name, ret_bytes) : -EINVAL;
}

int store_put(struct store *s, const struct uuid *build, const char *name, const void *bytes,
              size_t len_bytes, struct thaw_error *e)
{
    struct store_writer *w CLEANUP_STORE_WRITER = NULL;
    int r = store_writer_open(s, build, name, &w, e);

    if (r == 0)
        r = store_writer_append(w, bytes, len_bytes, e);
    if (r == 0)
        r = store_writer_commit(w, e);
    return r;
}

int store_writer_open(struct store *s, const struct uuid *build, const char *name,
                      struct store_writer **ret, struct thaw_error *e)
{
    int r = check_name(name, e);

    return r < 0 ? r : s->ops->writer_open(s, build, name, ret, e);
}

int store_writer_append(struct store_writer *w, const void *bytes, size_t len_bytes,
                        struct thaw_error *e)
{
    return w->store->ops->writer_append(w, bytes, len_bytes, e);
}

int store_writer_commit(struct store_writer *w, struct thaw_error *e)
{
    return w->store->ops->writer_commit(w, e);
}

void store_writer_close(struct store_writer *w)
{
    if (w)
        w->store->ops->writer_close(w);
}

int store_list_builds(struct store *s, struct store_builds *ret, struct thaw_error *e)
{
    struct store_builds list CLEANUP_STORE_BUILDS = {0};
    int r = s->ops->list_builds(s, &list, e);

    if (r < 0)
        return r;
    *ret = list;
    list = (struct store_builds){0};
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const struct store_entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

int store_list_objects(struct store *s, const struct uuid *build, struct store_objects *ret,
                       struct thaw_error *e)
{
    struct store_objects list CLEANUP_STORE_OBJECTS = {0};
    int r = s->ops->list_objects(s, build, &list, e);

    if (r < 0)
        return r;
    if (list.count > 0)
        qsort(list.list, list.count, sizeof(*list.list), compare_names);
    *ret = list;
    list = (struct store_objects){0};
    return 0;
}

int store_object_delete(struct store *s, const struct uuid *build, const char *name,
                        struct thaw_error *e)
{
    int r = check_name(name, e);

    return r < 0 ? r : s->ops->object_delete(s, build, name, e);
}

int store_build_delete(struct store *s, const struct uuid *build, struct thaw_error *e)
{
    return s->ops->build_delete(s, build, e);
}

int store_build_discard(struct store *s, const struct uuid *build, struct thaw_error *e)
{
    return s->ops->build_discard(s, build, e);
}

/* --- lists --- */

/* Doubles the room when @count, a power of two or 0, says that it is used up. */
static int make_room(void *list_pointer, size_t count, size_t entry_bytes)
{
    void **list = list_pointer;
    void *larger;

    if (count & (count - 1))
        return 0;
    larger = reallocarray(*list, count ? 2 * count : 1, entry_bytes);
    if (!larger)
        return -ENOMEM;
    *list = larger;
    return 0;
}

int store_builds_add(struct store_builds *list, const struct store_build *build)
{
    if (make_room(&list->list, list->count, sizeof(*list->list)) < 0)
        return -ENOMEM;
    list->list[list->count++] = *build;
    return 0;
}

int store_objects_add(struct store_objects *list, const char *name, uint64_t size_bytes)
{
    struct store_entry *entry;

    if (make_room(&list->list, list->count, sizeof(*list->list)) < 0)
        return -ENOMEM;
    entry = &list->list[list->count++];
    entry->size_bytes = size_bytes;
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    return 0;
}

const struct store_entry *store_objects_find(const struct store_objects *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->list[i].name, name) == 0)
            return &list->list[i];
    }
    return NULL;
}

void store_builds_finish(struct store_builds *list)
{
    free(list->list);
    *list = (struct store_builds){0};
}

void store_objects_finish(struct store_objects *list)
{
    free(list->list);
    *list = (struct store_objects){0};
}
