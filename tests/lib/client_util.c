/* SPDX-License-Identifier: Apache-2.0 */
#include "client_util.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"

/* strtoull() takes signs and blanks, which nobody means on a command line. */
static int parse_number(const char *text, uint64_t *ret, const char **ret_end)
{
    char *end;
    unsigned long long v;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno != 0)
        return -ERANGE;
    *ret = v;
    *ret_end = end;
    return 0;
}

int util_parse_size(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "KMG";
    const char *end, *suffix;
    unsigned int shift = 0;
    uint64_t v;
    int r;

    r = parse_number(text, &v, &end);
    if (r < 0)
        return r;
    if (*end != '\0') {
        suffix = strchr(suffixes, toupper((unsigned char)*end));
        if (!suffix || end[1] != '\0')
            return -EINVAL;
        shift = 10 * (unsigned int)(suffix - suffixes + 1);
    }
    if (v == 0 || v > UINT64_MAX >> shift)
        return -EINVAL;
    *ret = v << shift;
    return 0;
}

int util_parse_count(const char *text, uint64_t max, uint64_t *ret)
{
    const char *end;
    uint64_t v;
    int r;

    r = parse_number(text, &v, &end);
    if (r < 0)
        return r;
    if (*end != '\0' || v > max)
        return -EINVAL;
    *ret = v;
    return 0;
}

uint32_t *util_page_order(uint32_t n, bool shuffle, uint64_t seed)
{
    struct rng rng = {.state = seed};
    uint32_t *order = calloc(n, sizeof(*order));

    if (!order)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n; shuffle && i > 1; i--) {
        uint32_t other = (uint32_t)rng_below(&rng, i), page = order[i - 1];

        order[i - 1] = order[other];
        order[other] = page;
    }
    return order;
}

int image_open(struct image *ret, const char *path)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_CLOEXEC);
    volatile char sink;
    struct stat st;
    char *map;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return -EINVAL;
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    for (uint64_t at = 0; at < (uint64_t)st.st_size; at += PAGE_BYTES)
        sink = map[at];
    (void)sink;
    ret->data = map;
    ret->bytes = (uint64_t)st.st_size;
    return 0;
}

static int compare_ns(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

void util_sort_ns(uint32_t *ns, size_t n)
{
    if (n > 0)
        qsort(ns, n, sizeof(*ns), compare_ns);
}

double util_percentile_us(const uint32_t *ns, size_t n, double q)
{
    if (n == 0)
        return 0;
    return ns[(size_t)((double)(n - 1) * q)] / (double)NS_PER_US;
}

uint32_t util_elapsed_ns(uint64_t from_ns)
{
    uint64_t ns = clock_now_ns() - from_ns;

    return (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
}
