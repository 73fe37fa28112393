/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "format/header.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/build.h"
#include "lib/options.h"
#include "lib/survey.h"
#include "lib/tree.h"
#include "store/store.h"

void thaw_build_list_free(struct thaw_build_list *list)
{
    if (!list)
        return;
    for (size_t i = 0; i < list->count; i++)
        free(list->builds[i].reason);
    free(list->builds);
    free(list);
}

/* The text may quote what a damaged object says, which must not reach a terminal as it is. */
static int set_damaged(struct thaw_build_entry *entry, const char *why)
{
    char *reason = strdup(why);

    if (!reason)
        return -ENOMEM;
    for (char *p = reason; *p; p++) {
        if (*p < ' ' || *p > '~')
            *p = '?';
    }
    free(entry->reason);
    entry->reason = reason;
    entry->state = THAW_BUILD_DAMAGED;
    return 0;
}

static int memory_size(struct store *store, const struct manifest *m, uint64_t *ret_bytes,
                       struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    char name[OBJECT_NAME_BYTES];
    int r;

    if (!manifest_find(m, build_header_name(IMAGE_MEMORY, name)))
        return 0; /* a build of a disk alone */
    r = build_header_load(store, m, IMAGE_MEMORY, &h, e);
    if (r == 0)
        *ret_bytes = h->size_bytes;
    return r;
}

/* What only metadata.json says; and of E2B's builds not even that. */
static int describe_vmm(struct thaw_build_entry *entry, struct store *store,
                        const struct manifest *m, struct thaw_error *e)
{
    struct metadata *metadata CLEANUP_METADATA = NULL;
    struct buf text CLEANUP_BUF = {0};
    int r = build_object_load(store, m, METADATA_NAME, METADATA_MAX_BYTES, &text, e);

    if (r == 0)
        r = metadata_decode(text.data, text.len, &metadata, e);
    if (r < 0)
        return r;
    entry->memory_bytes = metadata->memory_bytes;
    entry->vmm = vmm_kind_name(metadata->vmm.kind);
    if (build_is_unverified(m))
        entry->vmm = vmm_kind_name(VMM_FIRECRACKER); /* E2B knows no other */
    return entry->memory_bytes > 0 ? 0 : memory_size(store, m, &entry->memory_bytes, e);
}

static uint64_t stored_bytes(struct store *store, const struct uuid *id)
{
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};
    uint64_t sum = 0;

    if (store_list_objects(store, id, &objects, NULL) < 0)
        return 0; /* deleted meanwhile */
    for (size_t i = 0; i < objects.count; i++)
        sum += objects.list[i].size_bytes;
    return sum;
}

static int describe(struct thaw_build_entry *entry, struct store *store,
                    const struct survey_build *build)
{
    const struct manifest *m = build->manifest;
    struct thaw_error why = THAW_ERROR_INIT;
    int r;

    uuid_format(&build->id, entry->build);
    entry->stored_bytes = stored_bytes(store, &build->id);
    if (!m)
        return set_damaged(entry, build->error->text);
    entry->created_s = m->created_s;
    entry->state = build_is_unverified(m) ? THAW_BUILD_UNVERIFIED : THAW_BUILD_OK;
    if (m->has_parent)
        uuid_format(&m->parent, entry->parent);
    r = describe_vmm(entry, store, m, &why);
    return r < 0 && r != -ENOMEM ? set_damaged(entry, why.text) : r;
}

static struct tree_node node_of(const struct survey_build *build)
{
    const struct manifest *m = build->manifest;

    return (struct tree_node){
        .id = build->id,
        .has_parent = m && m->has_parent,
        .parent = m ? m->parent : (struct uuid){{0}},
        .created_s = m ? m->created_s : 0,
    };
}

static int fill(struct thaw_build_list *list, struct store *store, const struct survey *survey,
                bool tree)
{
    size_t count = survey->count;
    struct tree_node *nodes CLEANUP_FREE = calloc(count + 1, sizeof(*nodes));
    size_t *order CLEANUP_FREE = calloc(count + 1, sizeof(*order));
    int r;

    list->builds = calloc(count + 1, sizeof(*list->builds));
    if (!nodes || !order || !list->builds)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        nodes[i] = node_of(&survey->builds[i]);
    r = tree_arrange(nodes, count, tree, order);
    for (; r == 0 && list->count < count; list->count++) {
        struct thaw_build_entry *entry = &list->builds[list->count];
        const struct tree_node *node = &nodes[order[list->count]];

        r = describe(entry, store, &survey->builds[order[list->count]]);
        entry->depth = node->depth;
        entry->parent_is_missing = node->has_parent && node->parent_at == TREE_NONE;
        if (r == 0 && node->in_circle)
            r = set_damaged(entry, "by the manifests, it is an ancestor of itself");
    }
    return r;
}

int thaw_list(const struct thaw_list_options *options, struct thaw_build_list **ret,
              struct thaw_error *e)
{
    struct store *store CLEANUP_STORE = NULL;
    struct survey survey CLEANUP_SURVEY = {0};
    struct thaw_build_list *list;
    struct thaw_list_options o;
    int r = OPTIONS_COPY(&o, options, e);

    if (r == 0 && !o.store)
        r = err_set(e, -EINVAL, "which store is to be listed?");
    if (r == 0)
        r = store_open(o.store, NULL, false, &store, e);
    if (r == 0)
        r = survey_store(store, &survey, e);
    if (r < 0)
        return r;
    list = calloc(1, sizeof(*list));
    r = list ? fill(list, store, &survey, o.tree) : -ENOMEM;
    if (r < 0) {
        thaw_build_list_free(list);
        return err_set(e, r, "no memory for a list of %zu builds", survey.count);
    }
    *ret = list;
    return 0;
}
