/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_REPORT_H
#define THAW_BENCH_REPORT_H

/* What a benchmark has measured: figures by row and contender, one sample a round. One thread. */

#include <stdbool.h>
#include <stddef.h>

#define REPORT_ROWS    16
#define REPORT_FIGURES 6
#define REPORT_ROUNDS  64

enum contender { FLOOR, THAW, CONTENDERS };

/* One quantity, in all rounds, of both contenders. */
struct report_figure {
    const char *name; /* static: "p50_us" */
    double samples[CONTENDERS][REPORT_ROUNDS];
    size_t rounds[CONTENDERS];
};

struct report_row {
    char name[64];
    struct report_figure figures[REPORT_FIGURES];
    size_t figure_count;
};

/* A bar: the worst median ratio of a figure over the rows. */
struct report_ratio {
    const char *name;   /* static: "p50_over_floor" */
    const char *figure; /* which one */
    double bar;         /* what it should be */
    bool at_least;      /* or at most */
    const char *rows;   /* prefix of the rows that count, "" for all */
};

struct bench_report {
    const char *bench;
    struct report_row rows[REPORT_ROWS];
    size_t row_count;
    const struct report_ratio *ratios;
    size_t ratio_count;
};

/** report_add() - one sample; rows and figures come into being when they are first named */
void report_add(struct bench_report *r, const char *row, const char *figure, enum contender who,
                double value);

/** report_print() - a table for a person, or one JSON line; 0 or -EIO */
[[gnu::warn_unused_result]] int report_print(const struct bench_report *r, bool json);

#endif
