/* SPDX-License-Identifier: Apache-2.0 */

/* What the host and the memory cgroups leave: texts as kernels write them, trees of such files, and
 * what is missing or makes no sense, which limits nothing. */
#include "kernel/memory_limit.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/units.h"
#include "scratch.h"

/* --- texts --- */

static void available_memory(void **state)
{
    static const char *const wrong[] = {
        "MemAvailable:    kB\n",
        "MemAvailable: -1 kB\n",
        "MemAvailable: 12 MB\n",
        "MemAvailable: 12",
        "MemAvailable:",
        "MemAvailable: 0x12 kB\n",
        "MemAvailable: 18446744073709551615 kB\n",
        "MemAvailable: 99999999999999999999 kB\n",
    };
    uint64_t bytes = 7;

    (void)state;
    assert_int_equal(memory_parse_available("MemTotal:       24683520 kB\n"
                                            "MemFree:        22953400 kB\n"
                                            "MemAvailable:   23539416 kB\n"
                                            "Buffers:           98764 kB\n",
                                            &bytes),
                     0);
    assert_int_equal(bytes, 23539416 * KIB);
    bytes = 7;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_int_equal(memory_parse_available(wrong[i], &bytes), -EINVAL);
    assert_int_equal(memory_parse_available("", &bytes), -ENOENT);
    assert_int_equal(memory_parse_available("XMemAvailable: 1 kB\n", &bytes), -ENOENT);
    assert_int_equal(bytes, 7);
}

static void one_number(void **state)
{
    static const char *const wrong[] = {"",     "\n",   "maximum\n", "max 4",
                                        "-1\n", " 4\n", "4 5\n",     "18446744073709551616\n"};
    uint64_t bytes;

    (void)state;
    assert_int_equal(memory_parse_bytes("1073741824\n", &bytes), 0);
    assert_int_equal(bytes, GIB);
    assert_int_equal(memory_parse_bytes("0", &bytes), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(memory_parse_bytes("max\n", &bytes), 0);
    assert_true(bytes == MEMORY_UNLIMITED);
    bytes = 7;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_int_equal(memory_parse_bytes(wrong[i], &bytes), -EINVAL);
    assert_int_equal(bytes, 7);
}

static void one_of_many_numbers(void **state)
{
    static const char stat[] = "anon 5\nfile 6\nactive_inactive_file 9\ninactive_file 4096\n"
                               "broken x\ntwo 1 2\nlast 3";
    uint64_t value;

    (void)state;
    assert_int_equal(memory_parse_stat(stat, "inactive_file", &value), 0);
    assert_int_equal(value, 4096);
    assert_int_equal(memory_parse_stat(stat, "last", &value), 0);
    assert_int_equal(value, 3);
    assert_int_equal(memory_parse_stat(stat, "inactive", &value), -ENOENT);
    assert_int_equal(memory_parse_stat(stat, "broken", &value), -EINVAL);
    assert_int_equal(memory_parse_stat(stat, "two", &value), -EINVAL);
}

#define V1_MOUNT "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define V2_MOUNT "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
#define OTHERS                                                                                     \
    "22 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"                                    \
    "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,memoryless\n"

static void where_the_group_is(void **state)
{
    static const struct {
        const char *cgroup, *mountinfo;
        bool v1;
        const char *mount, *path; /* NULL: -ENOENT */
    } cases[] = {
        /* Version 2, as systemd sets it up; at its root. */
        {"0::/system.slice/thaw.service\n", OTHERS V2_MOUNT, false, "/sys/fs/cgroup",
         "/system.slice/thaw.service"},
        {"0::/\n", OTHERS V2_MOUNT, false, "/sys/fs/cgroup", ""},
        /* Both: who has the memory controller. */
        {"9:name=systemd:/\n4:memory:/a/b\n0::/c\n", OTHERS V1_MOUNT V2_MOUNT, true,
         "/sys/fs/cgroup/memory", "/a/b"},
        {"3:hugetlb,memory,pids:/a:b\n", V1_MOUNT, true, "/sys/fs/cgroup/memory", "/a:b"},
        {"9:name=memory:/x\n3:memoryless:/y\n0::/z\n", V2_MOUNT, false, "/sys/fs/cgroup", "/z"},
        /* A container: its part of the tree is mounted; or another one, or what lies outside. */
        {"4:memory:/docker/12\n", "35 31 0:32 /docker/12 /m rw - cgroup cgroup rw,memory\n", true,
         "/m", ""},
        {"4:memory:/docker/12/in\n", "35 31 0:32 /docker/12 /m rw - cgroup cgroup rw,memory\n",
         true, "/m", "/in"},
        {"4:memory:/docker/123\n", "35 31 0:32 /docker/12 /m rw - cgroup cgroup rw,memory\n", true,
         "/m", ""},
        {"0::/../../other\n", V2_MOUNT, false, "/sys/fs/cgroup", ""},
        /* A mount whose name has a space. */
        {"0::/x\n", "41 31 0:38 / /my\\040groups rw - cgroup2 none rw\n", false, "/my groups",
         "/x"},
        /* Nothing, garbage. */
        {"", V2_MOUNT, false, NULL, NULL},
        {"0::/x\n", "", false, NULL, NULL},
        {"0::/x\n", OTHERS, false, NULL, NULL},
        {"0::x\n::/\n:memory\nmemory\n4:memory\n0:\n", V1_MOUNT V2_MOUNT, false, NULL, NULL},
        {"0::/x\n", " - cgroup2 \n - \n41 - cgroup2", false, NULL, NULL},
    };
    struct memory_group g;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int r = memory_parse_group(cases[i].cgroup, cases[i].mountinfo, &g);

        assert_int_equal(r, cases[i].mount ? 0 : -ENOENT);
        if (r < 0)
            continue;
        assert_int_equal(g.v1, cases[i].v1);
        assert_string_equal(g.mount, cases[i].mount);
        assert_string_equal(g.path, cases[i].path);
    }
}

static void a_path_that_is_too_long(void **state)
{
    static char cgroup[2 * PATH_MAX] = "0::/", mount[2 * PATH_MAX + 64] = "41 31 0:38 / /";
    struct memory_group g;

    (void)state;
    memset(cgroup + 4, 'x', sizeof(cgroup) - 5);
    assert_int_equal(memory_parse_group(cgroup, V2_MOUNT, &g), -ENOENT);
    memset(mount + strlen(mount), 'x', (size_t)2 * PATH_MAX);
    memcpy(mount + strlen(mount) - 30, " rw - cgroup2 cgroup2 rw", 25);
    assert_int_equal(memory_parse_group("0::/x\n", mount, &g), -ENOENT);
}

/* --- trees --- */

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

static void read_tree(const char *root, uint64_t left, const char *limiter)
{
    struct memory_limit l;

    memory_limit_read(root, &l);
    assert_true(l.left_bytes == left);
    if (*limiter)
        assert_string_equal(l.limiter + strlen(root), limiter);
    else
        assert_string_equal(l.limiter, "");
}

static void version_2(void **state)
{
    char *root = scratch_make(), folder[PATH_MAX], expected[PATH_MAX + 16];
    struct memory_limit l;

    (void)state;
    read_tree(root, MEMORY_UNLIMITED, ""); /* nothing is there */
    write_file(root, "proc/meminfo", "MemFree: 1 kB\nMemAvailable: 8388608 kB\n");
    write_file(root, "proc/self/cgroup", "0::/app.slice/thaw.service\n");
    read_tree(root, MEMORY_UNLIMITED, "");
    write_file(root, "proc/self/mountinfo", OTHERS V2_MOUNT);
    read_tree(root, MEMORY_UNLIMITED, "");

    /* The group itself, its parent, and the root, which has no limits. */
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.max", "max\n");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.high", "max\n");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.current", "104857600\n");
    write_file(root, "sys/fs/cgroup/app.slice/memory.max", "1073741824\n");
    write_file(root, "sys/fs/cgroup/app.slice/memory.high", "max\n");
    read_tree(root, MEMORY_UNLIMITED, "");               /* what it uses is not known */
    write_file(root, "sys/fs/memory.current", "4096\n"); /* not of the hierarchy */
    write_file(root, "sys/fs/memory.max", "4096\n");
    write_file(root, "sys/fs/cgroup/app.slice/memory.current", "536870912\n");
    read_tree(root, 512 * MIB, "/sys/fs/cgroup/app.slice/memory.max");

    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.high", "209715200\n");
    read_tree(root, 100 * MIB, "/sys/fs/cgroup/app.slice/thaw.service/memory.high");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.stat",
               "anon 52428800\ninactive_file 41943040\n");
    read_tree(root, 140 * MIB, "/sys/fs/cgroup/app.slice/thaw.service/memory.high");
    /* More than it uses: the two are not read at the same time. */
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.stat",
               "inactive_file 104861696\n");
    read_tree(root, 200 * MIB, "/sys/fs/cgroup/app.slice/thaw.service/memory.high");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.stat",
               "inactive_file 41943040\n");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.max", "1048576\n");
    read_tree(root, 0, "/sys/fs/cgroup/app.slice/thaw.service/memory.max");
    write_file(root, "sys/fs/cgroup/app.slice/thaw.service/memory.max", "lots\n");
    read_tree(root, 140 * MIB, "/sys/fs/cgroup/app.slice/thaw.service/memory.high");

    memory_limit_read(root, &l);
    assert_int_equal(l.available_bytes, 8 * GIB);
    write_file(root, "proc/meminfo", "MemAvailable: plenty\n");
    memory_limit_read(root, &l);
    assert_int_equal(l.available_bytes, 0);

    snprintf(expected, sizeof(expected), "%s/sys/fs/cgroup/app.slice/thaw.service", root);
    assert_int_equal(memory_group_folder(root, folder), 0);
    assert_string_equal(folder, expected);
    scratch_remove(root);
}

static void version_1(void **state)
{
    char *root = scratch_make(), folder[PATH_MAX];

    (void)state;
    write_file(root, "proc/self/cgroup", "4:memory:/a/b\n0::/\n");
    write_file(root, "proc/self/mountinfo", OTHERS V2_MOUNT V1_MOUNT);
    write_file(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    write_file(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n");
    write_file(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    write_file(root, "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "4096\n");
    read_tree(root, MEMORY_UNLIMITED, "");
    write_file(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "268435456\n");
    write_file(root, "sys/fs/cgroup/memory/a/memory.usage_in_bytes", "67108864\n");
    write_file(root, "sys/fs/cgroup/memory/a/memory.stat",
               "inactive_file 1\ntotal_inactive_file 33554432\n");
    read_tree(root, 224 * MIB, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes");
    /* The mount itself may be a container's group. */
    write_file(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "1052672\n");
    read_tree(root, MIB, "/sys/fs/cgroup/memory/memory.limit_in_bytes");
    assert_int_equal(memory_group_folder(root, folder), -ENOENT);
    scratch_remove(root);
}

/* This system: whatever it says, it is not nothing. */
static void this_system(void **state)
{
    struct memory_limit l;

    (void)state;
    memory_limit_read("", &l);
    assert_true(l.available_bytes > MIB && l.available_bytes < 1024 * TIB);
    assert_true(l.left_bytes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_memory),
        cmocka_unit_test(one_number),
        cmocka_unit_test(one_of_many_numbers),
        cmocka_unit_test(where_the_group_is),
        cmocka_unit_test(a_path_that_is_too_long),
        cmocka_unit_test(version_2),
        cmocka_unit_test(version_1),
        cmocka_unit_test(this_system),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
