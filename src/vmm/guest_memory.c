/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/guest_memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/units.h"
#include "image/source.h"

#define SOURCE_NAME     "the guest's memory"
#define SMAPS_MAX_BYTES (64 * MIB)

/* The head of one mapping's entry; false for any other line. */
static bool parse_head(const char *line, struct guest_mapping *ret, char access[5])
{
    unsigned long long start, end, offset, inode;
    unsigned major, minor;

    if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu", &start, &end, access, &offset, &major, &minor,
               &inode) != 7)
        return false;
    *ret = (struct guest_mapping){.start = start,
                                  .end = end,
                                  .file_offset = offset,
                                  .major = major,
                                  .minor = minor,
                                  .inode = inode};
    return true;
}

static bool continues(const struct guest_mapping *a, const struct guest_mapping *b)
{
    return b->start == a->end && b->major == a->major && b->minor == a->minor &&
           b->inode == a->inode && b->file_offset == a->file_offset + (a->end - a->start);
}

struct search {
    struct guest_mapping run; /* the pieces that end where the last line was; start == end: none */
    uint64_t size_bytes;
    struct guest_mapping *ret;
    size_t found;
};

static void finish_run(struct search *s)
{
    if (s->run.end - s->run.start == s->size_bytes && s->found++ == 0)
        *s->ret = s->run;
    s->run = (struct guest_mapping){0};
}

static void take_line(struct search *s, const char *line)
{
    struct guest_mapping m;
    char access[5];

    if (parse_head(line, &m, access)) {
        bool shared = access[0] == 'r' && access[1] == 'w' && access[3] == 's';

        if (shared && continues(&s->run, &m)) {
            s->run.end = m.end;
            return;
        }
        finish_run(s);
        if (shared)
            s->run = m;
    } else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " um")) {
        s->run.served = true; /* "uffd missing": fs/proc/task_mmu.c in Linux */
    }
}

size_t guest_mapping_parse(const char *text, size_t len, uint64_t size_bytes,
                           struct guest_mapping *ret)
{
    struct search s = {.size_bytes = size_bytes, .ret = ret};
    const char *end = text + len;
    char line[256];

    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline ? newline : end;
        size_t n = MIN((size_t)(line_end - text), sizeof(line) - 1); /* a name may be longer */

        memcpy(line, text, n);
        line[n] = '\0';
        take_line(&s, line);
        text = newline ? newline + 1 : end;
    }
    finish_run(&s);
    return s.found;
}

/* A file of procfs, which has no size. */
static int load_proc_file(pid_t pid, const char *name, struct buf *ret)
{
    char path[64];
    int fd CLEANUP_FD = -1;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (;;) {
        uint8_t *space = buf_extend(ret, 64 * KIB);
        ssize_t n = space ? read(fd, space, 64 * KIB) : -1;
        int r = space ? -errno : -ENOMEM;

        if (space)
            ret->len -= 64 * KIB - (n > 0 ? (size_t)n : 0);
        if (n == 0)
            return 0;
        if (n < 0)
            return r;
        if (ret->len > SMAPS_MAX_BYTES)
            return -EFBIG;
    }
}

int guest_mapping_find(pid_t pid, uint64_t size_bytes, struct guest_mapping *ret,
                       struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = load_proc_file(pid, "smaps", &text);
    size_t found;

    if (r < 0)
        return err_errno(e, r, "looking at the mappings of process %d", (int)pid);
    found = guest_mapping_parse((const char *)text.data, text.len, size_bytes, ret);
    if (found != 1)
        return err_set(e, -ENOENT,
                       "process %d has %zu shared mappings of %llu bytes, the size of its guest's "
                       "memory, and should have one",
                       (int)pid, found, (unsigned long long)size_bytes);
    return 0;
}

/* The file behind the mapping: by its entry in map_files, which not everybody may open, or among
 * the process's descriptors. -1 when it cannot be had. */
static int open_file(pid_t pid, const struct guest_mapping *m)
{
    char path[64];
    struct dirent *entry;
    DIR *dir;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", (int)pid,
             (unsigned long long)m->start, (unsigned long long)m->end);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    while (dir && fd < 0 && (entry = readdir(dir)) != NULL) {
        struct stat st;

        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
            st.st_ino == m->inode && major(st.st_dev) == m->major && minor(st.st_dev) == m->minor)
            fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
    }
    if (dir)
        closedir(dir);
    return fd;
}

/* Reading through the process. */

struct peer {
    pid_t pid;
    uint64_t start;
};

static bool peer_next_data(const struct source *s, uint64_t from, uint64_t *ret_start,
                           uint64_t *ret_end)
{
    *ret_start = from;
    *ret_end = s->size_bytes;
    return from < s->size_bytes;
}

static int peer_failure(const struct source *s, uint64_t offset, int code, struct thaw_error *e)
{
    switch (code) {
    case -ESRCH:
        return err_set(e, code, "QEMU ended while %s was read", s->path);
    case -EFAULT:
        return err_set(e, code,
                       "%s cannot be read at byte %llu: whoever serves it has no such page",
                       s->path, (unsigned long long)offset);
    case -EPERM:
        return err_set(e, code,
                       "%s may not be read: be root, or have CAP_SYS_PTRACE, or be QEMU's user "
                       "where the sysctl kernel.yama.ptrace_scope is 0",
                       s->path);
    default:
        return err_errno(e, code, "reading %s at byte %llu", s->path, (unsigned long long)offset);
    }
}

static int peer_read(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
                     struct thaw_error *e)
{
    const struct peer *p = s->impl;

    while (len_bytes > 0) {
        struct iovec to = {.iov_base = buf, .iov_len = len_bytes};
        struct iovec from = {.iov_base = (void *)(uintptr_t)(p->start + offset),
                             .iov_len = len_bytes};
        ssize_t n = process_vm_readv(p->pid, &to, 1, &from, 1, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return peer_failure(s, offset, n < 0 ? -errno : -EFAULT, e);
        buf = (char *)buf + n;
        offset += (uint64_t)n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

static void peer_close(struct source *s)
{
    free(s->impl);
}

static const struct source_ops peer_ops = {
    .next_data = peer_next_data,
    .read = peer_read,
    .close = peer_close,
};

int guest_memory_open(pid_t pid, const struct guest_mapping *m, struct source *ret,
                      struct thaw_error *e)
{
    int fd = m->served || m->file_offset != 0 ? -1 : open_file(pid, m);
    struct peer *p;

    if (fd >= 0) {
        source_of_fd(fd, SOURCE_NAME, m->end - m->start, ret);
        return 0;
    }
    p = malloc(sizeof(*p));
    if (!p)
        return err_set(e, -ENOMEM, "no memory for a source");
    *p = (struct peer){.pid = pid, .start = m->start};
    *ret = (struct source){
        .ops = &peer_ops, .path = SOURCE_NAME, .size_bytes = m->end - m->start, .impl = p};
    return 0;
}
