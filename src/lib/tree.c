/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/tree.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

static int by_id(const void *a, const void *b)
{
    const struct tree_node *const *x = a, *const *y = b;

    return uuid_compare(&(*x)->id, &(*y)->id);
}

static int newest_first(const void *a, const void *b)
{
    const struct tree_node *const *x = a, *const *y = b;

    if ((*x)->created_s != (*y)->created_s)
        return (*x)->created_s < (*y)->created_s ? 1 : -1;
    return by_id(a, b);
}

/* @sorted: room for @count pointers */
static void find_parents(struct tree_node *nodes, size_t count, struct tree_node **sorted)
{
    for (size_t i = 0; i < count; i++)
        sorted[i] = &nodes[i];
    qsort(sorted, count, sizeof(*sorted), by_id);
    for (size_t i = 0; i < count; i++) {
        struct tree_node key = {.id = nodes[i].parent}, *wanted = &key, **found = NULL;

        if (nodes[i].has_parent)
            found = bsearch(&wanted, sorted, count, sizeof(*sorted), by_id);
        nodes[i].parent_at = found ? (size_t)(*found - nodes) : TREE_NONE;
        nodes[i].in_circle = false;
        nodes[i].depth = 0;
    }
}

/*
 * Walks up from every node, no node twice. A walk that meets its own trace has found a circle.
 * @walks: for each node, the number of the walk that came by; zeros on entry.
 */
static void find_circles(struct tree_node *nodes, size_t count, size_t *walks)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = i;

        while (at != TREE_NONE && walks[at] == 0) {
            walks[at] = i + 1;
            at = nodes[at].parent_at;
        }
        if (at == TREE_NONE || walks[at] != i + 1)
            continue;
        for (; !nodes[at].in_circle; at = nodes[at].parent_at)
            nodes[at].in_circle = true;
    }
}

static bool at_top(const struct tree_node *node)
{
    return node->parent_at == TREE_NONE || node->in_circle;
}

/*
 * Puts children behind their parents. @order holds every node; @next and @first have room for one
 * index per node. Siblings are chained in reverse, then stacked: the first one comes off first.
 */
static void nest(struct tree_node *nodes, size_t count, size_t *order, size_t *first, size_t *next)
{
    size_t stack = TREE_NONE, done = 0;

    for (size_t i = 0; i < count; i++)
        first[i] = TREE_NONE;
    for (size_t i = 0; i < count; i++) {
        size_t node = order[i];
        size_t *chain = at_top(&nodes[node]) ? NULL : &first[nodes[node].parent_at];

        if (!chain)
            continue;
        next[node] = *chain;
        *chain = node;
    }
    for (size_t i = count; i-- > 0;) { /* those at the top: the last one lowest in the stack */
        if (at_top(&nodes[order[i]])) {
            next[order[i]] = stack;
            stack = order[i];
        }
    }
    while (stack != TREE_NONE) {
        size_t node = stack;

        stack = next[node];
        order[done++] = node;
        for (size_t child = first[node], after; child != TREE_NONE; child = after) {
            after = next[child];
            nodes[child].depth = nodes[node].depth + 1;
            next[child] = stack;
            stack = child;
        }
    }
}

int tree_arrange(struct tree_node *nodes, size_t count, bool nested, size_t *ret_order)
{
    struct tree_node **sorted CLEANUP_FREE = calloc(count + 1, sizeof(struct tree_node *));
    size_t *first CLEANUP_FREE = calloc(count + 1, sizeof(*first));
    size_t *next CLEANUP_FREE = calloc(count + 1, sizeof(*next));

    if (!sorted || !first || !next)
        return -ENOMEM;
    find_parents(nodes, count, sorted);
    find_circles(nodes, count, first);
    qsort(sorted, count, sizeof(*sorted), newest_first);
    for (size_t i = 0; i < count; i++)
        ret_order[i] = (size_t)(sorted[i] - nodes);
    if (nested)
        nest(nodes, count, ret_order, first, next);
    return 0;
}
