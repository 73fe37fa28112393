/* SPDX-License-Identifier: Apache-2.0 */

/* The memory budget of a host, as who embeds thaw sets it; tests/integration/test_host.py has it
 * set by the flag. */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "thaw/host.h"
#include "unit.h"

static unsigned warnings;

static void count_warning(void *arg, const char *text)
{
    (void)arg;
    assert_non_null(strstr(text, "budget"));
    warnings++;
}

static struct thaw_host *open_host(const char *const *flags)
{
    struct thaw_host_options o = {
        .opts_size = sizeof(o),
        .cache_backing = "tiered",
        .no_disk = true,
        .memory_budget = 32 * MIB,
        .flags = flags,
        .warn = count_warning,
    };
    struct thaw_host *h;

    warnings = 0;
    assert_int_equal(thaw_host_open(&o, &h, NULL), 0);
    return h;
}

static uint64_t budget(struct thaw_host *h)
{
    struct thaw_host_info info;

    thaw_host_info(h, &info);
    return info.memory_budget;
}

static void it_is_set_and_set_back(void **state)
{
    struct thaw_host *h = open_host(NULL);
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(budget(h), 32 * MIB);
    assert_int_equal(thaw_host_set_memory_budget(h, 16 * MIB, &e), 0);
    assert_int_equal(budget(h), 16 * MIB);
    assert_int_equal(thaw_host_set_memory_budget(h, 8 * MIB - 1, &e), -EINVAL);
    assert_non_null(strstr(e.text, "8.0 MiB"));
    assert_int_equal(budget(h), 16 * MIB);
    thaw_host_reload(h); /* flags that say nothing change nothing */
    assert_int_equal(budget(h), 16 * MIB);
    assert_int_equal(thaw_host_set_memory_budget(h, 0, &e), 0);
    assert_int_equal(budget(h), 32 * MIB);
    thaw_host_close(h);
}

static void the_flag_beats_it(void **state)
{
    static const char *const set[] = {"memory-budget=64M", NULL};
    static const char *const too_small[] = {"memory-budget=4M", NULL};
    struct thaw_host *h = open_host(set);

    (void)state;
    assert_int_equal(budget(h), 64 * MIB);
    assert_int_equal(thaw_host_set_memory_budget(h, 16 * MIB, NULL), 0);
    assert_int_equal(budget(h), 64 * MIB);
    thaw_host_close(h);

    h = open_host(too_small);
    assert_int_equal(warnings, 1);
    assert_int_equal(budget(h), 32 * MIB);
    thaw_host_reload(h);
    assert_int_equal(warnings, 1); /* told once */
    assert_int_equal(thaw_host_set_memory_budget(h, 16 * MIB, NULL), 0);
    assert_int_equal(budget(h), 16 * MIB);
    thaw_host_close(h);
}

/* More than any host has is more than a limited cgroup leaves: at most one warning, and it holds.
 */
static void more_than_there_is(void **state)
{
    struct thaw_host *h = open_host(NULL);

    (void)state;
    assert_int_equal(thaw_host_set_memory_budget(h, UINT64_MAX, NULL), 0);
    assert_int_equal(thaw_host_set_memory_budget(h, UINT64_MAX - 1, NULL), 0);
    assert_true(budget(h) == UINT64_MAX - 1);
    assert_true(warnings <= 1);
    thaw_host_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_set_and_set_back),
        cmocka_unit_test(the_flag_beats_it),
        cmocka_unit_test(more_than_there_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
