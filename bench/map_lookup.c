/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "format/map.h"

/*
 * What a lookup in the map of an image costs: 1 million mappings over 500 builds, offsets at
 * random, beside the floor of one random read of an array as large as the one that is searched.
 * Each operation waits for the result of the one before it, as a page fault does. The contenders
 * take turns; the table shows the median of the rounds and their spread.
 *
 *   bench-map-lookup [--json]
 */

#define RUNS    1000000
#define BUILDS  500
#define LOOKUPS 2000000
#define ROUNDS  7

struct contender {
    const char *name;
    double ns[ROUNDS]; /* per operation */
};

struct image {
    struct map *map;
    uint32_t *floor; /* RUNS numbers */
    uint64_t zero;   /* is 0, which the compiler cannot know: ties an operation to the last one */
};

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* A number below @n from the upper bits of @random, without a division. */
static uint64_t below(uint64_t random, uint64_t n)
{
    return (uint64_t)((unsigned __int128)random * n >> 64);
}

static int make_image(struct image *image)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    uint64_t state = 88172645463325252;

    image->floor = malloc(RUNS * sizeof(*image->floor));
    if (!image->floor)
        return -1;
    for (uint32_t i = 0; i < RUNS; i++) {
        uint32_t pages = (uint32_t)(1 + below(next_random(&state), 16));
        /* The build differs from that before it, so that no two runs join. */
        uint16_t build = (uint16_t)(i % 2 + 2 * below(next_random(&state), BUILDS / 2));

        if (map_builder_add(&b, pages, build, (uint32_t)below(next_random(&state), 1 << 20)) < 0)
            return -1;
        image->floor[i] = (uint32_t)next_random(&state);
    }
    return map_builder_finish(&b, &image->map);
}

static double run_floor(const struct image *image)
{
    uint64_t state = 1, last = 0;
    uint64_t start = clock_now_ns();

    for (unsigned i = 0; i < LOOKUPS; i++)
        last = image->floor[below(next_random(&state) ^ (last & image->zero), RUNS)];
    return (double)(clock_now_ns() - start + (last & image->zero)) / LOOKUPS;
}

static double run_lookup(const struct image *image)
{
    uint64_t bytes = map_page_count(image->map) * PAGE_BYTES;
    uint64_t state = 1, last = 0;
    uint64_t start = clock_now_ns();

    for (unsigned i = 0; i < LOOKUPS; i++) {
        struct image_off off = {below(next_random(&state) ^ (last & image->zero), bytes)};
        struct map_extent x;

        if (map_lookup(image->map, off, &x) < 0)
            abort();
        last = x.storage.v;
    }
    return (double)(clock_now_ns() - start + (last & image->zero)) / LOOKUPS;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Afterwards the median is in the middle and the spread at the ends. */
static void sort_rounds(struct contender *c)
{
    qsort(c->ns, ROUNDS, sizeof(c->ns[0]), compare_doubles);
}

static void print_table(const struct contender *floor, const struct contender *lookup)
{
    const struct contender *rows[] = {floor, lookup};

    printf("%d mappings over %d builds, %d lookups, %d rounds\n", RUNS, BUILDS, LOOKUPS, ROUNDS);
    printf("%-12s %12s %20s\n", "", "ns/operation", "spread");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        printf("%-12s %12.1f %9.1f to %7.1f\n", rows[i]->name, rows[i]->ns[ROUNDS / 2],
               rows[i]->ns[0], rows[i]->ns[ROUNDS - 1]);
    printf("lookup_over_floor %.2f\n", lookup->ns[ROUNDS / 2] / floor->ns[ROUNDS / 2]);
}

static void print_json(const struct contender *floor, const struct contender *lookup)
{
    const struct contender *rows[] = {floor, lookup};

    printf("{\"bench\":\"map_lookup\",\"rows\":[");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        printf("%s{\"name\":\"%s\",\"ns\":%.2f,\"ns_min\":%.2f,\"ns_max\":%.2f}", i > 0 ? "," : "",
               rows[i]->name, rows[i]->ns[ROUNDS / 2], rows[i]->ns[0], rows[i]->ns[ROUNDS - 1]);
    printf("],\"ratios\":{\"lookup_over_floor\":%.3f},\"environment\":{\"mappings\":%d,"
           "\"builds\":%d,\"lookups\":%d,\"rounds\":%d}}\n",
           lookup->ns[ROUNDS / 2] / floor->ns[ROUNDS / 2], RUNS, BUILDS, LOOKUPS, ROUNDS);
}

int main(int argc, char **argv)
{
    struct contender floor = {.name = "random read"}, lookup = {.name = "lookup"};
    struct image image = {.zero = (uint64_t)(argc < 0)};

    if (argc > 2 || (argc == 2 && strcmp(argv[1], "--json") != 0)) {
        fprintf(stderr, "usage: %s [--json]\n", argv[0]);
        return 2;
    }
    if (make_image(&image) < 0) {
        fprintf(stderr, "no memory for the map\n");
        return 1;
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        floor.ns[i] = run_floor(&image);
        lookup.ns[i] = run_lookup(&image);
    }
    sort_rounds(&floor);
    sort_rounds(&lookup);
    if (argc == 2)
        print_json(&floor, &lookup);
    else
        print_table(&floor, &lookup);
    map_destroy(image.map);
    free(image.floor);
    return 0;
}
