/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/capped_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "bench/cgroup.h"

#define DELAYACCT "/proc/sys/kernel/task_delayacct"

static int write_text(const char *path, const char *text)
{
    int fd CLEANUP_FD = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

/* The first line without its end. */
static int read_text(const char *path, char *ret, size_t len)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, len - 1);

    if (n < 0)
        return -errno;
    ret[n] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return 0;
}

/* Values that are remembered before they are changed. */

static int set_value(const char *path, const char *value, char before[CAPPED_NUMBER_BYTES])
{
    char found[CAPPED_NUMBER_BYTES];
    int r = read_text(path, found, sizeof(found));

    if (r == 0)
        r = write_text(path, value);
    if (r == 0)
        memcpy(before, found, sizeof(found));
    return r;
}

static bool undo_value(const char *path, char before[CAPPED_NUMBER_BYTES])
{
    int r = before[0] == '\0' ? 0 : write_text(path, before);

    if (r < 0)
        log_error("%s is not %s again: %s", path, before, strerror(-r));
    before[0] = '\0';
    return r == 0;
}

/* The device's share of dirty pages. */

static const char *bdi_path(const struct capped_limits *l, const char *name, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "/sys/class/bdi/%u:%u/%s", major(l->device), minor(l->device), name);
    return ret;
}

static int limit_dirty(struct capped_limits *l, unsigned percent, struct thaw_error *e)
{
    char value[CAPPED_NUMBER_BYTES], path[PATH_MAX];
    int r;

    snprintf(value, sizeof(value), "%u", percent);
    r = set_value(bdi_path(l, "max_ratio", path), value, l->max_ratio);
    if (r < 0)
        return err_errno(e, r, "limiting the device's dirty pages: max_ratio");
    r = set_value(bdi_path(l, "strict_limit", path), "1", l->strict_limit);
    if (r < 0 && r != -ENOENT)
        return err_errno(e, r, "limiting the device's dirty pages: strict_limit");
    return 0;
}

/* What the device writes, by cgroups. */

/* Version 1. A rule in the root group holds also for the kernel's own threads that write back. */
static int limit_by_blkio(struct capped_limits *l, uint64_t bytes_per_s, struct thaw_error *e)
{
    char root[PATH_MAX - 64], rule[64];
    int r = cgroup_mount("cgroup", "blkio", root, sizeof(root));

    if (r < 0)
        return r;
    snprintf(rule, sizeof(rule), "%u:%u %" PRIu64, major(l->device), minor(l->device), bytes_per_s);
    snprintf(l->rule_file, sizeof(l->rule_file), "%s/blkio.throttle.write_bps_device", root);
    r = write_text(l->rule_file, rule);
    if (r == 0)
        return 0;
    err_errno(e, r, "%s", l->rule_file);
    l->rule_file[0] = '\0';
    return r;
}

/* A group below the root for the maker, whose pages are then written back on its account. */
static int make_group(struct capped_limits *l, const char *root, uint64_t bytes_per_s)
{
    char path[PATH_MAX + 16], rule[64], home[PATH_MAX - 512];
    int r = cgroup_of(l->maker, "", home, sizeof(home));

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", root);
    r = write_text(path, "+io +memory"); /* stays on: others may have come to use it */
    if (r < 0)
        return r;
    snprintf(l->group, sizeof(l->group), "%s/thaw-capped-%d", root, l->maker);
    if (mkdir(l->group, 0755) < 0) {
        l->group[0] = '\0';
        return -errno;
    }
    snprintf(rule, sizeof(rule), "%u:%u wbps=%" PRIu64, major(l->device), minor(l->device),
             bytes_per_s);
    snprintf(path, sizeof(path), "%s/io.max", l->group);
    r = write_text(path, rule);
    if (r < 0)
        return r;
    snprintf(l->home_procs, sizeof(l->home_procs), "%s%s/cgroup.procs", root, home);
    snprintf(rule, sizeof(rule), "%d", l->maker);
    snprintf(path, sizeof(path), "%s/cgroup.procs", l->group);
    return write_text(path, rule);
}

static int limit_by_io_max(struct capped_limits *l, uint64_t bytes_per_s, struct thaw_error *e)
{
    char root[256], path[300], controllers[256], *word;
    int r = cgroup_mount("cgroup2", NULL, root, sizeof(root));
    bool has_io = false;

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/cgroup.controllers", root);
    r = read_text(path, controllers, sizeof(controllers));
    for (char *rest = controllers; r == 0 && (word = strsep(&rest, " "));)
        has_io = has_io || strcmp(word, "io") == 0;
    if (!has_io)
        return -ENOENT;
    r = make_group(l, root, bytes_per_s);
    return r < 0 ? err_errno(e, r, "limiting writes by a cgroup below %s", root) : 0;
}

static int limit_writes(struct capped_limits *l, uint64_t bytes_per_s, struct thaw_error *e)
{
    int r = limit_by_blkio(l, bytes_per_s, e);

    if (r == -ENOENT)
        r = limit_by_io_max(l, bytes_per_s, e);
    if (r == -ENOENT)
        return err_set(e, -EOPNOTSUPP,
                       "no cgroup hierarchy with a block I/O controller is mounted: blkio of "
                       "version 1 or io of version 2");
    return r;
}

static bool undo_rule(struct capped_limits *l)
{
    char rule[64];
    int r;

    if (l->rule_file[0] == '\0')
        return true;
    snprintf(rule, sizeof(rule), "%u:%u 0", major(l->device), minor(l->device));
    r = write_text(l->rule_file, rule);
    if (r < 0)
        log_error("%s still limits device %u:%u: %s", l->rule_file, major(l->device),
                  minor(l->device), strerror(-r));
    l->rule_file[0] = '\0';
    return r == 0;
}

/* Everybody in our group goes home; one that ends meanwhile is no trouble. */
static bool undo_group(struct capped_limits *l)
{
    char path[PATH_MAX + 16], pid[32];
    FILE *f;

    if (l->group[0] == '\0')
        return true;
    snprintf(path, sizeof(path), "%s/cgroup.procs", l->group);
    f = fopen(path, "re");
    while (f && fgets(pid, sizeof(pid), f))
        (void)write_text(l->home_procs, pid);
    if (f)
        fclose(f);
    if (rmdir(l->group) < 0) {
        log_error("cgroup %s is left over: %s", l->group, strerror(errno));
        return false;
    }
    l->group[0] = '\0';
    return true;
}

int capped_limits_set(struct capped_limits *l, uint64_t write_bytes_per_s, unsigned dirty_percent,
                      struct thaw_error *e)
{
    int r = limit_dirty(l, dirty_percent, e);

    if (r < 0 || write_bytes_per_s == 0)
        return r;
    return limit_writes(l, write_bytes_per_s, e);
}

/* The switch is the host's. One device at a time holds it, or the first to go would turn it off for
 * the second, which would then leave it on. */
int capped_limits_count_delays(struct capped_limits *l, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(DELAYACCT, O_RDONLY | O_CLOEXEC);
    int r;

    if (fd < 0 && errno == ENOENT)
        return 0;
    while ((r = fd < 0 ? -1 : flock(fd, LOCK_EX)) < 0 && errno == EINTR)
        ;
    if (r < 0)
        return err_errno(e, -errno, DELAYACCT);
    l->delayacct_lock = TAKE_FD(fd);
    r = set_value(DELAYACCT, "1", l->delayacct);
    return r < 0 ? err_errno(e, r, DELAYACCT) : 0;
}

bool capped_limits_undo(struct capped_limits *l)
{
    char path[PATH_MAX];
    bool ok = undo_rule(l);

    ok = undo_group(l) && ok;
    ok = undo_value(bdi_path(l, "strict_limit", path), l->strict_limit) && ok;
    ok = undo_value(bdi_path(l, "max_ratio", path), l->max_ratio) && ok;
    ok = undo_value(DELAYACCT, l->delayacct) && ok;
    close_fd(&l->delayacct_lock);
    return ok;
}
