/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_REPORT_H
#define THAW_BENCH_REPORT_H

/*
 * What a benchmark has measured: figures by row and contender, one sample a round. A benchmark
 * whose rows are contenders themselves adds everything as THAW's. One thread.
 */

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#define REPORT_ROWS    16
#define REPORT_FIGURES 24
#define REPORT_ROUNDS  64
#define REPORT_NOTES   32

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
    double bar;         /* what it should be; REPORT_NO_BAR: told to compare with */
    bool at_least;      /* or at most */
    const char *rows;   /* prefix of the rows that count, "" for all */
    /* NULL: thaw's over the floor's. A row's name: thaw's over thaw's of that row. "": no ratio. */
    const char *base;
};

#define REPORT_NO_BAR NAN

struct bench_report {
    const char *bench;
    struct report_row rows[REPORT_ROWS];
    size_t row_count;
    const struct report_ratio *ratios;
    size_t ratio_count;
    char skipped[300]; /* why nothing was measured; "" */
    json_t *facts;     /* owned: of the environment, besides the usual ones; NULL: none */
    char notes[REPORT_NOTES][160]; /* for a person */
    size_t note_count;
};

/** report_finish() - release what it has got; not @r itself */
void report_finish(struct bench_report *r);

/** report_add() - one sample; rows and figures come into being when they are first named */
void report_add(struct bench_report *r, const char *row, const char *figure, enum contender who,
                double value);

/** report_fact() - a number that holds for the whole run; for a person it is a note as well */
void report_fact(struct bench_report *r, const char *name, double value);

/** report_fact_text() - the same of a text */
void report_fact_text(struct bench_report *r, const char *name, const char *value);

/** report_note() - a line for a person. More than REPORT_NOTES are left out. */
[[gnu::format(printf, 2, 3)]] void report_note(struct bench_report *r, const char *fmt, ...);

/** report_median() - of thaw's samples, 0 if there are none */
double report_median(const struct bench_report *r, const char *row, const char *figure);

/** report_value() - what is compared with the bar; not a number if it was not measured */
double report_value(const struct bench_report *r, const struct report_ratio *ratio);

/** report_holds() - whether @value meets the bar, or there is none. What was not measured does not.
 */
bool report_holds(const struct report_ratio *ratio, double value);

/** report_print() - a table for a person, or one JSON line; 0 or -EIO */
[[gnu::warn_unused_result]] int report_print(const struct bench_report *r, bool json);

#endif
