/* SPDX-License-Identifier: Apache-2.0 */

/* The command line of memory_client. */
#include "memory_client.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "base/units.h"

const char usage_text[] =
    "usage: memory_client --socket PATH --image FILE [option...]\n"
    "  --regions SIZE,SIZE...   regions of guest memory (default: 3/4 and 1/4 of the image)\n"
    "  --page-size BYTES        4096 (default) or 2097152\n"
    "  --threads N              threads that touch (default 4)\n"
    "  --order random|sequential, --seed N, --pages N   what is touched, in which order\n"
    "  --removes N              madvise(MADV_DONTNEED) calls meanwhile\n"
    "  --expect-errors          at least one page must raise SIGBUS, all others be right\n"
    "  --hold                   keep the VM after the result until SIGTERM or SIGINT\n"
    "  --legacy-close           close the socket after the hand-over\n"
    "  --die-at connect|sent|half   kill -9 itself there\n"
    "  --hang-seconds N         longest wait for one page (default 20)\n"
    "  --json                   result as one JSON object\n"
    "exit: 0 all bytes right, 1 wrong byte or refused, 2 usage, 3 hang, 77 not possible here\n";

static int parse_die_at(const char *text, enum die_at *ret)
{
    static const char *const names[] = {"never", "connect", "sent", "half"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(text, names[i])) {
            *ret = (enum die_at)i;
            return 0;
        }
    return -EINVAL;
}

static int parse_option(struct options *opt, int ch, const char *arg)
{
    switch (ch) {
    case 's':
        opt->socket = arg;
        return 0;
    case 'i':
        opt->image = arg;
        return 0;
    case 'r':
        opt->regions = arg;
        return 0;
    case 'z':
        return util_parse_size(arg, &opt->page_bytes);
    case 't':
        return util_parse_count(arg, THREADS_MAX, &opt->threads);
    case 'o':
        opt->sequential = !strcmp(arg, "sequential");
        return opt->sequential || !strcmp(arg, "random") ? 0 : -EINVAL;
    case 'e':
        return util_parse_count(arg, UINT64_MAX, &opt->seed);
    case 'p':
        return util_parse_count(arg, UINT32_MAX, &opt->pages);
    case 'm':
        return util_parse_count(arg, UINT32_MAX, &opt->removes);
    case 'd':
        return parse_die_at(arg, &opt->die_at);
    case 'g':
        return util_parse_count(arg, 3600, &opt->hang_seconds);
    default:
        return -EINVAL;
    }
}

int parse_command_line(struct options *opt, int argc, char **argv)
{
    int expect_errors = 0, hold = 0, legacy_close = 0, json = 0, ch;
    const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},
        {"image", required_argument, NULL, 'i'},
        {"regions", required_argument, NULL, 'r'},
        {"page-size", required_argument, NULL, 'z'},
        {"threads", required_argument, NULL, 't'},
        {"order", required_argument, NULL, 'o'},
        {"seed", required_argument, NULL, 'e'},
        {"pages", required_argument, NULL, 'p'},
        {"removes", required_argument, NULL, 'm'},
        {"die-at", required_argument, NULL, 'd'},
        {"hang-seconds", required_argument, NULL, 'g'},
        {"expect-errors", no_argument, &expect_errors, 1},
        {"hold", no_argument, &hold, 1},
        {"legacy-close", no_argument, &legacy_close, 1},
        {"json", no_argument, &json, 1},
        {0},
    };

    *opt = (struct options){.threads = 4, .seed = 1, .page_bytes = PAGE_BYTES, .hang_seconds = 20};
    while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (ch != 0 && parse_option(opt, ch, optarg) < 0)
            return -EINVAL;
    opt->expect_errors = expect_errors;
    opt->hold = hold;
    opt->legacy_close = legacy_close;
    opt->json = json;
    if (optind != argc || !opt->socket || !opt->image || opt->threads == 0)
        return -EINVAL;
    return 0;
}
