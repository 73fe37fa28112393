/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/survey.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "format/manifest.h"
#include "image/build.h"
#include "store/store.h"

static int compare_ids(const void *a, const void *b)
{
    const struct survey_build *x = a, *y = b;

    return uuid_compare(&x->id, &y->id);
}

/* Adds the build, unless it is none. */
static int add(struct survey *s, struct store *store, const struct uuid *id, struct thaw_error *e)
{
    struct survey_build *b = &s->builds[s->count];
    struct thaw_error why = THAW_ERROR_INIT;
    int r = build_manifest_load(store, id, &b->manifest, &why);

    if (r == -ENOENT)
        return 0; /* not finished; or deleted since it was listed */
    b->id = *id;
    s->count++;
    if (r == 0)
        return 0;
    b->error = r == -ENOMEM ? NULL : malloc(sizeof(*b->error));
    if (!b->error)
        return err_set(e, -ENOMEM, "no memory to look at the builds of the store");
    *b->error = why;
    return 0;
}

int survey_store(struct store *store, struct survey *ret, struct thaw_error *e)
{
    struct store_builds found CLEANUP_STORE_BUILDS = {0};
    struct survey s CLEANUP_SURVEY = {0};
    int r = store_list_builds(store, &found, e);

    if (r < 0)
        return r;
    s.builds = calloc(found.count + 1, sizeof(*s.builds));
    if (!s.builds)
        return err_set(e, -ENOMEM, "no memory for %zu builds", found.count);
    for (size_t i = 0; i < found.count && r == 0; i++)
        r = add(&s, store, &found.list[i].id, e);
    if (r < 0)
        return r;
    qsort(s.builds, s.count, sizeof(*s.builds), compare_ids);
    *ret = s;
    s = (struct survey){0};
    return 0;
}

struct survey_build *survey_find(const struct survey *s, const struct uuid *id)
{
    struct survey_build key = {.id = *id};

    return bsearch(&key, s->builds, s->count, sizeof(*s->builds), compare_ids);
}

void survey_finish(struct survey *s)
{
    for (size_t i = 0; i < s->count; i++) {
        manifest_destroy(s->builds[i].manifest);
        free(s->builds[i].error);
    }
    free(s->builds);
    *s = (struct survey){0};
}
