/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/memory_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/units.h"

#define SMALL_BYTES 4096        /* more than a file of one number has, or /proc/meminfo */
#define LARGE_BYTES (256 * KIB) /* of mountinfo or memory.stat; what follows is not looked at */

/* What version 1 says for "no limit": LONG_MAX rounded down to a page, of whatever size. */
#define V1_UNLIMITED (UINT64_C(1) << 62)

/* --- texts --- */

static const char *next_line(const char *line)
{
    line = strchrnul(line, '\n');
    return *line ? line + 1 : line;
}

/* What follows @prefix at the beginning of a line; NULL if no line begins with it. */
static const char *find_line(const char *text, const char *prefix)
{
    for (; *text; text = next_line(text)) {
        if (strncmp(text, prefix, strlen(prefix)) == 0)
            return text + strlen(prefix);
    }
    return NULL;
}

/* A decimal number, and where it ends; strtoull(3) would take signs. */
static int parse_number(const char *text, uint64_t *ret, const char **ret_end)
{
    char *end;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    *ret_end = end;
    return errno == 0 ? 0 : -EINVAL;
}

int memory_parse_available(const char *meminfo, uint64_t *ret)
{
    const char *text = find_line(meminfo, "MemAvailable:"), *end;
    uint64_t kib;

    if (!text)
        return -ENOENT;
    if (parse_number(text + strspn(text, " "), &kib, &end) < 0 || strncmp(end, " kB", 3) != 0 ||
        kib > UINT64_MAX / KIB)
        return -EINVAL;
    *ret = kib * KIB;
    return 0;
}

int memory_parse_bytes(const char *text, uint64_t *ret)
{
    uint64_t bytes = MEMORY_UNLIMITED;
    const char *end;

    if (strncmp(text, "max", 3) == 0)
        end = text + 3;
    else if (parse_number(text, &bytes, &end) < 0)
        return -EINVAL;
    if (end[strspn(end, "\n")] != '\0')
        return -EINVAL;
    *ret = bytes;
    return 0;
}

int memory_parse_stat(const char *stat, const char *key, uint64_t *ret)
{
    const char *text, *end;
    char prefix[64];
    uint64_t value;

    snprintf(prefix, sizeof(prefix), "%s ", key);
    text = find_line(stat, prefix);
    if (!text)
        return -ENOENT;
    if (parse_number(text, &value, &end) < 0 || (*end != '\n' && *end != '\0'))
        return -EINVAL;
    *ret = value;
    return 0;
}

/* Whether @word is one of those in @list, which a comma separates and a ' ', ':' or '\n' ends. */
static bool in_list(const char *list, const char *word)
{
    for (;;) {
        size_t len = strcspn(list, ",: \n");

        if (len == strlen(word) && strncmp(list, word, len) == 0)
            return true;
        if (list[len] != ',')
            return false;
        list += len + 1;
    }
}

/* The path of the group, in the line "ID:CONTROLLERS:PATH"; as long as the line. */
static const char *find_group(const char *cgroup, bool v1)
{
    for (; *cgroup; cgroup = next_line(cgroup)) {
        size_t id = strcspn(cgroup, ":\n");
        const char *list = cgroup + id + 1, *path;

        if (cgroup[id] != ':')
            continue;
        path = list + strcspn(list, ":\n");
        if (path[0] != ':' || path[1] != '/')
            continue;
        if (v1 ? in_list(list, "memory") : list == path && id == 1 && cgroup[0] == '0')
            return path + 1;
    }
    return NULL;
}

/* Copies a word of mountinfo, which ends with a space; "\040" is one: proc_pid_mountinfo(5). */
static int copy_word(const char *word, char ret[PATH_MAX])
{
    size_t n = 0;

    for (; *word && *word != ' ' && *word != '\n'; word++) {
        if (n + 1 == PATH_MAX)
            return -ENAMETOOLONG;
        ret[n] = *word;
        if (word[0] == '\\' && word[1] >= '0' && word[1] <= '3' && word[2] >= '0' &&
            word[2] <= '7' && word[3] >= '0' && word[3] <= '7') {
            ret[n] = (char)((word[1] - '0') << 6 | (word[2] - '0') << 3 | (word[3] - '0'));
            word += 3;
        }
        n++;
    }
    ret[n] = '\0';
    return n > 0 ? 0 : -EINVAL;
}

static const char *skip_words(const char *text, unsigned n)
{
    while (n-- > 0) {
        text += strcspn(text, " \n");
        text += *text == ' ';
    }
    return text;
}

/* Whether a line of mountinfo is the hierarchy that is looked for. */
static bool is_hierarchy(const char *line, bool v1)
{
    const char *dash = strstr(line, " - ");
    const char *type;

    if (!dash || dash > strchrnul(line, '\n'))
        return false;
    type = dash + 3;
    if (!v1)
        return strncmp(type, "cgroup2 ", 8) == 0;
    return strncmp(type, "cgroup ", 7) == 0 && in_list(skip_words(type, 2), "memory");
}

/* Takes @root, which is what of the hierarchy is mounted, away from the front of @path. */
static void make_relative(char *path, const char *root)
{
    size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);

    if (strncmp(path, root, n) != 0 || (path[n] != '/' && path[n] != '\0') ||
        strncmp(path, "/..", 3) == 0)
        path[0] = '\0';
    else
        memmove(path, path + n, strlen(path + n) + 1);
    if (strcmp(path, "/") == 0)
        path[0] = '\0';
}

int memory_parse_group(const char *cgroup, const char *mountinfo, struct memory_group *ret)
{
    char root[PATH_MAX];
    const char *path = find_group(cgroup, true);
    size_t len;

    ret->v1 = path != NULL;
    if (!path)
        path = find_group(cgroup, false);
    len = path ? strcspn(path, "\n") : 0;
    if (!path || len >= PATH_MAX)
        return -ENOENT;
    memcpy(ret->path, path, len);
    ret->path[len] = '\0';
    for (; *mountinfo; mountinfo = next_line(mountinfo)) {
        if (!is_hierarchy(mountinfo, ret->v1))
            continue;
        if (copy_word(skip_words(mountinfo, 3), root) < 0 ||
            copy_word(skip_words(mountinfo, 4), ret->mount) < 0)
            continue;
        make_relative(ret->path, root);
        return 0;
    }
    return -ENOENT;
}

/* --- files --- */

/* Reads at most @len - 1 bytes of a file of procfs or cgroupfs, which have no size. */
static int read_text(const char *path, char *ret, size_t len)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = file_read_at(fd, ret, len - 1, 0);
    if (n < 0)
        return (int)n;
    ret[n] = '\0';
    return 0;
}

static int join(char ret[PATH_MAX], const char *folder, const char *name)
{
    int n = snprintf(ret, PATH_MAX, "%s/%s", folder, name);

    return n >= 0 && n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int read_bytes(const char *folder, const char *name, uint64_t *ret)
{
    char path[PATH_MAX], text[SMALL_BYTES] = "";
    int r = join(path, folder, name);

    if (r == 0)
        r = read_text(path, text, sizeof(text));
    return r < 0 ? r : memory_parse_bytes(text, ret);
}

/* Page cache that the kernel takes back first. */
static uint64_t read_inactive(const char *folder, bool v1, char *text)
{
    char path[PATH_MAX];
    uint64_t bytes = 0;

    if (join(path, folder, "memory.stat") < 0 || read_text(path, text, LARGE_BYTES) < 0 ||
        memory_parse_stat(text, v1 ? "total_inactive_file" : "inactive_file", &bytes) < 0)
        return 0;
    return bytes;
}

/* What one limit of the group at @folder leaves, if that is the least so far. */
static void apply(const char *folder, const char *name, uint64_t used, struct memory_limit *l)
{
    uint64_t limit, left;

    if (read_bytes(folder, name, &limit) < 0 || limit >= V1_UNLIMITED)
        return;
    left = limit > used ? limit - used : 0;
    if (left < l->left_bytes && join(l->limiter, folder, name) == 0)
        l->left_bytes = left;
}

static void apply_group(const char *folder, bool v1, char *text, struct memory_limit *l)
{
    uint64_t used, inactive;

    if (read_bytes(folder, v1 ? "memory.usage_in_bytes" : "memory.current", &used) < 0)
        return; /* the root of version 2 has neither usage nor limits */
    inactive = read_inactive(folder, v1, text);
    used -= MIN(used, inactive);
    if (v1) {
        apply(folder, "memory.limit_in_bytes", used, l);
    } else {
        apply(folder, "memory.max", used, l);
        apply(folder, "memory.high", used, l);
    }
}

/* The folder of the group; *@ret_mount_len: how much of it is the mount. */
static int find_folder(const char *root, char *text, bool *ret_v1, size_t *ret_mount_len,
                       char ret[PATH_MAX])
{
    char *cgroup CLEANUP_FREE = malloc(LARGE_BYTES);
    struct memory_group *group CLEANUP_FREE = malloc(sizeof(*group));
    char path[PATH_MAX];
    int n, r;

    if (!cgroup || !group)
        return -ENOMEM;
    r = join(path, root, "proc/self/cgroup");
    if (r == 0)
        r = read_text(path, cgroup, LARGE_BYTES);
    if (r == 0)
        r = join(path, root, "proc/self/mountinfo");
    if (r == 0)
        r = read_text(path, text, LARGE_BYTES);
    if (r == 0)
        r = memory_parse_group(cgroup, text, group);
    if (r < 0)
        return r;
    n = snprintf(ret, PATH_MAX, "%s%s%s", root, group->mount, group->path);
    if (n < 0 || n >= PATH_MAX)
        return -ENAMETOOLONG;
    *ret_v1 = group->v1;
    *ret_mount_len = strlen(root) + strlen(group->mount);
    return 0;
}

int memory_group_folder(const char *root, char ret[PATH_MAX])
{
    char *text CLEANUP_FREE = malloc(LARGE_BYTES);
    size_t mount_len;
    bool v1;
    int r = text ? find_folder(root, text, &v1, &mount_len, ret) : -ENOMEM;

    return r == 0 && v1 ? -ENOENT : r;
}

void memory_limit_read(const char *root, struct memory_limit *ret)
{
    char *text CLEANUP_FREE = malloc(LARGE_BYTES);
    char folder[PATH_MAX];
    size_t mount_len;
    bool v1;

    *ret = (struct memory_limit){.left_bytes = MEMORY_UNLIMITED};
    if (!text)
        return;
    if (join(folder, root, "proc/meminfo") == 0 && read_text(folder, text, LARGE_BYTES) == 0 &&
        memory_parse_available(text, &ret->available_bytes) < 0)
        ret->available_bytes = 0;
    if (find_folder(root, text, &v1, &mount_len, folder) < 0)
        return;
    for (;;) {
        apply_group(folder, v1, text, ret);
        if (strlen(folder) <= mount_len)
            return;
        *strrchr(folder, '/') = '\0';
    }
}
