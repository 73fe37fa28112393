/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/footprint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "bench/cgroup.h"

#define GROUP_PREFIX "thaw-bench-"
#define FILES_MAX    256u

/* --- the group --- */

/* Groups of benchmarks that were killed; the kernel refuses for those that are in use. */
static void remove_stale_groups(const char *parent)
{
    DIR *dir = opendir(parent);
    const struct dirent *d;

    while (dir && (d = readdir(dir))) {
        char path[PATH_MAX + 256];

        if (strncmp(d->d_name, GROUP_PREFIX, strlen(GROUP_PREFIX)) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", parent, d->d_name);
        (void)rmdir(path);
    }
    if (dir)
        closedir(dir);
}

static void make_group(struct footprint *f)
{
    char root[256], own[1024], parent[sizeof(root) + sizeof(own)];

    if (cgroup_mount("cgroup", "memory", root, sizeof(root)) < 0 ||
        cgroup_of(getpid(), "memory", own, sizeof(own)) < 0)
        return;
    snprintf(parent, sizeof(parent), "%s%s", root, own);
    remove_stale_groups(parent);
    snprintf(f->group, sizeof(f->group), "%s/" GROUP_PREFIX "%d", parent, getpid());
    if (mkdir(f->group, 0755) < 0)
        f->group[0] = '\0';
}

static uint64_t group_number(const struct footprint *f, const char *name)
{
    char path[PATH_MAX + 64];
    unsigned long long n = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", f->group, name);
    file = fopen(path, "re");
    if (file && fscanf(file, "%llu", &n) != 1)
        n = 0;
    if (file)
        fclose(file);
    return n;
}

void footprint_join(const struct footprint *f)
{
    char path[PATH_MAX + 64];
    int fd CLEANUP_FD = -1;

    if (f->group[0] == '\0')
        return;
    snprintf(path, sizeof(path), "%s/cgroup.procs", f->group);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    (void)!write(fd, "0", 1);
}

/* Whether the process got there. */
static bool has_joined(const struct footprint *f)
{
    char own[1024];
    size_t n;

    if (f->group[0] == '\0' || cgroup_of(f->pid, "memory", own, sizeof(own)) < 0)
        return false;
    n = strlen(own);
    return strlen(f->group) >= n && strcmp(f->group + strlen(f->group) - n, own) == 0;
}

/* --- files --- */

/* Linux 6.5, as in linux/mman.h, which older headers have without it. */
struct cachestat_range_arg {
    uint64_t off, len; /* 0, 0: the whole file */
};

struct cachestat_pages {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

static int dirty_bytes(int fd, uint64_t *ret)
{
    struct cachestat_range_arg all = {0};
    struct cachestat_pages pages;

    if (syscall(SYS_cachestat, fd, &all, &pages, 0) < 0)
        return -errno;
    *ret = (pages.dirty + pages.writeback) * PAGE_BYTES;
    return 0;
}

/* What one look has seen. */
struct look {
    struct footprint *f;
    uint64_t memory_bytes, dirty_bytes;
    ino_t seen[FILES_MAX]; /* on the device */
    unsigned count;
};

static void add_dirty(struct look *l, int folder, const char *name, ino_t ino)
{
    int fd CLEANUP_FD = -1;
    uint64_t bytes = 0;
    int r;

    for (unsigned i = 0; i < l->count; i++) {
        if (l->seen[i] == ino)
            return;
    }
    if (l->count == FILES_MAX) {
        l->f->dirty_error = -EMFILE;
        return;
    }
    l->seen[l->count++] = ino;
    fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    r = fd < 0 ? -errno : dirty_bytes(fd, &bytes);
    if (r == 0)
        l->dirty_bytes += bytes;
    else if (r != -ENOENT)
        l->f->dirty_error = r;
}

/* The memfds and files among the descriptors of a process. */
static void look_at_open(struct look *l, DIR *dir)
{
    const struct dirent *d;

    while (dir && (d = readdir(dir))) {
        char target[16] = "";
        struct stat st;

        if (fstatat(dirfd(dir), d->d_name, &st, 0) < 0 || !S_ISREG(st.st_mode))
            continue;
        if (readlinkat(dirfd(dir), d->d_name, target, sizeof(target) - 1) > 0 &&
            strncmp(target, "/memfd:", 7) == 0)
            l->memory_bytes += (uint64_t)st.st_blocks * 512;
        else if (l->f->device && st.st_dev == l->f->device)
            add_dirty(l, dirfd(dir), d->d_name, st.st_ino);
    }
    if (dir)
        closedir(dir);
}

/* The files of a folder. */
static void look_at_files(struct look *l, DIR *dir)
{
    const struct dirent *d;

    while (dir && (d = readdir(dir))) {
        struct stat st;

        if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            add_dirty(l, dirfd(dir), d->d_name, st.st_ino);
    }
    if (dir)
        closedir(dir);
}

/* And of the folders in it, which have none themselves. */
static void look_at_folder(struct look *l, const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *d;

    look_at_files(l, opendir(path));
    while (dir && (d = readdir(dir))) {
        char below[PATH_MAX];

        if (d->d_name[0] != '.' &&
            snprintf(below, sizeof(below), "%s/%s", path, d->d_name) < (int)sizeof(below))
            look_at_files(l, opendir(below));
    }
    if (dir)
        closedir(dir);
}

static uint64_t anonymous_bytes(pid_t pid)
{
    unsigned long long kib = 0;
    char path[64], line[256];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f) && sscanf(line, "RssAnon: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib * KIB;
}

static struct look look(struct footprint *f)
{
    struct look l = {.f = f, .memory_bytes = anonymous_bytes(f->pid)};
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/fd", f->pid);
    look_at_open(&l, opendir(path));
    if (f->folder)
        look_at_folder(&l, f->folder);
    return l;
}

/* --- all of it --- */

void footprint_init(struct footprint *f, const char *device, const char *folder)
{
    struct stat st;

    *f = (struct footprint){.folder = folder};
    if (device && stat(device, &st) == 0)
        f->device = st.st_dev;
    make_group(f);
}

void footprint_idle(struct footprint *f, pid_t pid)
{
    f->pid = pid;
    if (!has_joined(f))
        footprint_finish(f);
    f->idle_bytes = f->group[0] ? group_number(f, "memory.usage_in_bytes") : look(f).memory_bytes;
}

void footprint_look(struct footprint *f)
{
    struct look l = look(f);

    f->dirty_bytes = MAX(f->dirty_bytes, l.dirty_bytes);
    f->peak_bytes = f->group[0] ? group_number(f, "memory.max_usage_in_bytes")
                                : MAX(f->peak_bytes, l.memory_bytes);
}

uint64_t footprint_peak(struct footprint *f)
{
    footprint_look(f);
    return f->peak_bytes - MIN(f->peak_bytes, f->idle_bytes);
}

const char *footprint_source(const struct footprint *f)
{
    return f->group[0] ? "cgroup v1" : "samples";
}

void footprint_finish(struct footprint *f)
{
    if (f->group[0])
        (void)rmdir(f->group);
    f->group[0] = '\0';
}
