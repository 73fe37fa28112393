/* SPDX-License-Identifier: Apache-2.0 */

/* Command lines: one table per verb is both the parser and the help. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 32

static void print_help(const struct verb_spec *spec)
{
    printf("usage: thaw %s\n\n%s\n\noptions:\n", spec->usage, spec->about);
    for (const struct option_spec *o = spec->options; o->name; o++) {
        char left[64];

        snprintf(left, sizeof(left), "--%s%s%s", o->name, o->metavar ? " " : "",
                 o->metavar ? o->metavar : "");
        printf("  %-26s %s\n", left, o->help);
    }
    printf("  %-26s %s\n", "--help", "print this help");
}

static void to_getopt(const struct option_spec *specs, struct option *ret)
{
    size_t n = 0;

    for (; specs->name && n < MAX_OPTIONS; specs++)
        ret[n++] = (struct option){specs->name, specs->metavar ? required_argument : no_argument,
                                   NULL, specs->key};
    ret[n++] = (struct option){"help", no_argument, NULL, OPTION_HELP};
    ret[n] = (struct option){0};
}

int parse_options(const struct verb_spec *spec, int argc, char **argv,
                  int (*take)(void *arg, int key, const char *value), void *arg, int *ret_first)
{
    struct option options[MAX_OPTIONS + 2];
    int key;

    to_getopt(spec->options, options);
    optind = 1;
    opterr = 0;
    while ((key = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        switch (key) {
        case OPTION_HELP:
            print_help(spec);
            return EXIT_OK;
        case ':':
            return usage_error(spec, "option %s needs a value", argv[optind - 1]);
        case '?':
            return usage_error(spec, "unknown option %s", argv[optind - 1]);
        default:
            if (take(arg, key, optarg) < 0)
                return EXIT_USAGE;
        }
    }
    *ret_first = optind;
    return -1;
}

int usage_error(const struct verb_spec *spec, const char *fmt, ...)
{
    va_list ap;

    fputs("thaw: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: thaw %s\nTry --help.\n", spec->usage);
    return EXIT_USAGE;
}

int strings_add(struct strings *s, const char *value)
{
    const char **list = realloc(s->list, (s->count + 2) * sizeof(*list));

    if (!list) {
        fputs("thaw: no memory for the command line\n", stderr);
        return -1;
    }
    s->list = list;
    s->list[s->count++] = value;
    s->list[s->count] = NULL;
    return 0;
}
