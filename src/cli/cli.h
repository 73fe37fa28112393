/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_CLI_H
#define THAW_CLI_CLI_H

/*
 * What the verbs share. A verb parses its command line, calls the library, prints. It exits with 0
 * on success, 1 when it failed, 2 when the command line was wrong.
 */

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>

#include "thaw/thaw.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct verb {
    const char *name;
    const char *summary; /* one line, for `thaw --help` */
    int (*run)(int argc, char **argv);
};

int verb_bench(int argc, char **argv);
int verb_create(int argc, char **argv);
int verb_delete(int argc, char **argv);
int verb_export(int argc, char **argv);
int verb_inspect(int argc, char **argv);
int verb_list(int argc, char **argv);
int verb_resume(int argc, char **argv);

/**
 * struct option_spec - one option of a verb
 * @name: without the dashes
 * @metavar: what its value is called; NULL: it takes none
 * @help: one line
 * @key: what parse_options() hands to the verb; unique in the verb
 */
struct option_spec {
    const char *name;
    const char *metavar;
    const char *help;
    int key;
};

enum { OPTION_HELP = 1000 }; /* every verb has --help; handled by parse_options() */

/**
 * struct verb_spec - the command line of a verb
 * @usage: what follows "thaw "
 * @options: ends with an entry without name
 * @about: a paragraph for --help
 */
struct verb_spec {
    const char *usage;
    const char *about;
    const struct option_spec *options;
};

/**
 * parse_options() - call @take for each option of the command line
 * @take: returns 0, or -1 after it has complained
 * @ret_first: index of the first argument that is not an option
 *
 * Returns: -1 to go on, or the status to exit with (--help was asked for, or usage was wrong).
 */
int parse_options(const struct verb_spec *spec, int argc, char **argv,
                  int (*take)(void *arg, int key, const char *value), void *arg, int *ret_first);

/** fail() - print "thaw: TEXT" of @e on stderr; returns EXIT_FAILED */
int fail(const struct thaw_error *e);

/** warn() - print "thaw: TEXT" on stderr; @arg is not used */
void warn(void *arg, const char *text);

/** usage_error() - print a complaint and how to get help; returns EXIT_USAGE */
[[gnu::format(printf, 2, 3)]] int usage_error(const struct verb_spec *spec, const char *fmt, ...);

/** print_json() - one line on stdout, and flush it; takes the reference to @json */
struct json_t;
int print_json(struct json_t *json);

/** time_format() - "2026-08-01T12:34:56Z" into @ret, "-" for a time that is not one; returns @ret
 */
#define TIME_TEXT_BYTES 32
const char *time_format(int64_t seconds, char ret[TIME_TEXT_BYTES]);

/** A list of strings that grows; NULL-terminated. Zero-initialised is empty. */
struct strings {
    const char **list; /* owned; the strings are borrowed */
    size_t count;
};

/** strings_add() - 0 or -1 (no memory) */
int strings_add(struct strings *s, const char *value);

/** A progress bar on stderr: drawn on a terminal only, and only after half a second. */
struct progress {
    const char *what;
    unsigned long long start_ns;
    unsigned long long drawn_ns; /* 0: not yet */
};

void progress_start(struct progress *p, const char *what);
void progress_report(void *progress, uint64_t done_bytes, uint64_t total_bytes);
void progress_end(struct progress *p);

#endif
