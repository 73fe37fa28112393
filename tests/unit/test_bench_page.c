/* SPDX-License-Identifier: Apache-2.0 */

/* What benchmarks report and draw: ratios, escapes, a page that is replaced whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "bench/html.h"
#include "bench/report.h"
#include "scratch.h"

static char *folder;

static void in_folder(char ret[300], const char *name)
{
    snprintf(ret, 300, "%s/%s", folder, name);
}

static void assert_holds(const char *path, const char *text, bool expected)
{
    struct buf b CLEANUP_BUF = {0};

    assert_int_equal(file_load(AT_FDCWD, path, 1 << 20, &b), 0);
    buf_put_u8(&b, 0);
    assert_int_equal(strstr((const char *)b.data, text) != NULL, expected);
}

static void text_is_escaped(void **state)
{
    struct html *h = html_create("a<b>&\"", "p{}");
    char path[300];

    (void)state;
    in_folder(path, "escaped");
    assert_non_null(h);
    html_element(h, "p", "</p><script>&\n\x01");
    html_put(h, "<i>%d</i>", 7);
    assert_int_equal(html_write(h, path, NULL), 0);
    html_destroy(h);
    assert_holds(path, "<title>a&lt;b&gt;&amp;&quot;</title>", true);
    assert_holds(path, "<p>&lt;/p&gt;&lt;script&gt;&amp;  </p>", true);
    assert_holds(path, "<i>7</i>", true);
    assert_holds(path, "<script>", false);
}

static void page_is_replaced_or_left_alone(void **state)
{
    struct html *h = html_create("new", "");
    struct thaw_error e = THAW_ERROR_INIT;
    char path[300], missing[300];
    struct stat st;

    (void)state;
    in_folder(path, "page");
    in_folder(missing, "no/page");
    assert_int_equal(html_try(missing, &e), -ENOENT);
    assert_non_null(strstr(e.text, missing));
    assert_int_equal(html_try(folder, &e), -EINVAL);
    assert_int_equal(html_try(path, &e), 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(html_write(h, path, &e), 0);
    assert_holds(path, "new", true);
    /* A folder cannot be replaced by a file: nothing is left beside it then. */
    assert_true(html_write(h, folder, &e) < 0);
    assert_int_equal(html_write(h, missing, &e), -ENOENT);
    html_destroy(h);
    assert_int_equal(stat(folder, &st), 0);
    assert_true(S_ISDIR(st.st_mode));
}

/* Of all the writing above, also that which failed. */
static void nothing_is_left_beside(void **state)
{
    glob_t found = {0};
    char pattern[300];

    (void)state;
    in_folder(pattern, "page.*");
    assert_int_equal(glob(pattern, 0, NULL, &found), GLOB_NOMATCH);
    snprintf(pattern, sizeof(pattern), "%s.*", folder);
    assert_int_equal(glob(pattern, 0, NULL, &found), GLOB_NOMATCH);
}

static void add_all(struct bench_report *r, const char *row, const double *walls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        report_add(r, row, "wall_s", THAW, walls[i]);
}

static void rows_are_compared_round_by_round(void **state)
{
    static const struct report_ratio over = {"x", "wall_s", 3, true, "file", "floor"};
    static const struct report_ratio plain = {"y", "wall_s", 5, false, "file", ""};
    static const struct report_ratio unknown = {"z",  "wall_s", REPORT_NO_BAR,
                                                true, "file",   "nothing"};
    struct bench_report *r = calloc(1, sizeof(*r));

    (void)state;
    assert_non_null(r);
    add_all(r, "floor", (double[]){1, 2, 4}, 3);
    add_all(r, "file", (double[]){5, 8, 4}, 3);
    assert_true(fabs(report_value(r, &over) - 4) < 1e-9); /* of 5, 4 and 1; of medians it is 2.5 */
    assert_true(report_holds(&over, 4));
    assert_false(report_holds(&over, 2.9));
    assert_true(fabs(report_value(r, &plain) - 5) < 1e-9);
    assert_true(report_holds(&plain, 5));
    assert_false(report_holds(&plain, 5.1));
    assert_true(fabs(report_value(r, &unknown)) < 1e-9);
    assert_true(report_holds(&unknown, 0)); /* there is no bar */
    assert_true(fabs(report_median(r, "floor", "wall_s") - 2) < 1e-9);
    report_finish(r);
    free(r);
}

static void thaw_is_compared_with_its_floor(void **state)
{
    static const struct report_ratio worst = {"w", "us", 1.5, false, ""};
    struct bench_report *r = calloc(1, sizeof(*r));

    (void)state;
    assert_non_null(r);
    report_add(r, "a", "us", THAW, 3);
    report_add(r, "a", "us", FLOOR, 2);
    report_add(r, "b", "us", THAW, 4);
    report_add(r, "b", "us", FLOOR, 2);
    assert_true(fabs(report_value(r, &worst) - 2) < 1e-9);
    assert_false(report_holds(&worst, 2));
    report_finish(r);
    free(r);
}

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    return folder ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void)state;
    scratch_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(page_is_replaced_or_left_alone),
        cmocka_unit_test(nothing_is_left_beside),
        cmocka_unit_test(rows_are_compared_round_by_round),
        cmocka_unit_test(thaw_is_compared_with_its_floor),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_scratch);
}
