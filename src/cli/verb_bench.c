/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "base/size.h"
#include "bench/bench.h"
#include "cli/cli.h"

#define ROUNDS_MAX 50

enum key { ROUNDS, SIZE, BACKING, JSON, HTML };

static const struct option_spec options[] = {
    {"rounds", "N", "how often each contender runs (default 5)", ROUNDS},
    {"size", "SIZE", "of the image (throttle, bounded, restart)", SIZE},
    {"cache-backing", "B", "of thaw's caches (fault, populate; default memfd)", BACKING},
    {"json", NULL, "print a JSON object", JSON},
    {"html", "FILE", "draw what was measured (throttle)", HTML},
    {0},
};

static const struct verb_spec spec = {
    .usage = "bench NAME [OPTIONS]",
    .about = "Measures thaw beside the least program that could do the same here, in turn, and\n"
             "prints ratios. There are:\n"
             "  fault      a page fault on memory that is in the cache\n"
             "  populate   a whole image installed in the background\n"
             "  throttle   the stall of caches in files, and its cure; needs root\n"
             "  bounded    an image that is larger than the memory for it\n"
             "  restart    what a thaw that was killed has left for the next one",
    .options = options,
};

struct arguments {
    struct bench_options bench;
    bool backing_given;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;
    char *end;
    unsigned long n;

    switch (key) {
    case JSON:
        a->json = true;
        return 0;
    case HTML:
        a->bench.html = value;
        return 0;
    case SIZE:
        if (size_parse(value, &a->bench.size_bytes) == 0 && a->bench.size_bytes > 0)
            return 0;
        usage_error(&spec, "--size takes a number of bytes such as 256M, not '%s'", value);
        return -1;
    case BACKING:
        a->backing_given = true;
        if (cache_backing_parse(value, &a->bench.backing) == 0)
            return 0;
        usage_error(&spec, "--cache-backing takes memfd, tiered or file, not '%s'", value);
        return -1;
    default:
        break;
    }
    n = strtoul(value, &end, 10);
    if (*end != '\0' || n < 1 || n > ROUNDS_MAX) {
        usage_error(&spec, "--rounds takes a number from 1 to %d, not '%s'", ROUNDS_MAX, value);
        return -1;
    }
    a->bench.rounds = (unsigned)n;
    return 0;
}

int verb_bench(int argc, char **argv)
{
    struct arguments a = {.bench = {.rounds = 5}};
    struct thaw_error e = THAW_ERROR_INIT;
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);
    const struct bench *b;

    if (status >= 0)
        return status;
    if (first + 1 != argc)
        return usage_error(&spec, first == argc ? "which benchmark?" : "one benchmark at a time");
    b = bench_find(argv[first]);
    if (!b)
        return usage_error(&spec, "no benchmark is called '%s'", argv[first]);
    if ((a.bench.size_bytes && !b->sized) || (a.bench.html && !b->draws))
        return usage_error(&spec, "%s takes no --%s", b->name,
                           a.bench.size_bytes && !b->sized ? "size" : "html");
    if (a.backing_given && !b->backed)
        return usage_error(&spec, "%s takes no --cache-backing", b->name);
    return bench_run(b, &a.bench, a.json, &e) < 0 ? fail(&e) : EXIT_OK;
}
