/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "format/header.h"
#include "format/manifest.h"
#include "image/build.h"
#include "lib/options.h"
#include "lib/survey.h"
#include "store/store.h"

#define CHILDREN_NAMED 5

/* A build that is to go, and what is known of those that stay. */
struct deletion {
    struct store *store;
    const char *store_name;
    struct uuid id;
    char text[UUID_TEXT_BYTES];
    struct survey survey;
    bool force;
    char children[CHILDREN_NAMED * (UUID_TEXT_BYTES + 1)]; /* those named, ", " between */
    size_t children_len;
    size_t child_count;
};

static void deletion_finish(struct deletion *d)
{
    survey_finish(&d->survey);
    store_close(d->store);
}

/* 1 if @image of the build of @m has bytes in the build that is to go, 0 if not, or -errno. */
static int maps(const struct deletion *d, const struct manifest *m, const char *image,
                struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    char name[OBJECT_NAME_BYTES];
    int r;

    if (!manifest_find(m, build_header_name(image, name)))
        return 0;
    r = build_header_load(d->store, m, image, &h, e);
    return r < 0 ? r : header_find_build(h, &d->id) != NULL;
}

/* Whether the build that is to go descends from @id; a circle of parents ends the search. */
static bool descends_from(const struct deletion *d, const struct uuid *id)
{
    const struct survey_build *at = survey_find(&d->survey, &d->id);

    for (size_t i = 0; i < d->survey.count && at && at->manifest && at->manifest->has_parent; i++) {
        if (uuid_compare(&at->manifest->parent, id) == 0)
            return true;
        at = survey_find(&d->survey, &at->manifest->parent);
    }
    return false;
}

/* 1 if @build needs the one that is to go, 0 if not, or -errno when it does not tell. */
static int needs(const struct deletion *d, const struct survey_build *build, struct thaw_error *e)
{
    const struct manifest *m = build->manifest;
    int r;

    if (!m)
        return err_set(e, build->error->code, "%s", build->error->text);
    /* Force breaks a circle, in which each would have to go before the other. */
    if (m->has_parent && uuid_compare(&m->parent, &d->id) == 0 &&
        !(d->force && descends_from(d, &build->id)))
        return 1;
    r = maps(d, m, IMAGE_MEMORY, e);
    return r ? r : maps(d, m, IMAGE_ROOTFS, e);
}

static void note_child(struct deletion *d, const struct uuid *id)
{
    char text[UUID_TEXT_BYTES];
    int n;

    if (d->child_count++ >= CHILDREN_NAMED)
        return;
    n = snprintf(d->children + d->children_len, sizeof(d->children) - d->children_len, "%s%s",
                 d->children_len ? ", " : "", uuid_format(id, text));
    d->children_len += (size_t)n;
}

/* Force is for what is lost already; what may merely be out of reach now is still waited for. */
static bool is_lost(int code)
{
    return code == -EBADMSG || code == -ENOENT;
}

static int check_children(struct deletion *d, struct thaw_error *e)
{
    char more[40] = "";

    for (size_t i = 0; i < d->survey.count; i++) {
        const struct survey_build *other = &d->survey.builds[i];
        struct thaw_error why = THAW_ERROR_INIT;
        char text[UUID_TEXT_BYTES];
        int r;

        if (uuid_compare(&other->id, &d->id) == 0)
            continue;
        r = needs(d, other, &why);
        if (r > 0)
            note_child(d, &other->id);
        else if (r < 0 && !(d->force && is_lost(r)))
            return err_set(e, -EBUSY,
                           "build %s stays, for build %s, which may need it, cannot be read (%s): "
                           "mend or delete that one first%s",
                           d->text, uuid_format(&other->id, text), why.text,
                           is_lost(r) ? ", or use --force" : "");
    }
    if (d->child_count == 0)
        return 0;
    if (d->child_count > CHILDREN_NAMED)
        snprintf(more, sizeof(more), " and %zu more", d->child_count - CHILDREN_NAMED);
    return err_set(e, -EBUSY, "build %s is needed by %s%s: delete %s first", d->text, d->children,
                   more, d->child_count == 1 ? "that one" : "those");
}

/* Whether @d->id may go as it is: it is a whole build, or force is used on what there is. */
static int check_state(const struct deletion *d, bool *ret_unfinished, struct thaw_error *e)
{
    const struct survey_build *build = survey_find(&d->survey, &d->id);
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};
    int r;

    *ret_unfinished = !build;
    if (build && (build->manifest || d->force))
        return 0;
    if (build)
        return err_set(e, -EBADMSG, "build %s is damaged: %.200s; --force deletes it all the same",
                       d->text, build->error->text);
    r = store_list_objects(d->store, &d->id, &objects, e);
    if (r == -ENOENT)
        return err_set(e, r, "no build %s in %s", d->text, d->store_name);
    if (r == 0 && !d->force)
        return err_set(e, -ENOENT,
                       "no build %s in %s, only parts of one that was never finished or is half "
                       "deleted: --force removes them",
                       d->text, d->store_name);
    return r;
}

void thaw_deleted_free(struct thaw_deleted *deleted)
{
    if (!deleted)
        return;
    free(deleted->objects);
    free(deleted);
}

static int describe(const struct deletion *d, struct thaw_deleted **ret, struct thaw_error *e)
{
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};
    int r = store_list_objects(d->store, &d->id, &objects, e);
    struct thaw_deleted *deleted;

    if (r < 0)
        return r;
    deleted = calloc(1, sizeof(*deleted));
    if (deleted)
        deleted->objects = calloc(objects.count + 1, sizeof(*deleted->objects));
    if (!deleted || !deleted->objects) {
        thaw_deleted_free(deleted);
        return err_set(e, -ENOMEM, "no memory to delete a build");
    }
    uuid_format(&d->id, deleted->build);
    for (; deleted->object_count < objects.count; deleted->object_count++) {
        const struct store_entry *from = &objects.list[deleted->object_count];
        struct thaw_deleted_object *to = &deleted->objects[deleted->object_count];

        snprintf(to->name, sizeof(to->name), "%s", from->name);
        to->size_bytes = from->size_bytes;
        deleted->bytes += from->size_bytes;
    }
    *ret = deleted;
    return 0;
}

static int perform(struct deletion *d, struct thaw_deleted **ret, struct thaw_error *e)
{
    bool unfinished = false;
    int r = check_state(d, &unfinished, e);

    if (r == 0)
        r = check_children(d, e);
    if (r == 0)
        r = describe(d, ret, e);
    if (r < 0)
        return r;
    r = unfinished ? store_build_discard(d->store, &d->id, e)
                   : store_build_delete(d->store, &d->id, e);
    if (r < 0)
        thaw_deleted_free(TAKE_PTR(*ret));
    return r;
}

int thaw_delete(const struct thaw_delete_options *options, struct thaw_deleted **ret,
                struct thaw_error *e)
{
    struct deletion d CLEANUP(deletion_finish) = {0};
    struct thaw_deleted *deleted = NULL;
    struct thaw_delete_options o;
    int r = OPTIONS_COPY(&o, options, e);

    if (r == 0)
        r = build_id_parse(o.build, &d.id, e);
    if (r == 0 && !o.store)
        r = err_set(e, -EINVAL, "which store is the build in?");
    if (r == 0)
        r = store_open(o.store, NULL, false, &d.store, e);
    if (r == 0)
        r = survey_store(d.store, &d.survey, e);
    if (r < 0)
        return r;
    uuid_format(&d.id, d.text);
    d.store_name = o.store;
    d.force = o.force;
    r = perform(&d, &deleted, e);
    if (r == 0)
        *ret = deleted;
    return r;
}
