/* SPDX-License-Identifier: Apache-2.0 */

/* Whether a host has huge pages, by trees of files that look like one. */
#include "kernel/huge_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"
#include "unit.h"

#define THP     "/sys/kernel/mm/transparent_hugepage/"
#define HUGETLB "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static char *root;

static int set_up(void **state)
{
    (void)state;
    root = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

static void put(const char *path, const char *text)
{
    char name[300];
    FILE *f;

    snprintf(name, sizeof(name), "%s%s", root, path);
    for (char *slash = name + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        (void)!mkdir(name, 0700);
    }
    f = fopen(name, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static bool missing(enum huge_pages kind, const char *word)
{
    char why[HUGE_PAGES_WHY_BYTES] = "";
    bool missing = huge_pages_missing(root, kind, 8 * MIB, why);

    assert_non_null(strstr(why, word));
    return missing;
}

static void names(void **state)
{
    enum huge_pages kind = HUGE_PAGES_KINDS;

    (void)state;
    for (unsigned i = 0; i < HUGE_PAGES_KINDS; i++) {
        assert_int_equal(huge_pages_parse(huge_pages_name((enum huge_pages)i), &kind), 0);
        assert_int_equal(kind, i);
    }
    assert_int_equal(huge_pages_parse("1g", &kind), -EINVAL);
    assert_int_equal(huge_pages_parse("", &kind), -EINVAL);
}

static void transparent_ones(void **state)
{
    (void)state;
    assert_true(missing(HUGE_PAGES_THP, "this kernel has none"));
    put(THP "enabled", "always madvise [never]\n");
    assert_true(missing(HUGE_PAGES_THP, "write \"madvise\""));
    put(THP "enabled", "always [madvise] never\n");
    assert_false(missing(HUGE_PAGES_THP, ""));

    put(THP "hugepages-2048kB/enabled", "always inherit madvise [never]\n");
    assert_true(missing(HUGE_PAGES_THP, "hugepages-2048kB"));
    put(THP "enabled", "always madvise [never]\n");
    put(THP "hugepages-2048kB/enabled", "always [inherit] madvise never\n");
    assert_true(missing(HUGE_PAGES_THP, "never"));
    put(THP "hugepages-2048kB/enabled", "always inherit [madvise] never\n");
    assert_false(missing(HUGE_PAGES_THP, ""));
}

static void reserved_ones(void **state)
{
    (void)state;
    assert_true(missing(HUGE_PAGES_HUGETLB, "0 of 2 MiB are free and 4 are needed"));
    put(HUGETLB "free_hugepages", "3\n");
    assert_true(missing(HUGE_PAGES_HUGETLB, "vm.nr_hugepages"));
    put(HUGETLB "nr_overcommit_hugepages", "1\n");
    assert_false(missing(HUGE_PAGES_HUGETLB, ""));
    assert_false(missing(HUGE_PAGES_OFF, ""));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TEST(names), TEST(transparent_ones), TEST(reserved_ones)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
