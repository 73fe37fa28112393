/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/huge_pages.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"

#define THP_FILE      "/sys/kernel/mm/transparent_hugepage/enabled"
#define THP_2M_FILE   "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled"
#define HUGETLB_FREE  "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
#define HUGETLB_EXTRA "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages"

static const char *const names[HUGE_PAGES_KINDS] = {
    [HUGE_PAGES_OFF] = "off",
    [HUGE_PAGES_THP] = "thp",
    [HUGE_PAGES_HUGETLB] = "hugetlb",
};

const char *huge_pages_name(enum huge_pages kind)
{
    return names[kind];
}

int huge_pages_parse(const char *name, enum huge_pages *ret)
{
    for (unsigned i = 0; i < HUGE_PAGES_KINDS; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum huge_pages)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* --- whether there are any --- */

/* The first line of a small file; false if it cannot be read. */
static bool read_line(const char *root, const char *path, char ret[256])
{
    char name[PATH_MAX];
    FILE *f;
    bool found;

    snprintf(name, sizeof(name), "%s%s", root, path);
    f = fopen(name, "re");
    found = f && fgets(ret, 256, f);
    if (f)
        fclose(f);
    return found;
}

/* "always inherit [never]": whether @choice is the one in brackets. */
static bool is_chosen(const char *line, const char *choice)
{
    const char *at = strchr(line, '[');
    size_t n = strlen(choice);

    return at && strncmp(at + 1, choice, n) == 0 && at[n + 1] == ']';
}

/* Kernels since 6.8 have a switch for each size, which may leave it to the one for all sizes. */
static bool thp_missing(const char *root, char why[HUGE_PAGES_WHY_BYTES])
{
    char all[256], size[256];
    const char *file = THP_FILE, *word = NULL;

    if (!read_line(root, THP_FILE, all)) {
        snprintf(why, HUGE_PAGES_WHY_BYTES, "this kernel has none: there is no %s", THP_FILE);
        return true;
    }
    if (read_line(root, THP_2M_FILE, size) && !is_chosen(size, "inherit")) {
        file = THP_2M_FILE;
        word = is_chosen(size, "never") ? "never" : NULL;
    } else if (is_chosen(all, "never")) {
        word = "never";
    }
    if (word)
        snprintf(why, HUGE_PAGES_WHY_BYTES, "%s is %s; write \"madvise\" to it", file, word);
    return word != NULL;
}

static uint64_t read_number(const char *root, const char *path)
{
    char line[256];

    return read_line(root, path, line) ? strtoull(line, NULL, 10) : 0;
}

static bool hugetlb_missing(const char *root, uint64_t bytes, char why[HUGE_PAGES_WHY_BYTES])
{
    uint64_t wanted = bytes / HUGE_PAGE_BYTES, unused = read_number(root, HUGETLB_FREE);
    uint64_t extra = read_number(root, HUGETLB_EXTRA);

    if (unused + extra >= wanted)
        return false;
    snprintf(why, HUGE_PAGES_WHY_BYTES,
             "%" PRIu64 " of 2 MiB are free and %" PRIu64 " are needed, the rest will be small "
             "pages; raise vm.nr_hugepages",
             unused + extra, wanted);
    return true;
}

bool huge_pages_missing(const char *root, enum huge_pages kind, uint64_t bytes,
                        char why[HUGE_PAGES_WHY_BYTES])
{
    if (kind == HUGE_PAGES_OFF)
        return false;
    return kind == HUGE_PAGES_THP ? thp_missing(root, why) : hugetlb_missing(root, bytes, why);
}

/* --- how many are mapped --- */

uint64_t huge_pages_mapped(const char *start, const char *end)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    unsigned long from, to, kib;
    uint64_t bytes = 0;
    bool inside = false;
    char line[PATH_MAX + 256];

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from >= (uintptr_t)start && to <= (uintptr_t)end;
        else if (inside && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
            bytes += kib * KIB;
    }
    fclose(f);
    return bytes;
}
