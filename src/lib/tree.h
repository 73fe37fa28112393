/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_TREE_H
#define THAW_LIB_TREE_H

/*
 * Builds in the order in which they are shown. What manifests say of parents is not trusted: a
 * parent may be missing, and lines of parents may run in a circle. Pure functions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/uuid.h"

#define TREE_NONE SIZE_MAX

/**
 * struct tree_node - one build
 * @in_circle: result: it is an ancestor of itself
 * @depth: result: how many ancestors are shown above it
 * @parent_at: result: its parent among the nodes; TREE_NONE: it has none, or that is not there
 */
struct tree_node {
    struct uuid id;
    struct uuid parent;
    int64_t created_s;
    bool has_parent;
    bool in_circle;
    unsigned depth;
    size_t parent_at;
};

/**
 * tree_arrange() - find the order of @count nodes, whose ids differ
 * @nested: children follow their parent; otherwise every depth is 0
 * @ret_order: room for @count indexes of nodes: the newest first, then by id; when @nested, that is
 *             the order of those that are side by side. Members of a circle stand at the top.
 *
 * Returns: 0 or -ENOMEM.
 */
[[gnu::warn_unused_result]] int tree_arrange(struct tree_node *nodes, size_t count, bool nested,
                                             size_t *ret_order);

#endif
