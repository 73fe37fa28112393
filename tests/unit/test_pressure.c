/* SPDX-License-Identifier: Apache-2.0 */

/* Where triggers of memory pressure are armed, and that the caches give memory back when one of
 * them goes off: one that the test sets off, and the kernel's, as far as it lets us. */
#include "test_cache.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "kernel/pressure.h"
#include "lib/host_pressure.h"

#define MINUTE (60 * NS_PER_SEC)

/* --- triggers --- */

static void write_file(const char *root, const char *name, const char *text)
{
    char *path = scratch_path(root, name);
    FILE *f;

    for (char *c = path + strlen(root) + 1; *c; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        (void)!mkdir(path, 0700);
        *c = '/';
    }
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    free(path);
}

static void opens(const char *root, const char *name)
{
    struct pressure p;
    char text[sizeof(PRESSURE_TRIGGER) + 1];

    assert_int_equal(pressure_open(root, &p), 0);
    assert_string_equal(p.path + strlen(root), name);
    assert_int_equal(pread(p.fd, text, sizeof(text), 0), sizeof(PRESSURE_TRIGGER));
    assert_string_equal(text, PRESSURE_TRIGGER); /* with its NUL */
    close(p.fd);
}

static void the_own_cgroup_comes_first(void **state)
{
    char *root = scratch_make();
    struct pressure p;

    (void)state;
    assert_int_equal(pressure_open(root, &p), -ENOENT);
    write_file(root, "proc/pressure/memory", "");
    opens(root, "/proc/pressure/memory");
    write_file(root, "proc/self/cgroup", "0::/a/b\n");
    write_file(root, "proc/self/mountinfo", "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n");
    opens(root, "/proc/pressure/memory");
    write_file(root, "cg/a/b/memory.pressure", "");
    opens(root, "/cg/a/b/memory.pressure");
    /* That of version 1 has none. */
    write_file(root, "proc/self/cgroup", "4:memory:/a/b\n0::/a/b\n");
    opens(root, "/proc/pressure/memory");
    scratch_remove(root);
}

/* Whatever this kernel says: a descriptor that can be polled, or one of the errors that are named.
 */
static void of_this_system(void **state)
{
    struct pressure p;
    struct pollfd fd = {.events = POLLPRI};
    int r = pressure_open("", &p);

    (void)state;
    if (r < 0) {
        print_message("no trigger at %s: %s\n", p.path, strerror(-r));
        assert_true(r == -ENOENT || r == -EOPNOTSUPP || r == -EACCES || r == -EPERM || r == -EROFS);
        skip();
    }
    fd.fd = p.fd;
    assert_true(poll(&fd, 1, 0) >= 0);
    assert_int_equal(fd.revents & (POLLERR | POLLNVAL), 0);
    close(p.fd);
}

/* --- giving back --- */

static int trigger; /* the other end of what the thread polls */

static int open_fake(struct pressure *ret)
{
    *ret = (struct pressure){.fd = fcntl(trigger, F_DUPFD_CLOEXEC, 0), .path = "a test"};
    return ret->fd < 0 ? -errno : 0;
}

static int open_nothing(struct pressure *ret)
{
    *ret = (struct pressure){.fd = -1, .path = "nowhere"};
    return -EOPNOTSUPP;
}

static void take_fake(int fd)
{
    eventfd_t n;

    assert_int_equal(eventfd_read(fd, &n), 0);
}

static const struct host_pressure_ops fake = {open_fake, POLLIN, take_fake};
static const struct host_pressure_ops none = {.open = open_nothing, .events = POLLIN};

static int set_up(void **state)
{
    (void)state;
    backing = CACHE_BACKING_TIERED;
    caches = new_set(backing, NULL, 64 * MIB);
    trigger = eventfd(0, EFD_CLOEXEC);
    assert_true(trigger >= 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cache_set_destroy(caches);
    close(trigger);
    return 0;
}

static uint64_t given(void)
{
    return cache_set_counters(caches).given_bytes;
}

static void wait_for_more_than(uint64_t bytes)
{
    uint64_t end = clock_now_ns() + MINUTE;

    while (given() <= bytes) {
        assert_true(clock_now_ns() < end);
        poll(NULL, 0, 1);
    }
}

static void each_event_gives_back(void **state)
{
    struct cache *c = new_cache("x", 64 * MIB);
    struct host_pressure *p;
    uint64_t before;

    (void)state;
    for (uint32_t g = 0; g < 1024; g++)
        fill_granule(c, g, 1);
    assert_int_equal(host_pressure_start(caches, &fake, &p), 0);
    assert_int_equal(pool_bytes(), 64 * MIB);
    assert_int_equal(given(), 0);
    for (unsigned i = 0; i < 3; i++) {
        before = given();
        assert_int_equal(eventfd_write(trigger, 1), 0);
        wait_for_more_than(before);
    }
    host_pressure_stop(p);
    assert_int_equal(pool_bytes(), 64 * MIB - given());
    before = given();
    assert_int_equal(eventfd_write(trigger, 1), 0); /* nobody looks */
    assert_int_equal(given(), before);
    cache_destroy(c);
}

static void where_nobody_tells(void **state)
{
    struct host_pressure *p = NULL;

    (void)state;
    assert_int_equal(host_pressure_start(caches, &none, &p), -EOPNOTSUPP);
    assert_null(p);
    host_pressure_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_own_cgroup_comes_first),
        cmocka_unit_test(of_this_system),
        cmocka_unit_test_setup_teardown(each_event_gives_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(where_nobody_tells, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
