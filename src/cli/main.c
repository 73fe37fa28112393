/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crash.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/cli.h"

static const struct verb verbs[] = {
    {"create", "make a build from raw files", verb_create},
    {"resume", "bring a build back to life", verb_resume},
    {"list", "list the builds of a store", verb_list},
    {"inspect", "show what a build consists of", verb_inspect},
    {"bench", "measure thaw beside the least that the kernel allows", verb_bench},
    {"export", "write a build as raw files", verb_export},
    {"delete", "remove a build that no other needs", verb_delete},
};

static void print_usage(FILE *to)
{
    fputs("usage: thaw VERB [OPTIONS]\n\n"
          "thaw resumes snapshots of microVMs, lazily, from an object store.\n\nverbs:\n",
          to);
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        fprintf(to, "  %-9s %s\n", verbs[i].name, verbs[i].summary);
    fputs("\noptions:\n"
          "  --help     print this help; `thaw VERB --help` tells more, and so does man thaw\n"
          "  --version  print the version\n",
          to);
}

int main(int argc, char **argv)
{
    if (getenv("THAW_DEBUG"))
        log_set_level(LOG_DEBUG);
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("thaw %s%s\n", THAW_VERSION, CRASH_POINTS ? " (crash points)" : "");
        return EXIT_OK;
    }
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "thaw: no verb is called '%s'\n\n", argv[1]);
    print_usage(stderr);
    return EXIT_USAGE;
}
