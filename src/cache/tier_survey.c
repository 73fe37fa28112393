/* SPDX-License-Identifier: Apache-2.0 */

/* What is in the folder of the disk tier, and the removal of what nobody has open. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hex.h"
#include "cache/tier_internal.h"

#define SUFFIX_LEN 5  /* ".data", ".sums" */
#define ORIGIN_LEN 17 /* ".0123456789abcdef" */
#define UUID_LEN   (UUID_TEXT_BYTES - 1)

struct found {
    char stem[TIER_FILE_NAME_BYTES]; /* of a pair of files; empty: none */
    struct timespec used;
};

/* --- names --- */

static bool is_origin(const char *text)
{
    if (*text++ != '.')
        return false;
    for (unsigned i = 1; i < ORIGIN_LEN; i++) {
        if (hex_value(*text++) < 0)
            return false;
    }
    return true;
}

/* Whether tier_file_open() gives such names: anything else in the folder is not ours. */
static bool is_ours(const char *name)
{
    size_t len = strlen(name);
    char id[UUID_TEXT_BYTES];
    struct uuid build;

    if (len <= UUID_LEN + 1 + ORIGIN_LEN + SUFFIX_LEN || len >= TIER_FILE_NAME_BYTES)
        return false;
    snprintf(id, sizeof(id), "%.*s", (int)UUID_LEN, name);
    return uuid_parse(id, &build) == 0 && name[UUID_LEN] == '.' &&
           is_origin(name + len - SUFFIX_LEN - ORIGIN_LEN) &&
           (strcmp(name + len - SUFFIX_LEN, ".data") == 0 ||
            strcmp(name + len - SUFFIX_LEN, ".sums") == 0);
}

static void set_stem(char stem[TIER_FILE_NAME_BYTES], const char *name)
{
    snprintf(stem, TIER_FILE_NAME_BYTES, "%.*s", (int)(strlen(name) - SUFFIX_LEN), name);
}

static void name_of(char ret[TIER_FILE_NAME_BYTES], const char *stem, const char *suffix)
{
    snprintf(ret, TIER_FILE_NAME_BYTES, "%.*s%s", TIER_FILE_NAME_BYTES - 1 - SUFFIX_LEN, stem,
             suffix);
}

/* --- the survey --- */

uint64_t tier_blocks(const struct tier *t, const char *name)
{
    struct stat st;

    if (fstatat(t->files, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
        return 0;
    return (uint64_t)st.st_blocks * 512;
}

static bool is_older(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

/* Sums alone are of no use to anybody, and go before everything else. */
static struct timespec used_at(const struct tier *t, const char *stem)
{
    char name[TIER_FILE_NAME_BYTES];
    struct stat st;

    name_of(name, stem, ".data");
    if (fstatat(t->files, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return (struct timespec){0};
    return st.st_mtim;
}

static void consider(const struct tier *t, const char *name, struct found *oldest)
{
    char stem[TIER_FILE_NAME_BYTES];
    struct timespec used;

    set_stem(stem, name);
    used = used_at(t, stem);
    if (oldest->stem[0] == '\0' || is_older(&used, &oldest->used)) {
        oldest->used = used;
        memcpy(oldest->stem, stem, sizeof(stem));
    }
}

/* Returns what that gave back. */
static uint64_t remove_one(struct tier *t, const char *stem, const char *suffix, bool *done)
{
    char name[TIER_FILE_NAME_BYTES];
    uint64_t bytes;

    name_of(name, stem, suffix);
    bytes = tier_blocks(t, name);
    if (unlinkat(t->files, name, 0) < 0)
        return 0;
    *done = true;
    return bytes;
}

/* The sums go first: without them the data is nothing. */
static bool remove_pair(struct tier *t, const char *stem, uint64_t *bytes)
{
    bool done = false;
    uint64_t given = remove_one(t, stem, ".sums", &done) + remove_one(t, stem, ".data", &done);

    *bytes -= MIN(given, *bytes);
    tier_count(&t->evicted_bytes, given);
    return done;
}

bool tier_survey(struct tier *t, bool remove_oldest)
{
    int fd = openat(t->files, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct found oldest = {0};
    const struct dirent *entry;
    uint64_t bytes = 0;
    bool removed = false;

    if (!dir) {
        close_fd(&fd);
        return false;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (!is_ours(entry->d_name) || tier_is_open(t, entry->d_name))
            continue;
        bytes += tier_blocks(t, entry->d_name);
        consider(t, entry->d_name, &oldest);
    }
    closedir(dir);
    if (remove_oldest && oldest.stem[0] != '\0')
        removed = remove_pair(t, oldest.stem, &bytes);
    atomic_store_explicit(&t->shut_bytes, (int64_t)bytes, memory_order_relaxed);
    return removed;
}
