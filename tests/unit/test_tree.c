/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/tree.h"

#include <string.h>

#include "base/units.h"
#include "unit.h"

#define NODES_MAX 64

static struct tree_node nodes[NODES_MAX];
static size_t order[NODES_MAX];

static struct uuid id_of(unsigned n)
{
    struct uuid id = {{0}};

    id.b[15] = (uint8_t)n;
    id.b[0] = (uint8_t)(n * 37); /* ids are in no order that means anything */
    return id;
}

/* Node @n, made at @created; @parent: a number, or -1. */
static void set_node(unsigned n, int64_t created, int parent)
{
    nodes[n] = (struct tree_node){.id = id_of(n), .created_s = created, .depth = 99};
    if (parent >= 0) {
        nodes[n].has_parent = true;
        nodes[n].parent = id_of((unsigned)parent);
    }
}

static void assert_order(size_t count, const unsigned *numbers, const unsigned *depths)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(order[i], numbers[i]);
        assert_int_equal(nodes[order[i]].depth, depths ? depths[i] : 0);
    }
}

static void newest_comes_first(void **state)
{
    (void)state;
    assert_int_equal(tree_arrange(nodes, 0, true, order), 0);
    set_node(0, 5, -1);
    set_node(1, 7, 0);
    set_node(2, 6, -1);
    assert_int_equal(tree_arrange(nodes, 3, false, order), 0);
    assert_order(3, (unsigned[]){1, 2, 0}, NULL);
}

static void children_follow_their_parent(void **state)
{
    (void)state;
    set_node(0, 1, -1);
    set_node(1, 2, 0);
    set_node(2, 9, 1);
    set_node(3, 5, 0);
    set_node(4, 6, -1);
    set_node(5, 3, 4);
    assert_int_equal(tree_arrange(nodes, 6, true, order), 0);
    assert_order(6, (unsigned[]){4, 5, 0, 3, 1, 2}, (unsigned[]){0, 1, 0, 1, 1, 2});
    assert_int_equal(nodes[2].parent_at, 1);
}

static void a_missing_parent_is_none(void **state)
{
    (void)state;
    set_node(0, 1, 50);
    set_node(1, 2, 0);
    assert_int_equal(tree_arrange(nodes, 2, true, order), 0);
    assert_order(2, (unsigned[]){0, 1}, (unsigned[]){0, 1});
    assert_int_equal(nodes[0].parent_at, TREE_NONE);
    assert_false(nodes[0].in_circle);
}

static void circles_are_cut_open(void **state)
{
    (void)state;
    set_node(0, 1, 2); /* 0 -> 2 -> 1 -> 0 */
    set_node(1, 2, 0);
    set_node(2, 3, 1);
    set_node(3, 4, 1); /* below it, */
    set_node(4, 5, 3); /* and below that */
    set_node(5, 6, 5); /* its own parent */
    set_node(6, 7, -1);
    for (int nested = 0; nested < 2; nested++) {
        assert_int_equal(tree_arrange(nodes, 7, nested, order), 0);
        for (unsigned n = 0; n < 7; n++)
            assert_int_equal(nodes[n].in_circle, n <= 2 || n == 5);
    }
    assert_order(7, (unsigned[]){6, 5, 2, 1, 3, 4, 0}, (unsigned[]){0, 0, 0, 0, 1, 2, 0});
}

static bool runs_in_circle(size_t n, unsigned count)
{
    size_t at = nodes[n].parent_at;

    for (unsigned steps = 0; steps < count && at != TREE_NONE && at != n; steps++)
        at = nodes[at].parent_at;
    return at == n;
}

/* Whatever parents are said to be: every node once, children right below their parent's line. */
static void any_graph_is_arranged(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        unsigned count = 1 + round % NODES_MAX;
        bool seen[NODES_MAX] = {false};

        for (unsigned n = 0; n < count; n++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            set_node(n, (int64_t)(seed >> 60), (int)((seed >> 33) % (count + 2)) - 1);
        }
        assert_int_equal(tree_arrange(nodes, count, true, order), 0);
        for (unsigned i = 0; i < count; i++) {
            const struct tree_node *node = &nodes[order[i]];
            size_t above = i;

            assert_int_equal(node->in_circle, runs_in_circle(order[i], count));
            assert_false(seen[order[i]]);
            seen[order[i]] = true;
            if (node->depth == 0) {
                assert_true(node->in_circle || node->parent_at == TREE_NONE);
                continue;
            }
            do
                above--;
            while (nodes[order[above]].depth >= node->depth);
            assert_int_equal(order[above], node->parent_at);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newest_comes_first),       cmocka_unit_test(children_follow_their_parent),
        cmocka_unit_test(a_missing_parent_is_none), cmocka_unit_test(circles_are_cut_open),
        cmocka_unit_test(any_graph_is_arranged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
