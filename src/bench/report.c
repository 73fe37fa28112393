/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/report.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "base/units.h"

struct spread {
    double min, median, max;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct spread spread_of(const double *samples, size_t n)
{
    double sorted[REPORT_ROUNDS];

    if (n == 0)
        return (struct spread){0};
    memcpy(sorted, samples, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), by_value);
    return (struct spread){
        sorted[0], n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2, sorted[n - 1]};
}

/* Round by round, so that a machine that changes its speed changes both. */
static struct spread quotient(const struct report_figure *f, const struct report_figure *base,
                              enum contender base_who)
{
    double ratios[REPORT_ROUNDS];
    size_t n = MIN(f->rounds[THAW], base->rounds[base_who]), counted = 0;

    for (size_t i = 0; i < n; i++) {
        if (base->samples[base_who][i] > 0)
            ratios[counted++] = f->samples[THAW][i] / base->samples[base_who][i];
    }
    return spread_of(ratios, counted);
}

static struct spread ratio_of(const struct report_figure *f)
{
    return quotient(f, f, FLOOR);
}

static const struct report_figure *find_figure(const struct report_row *row, const char *name)
{
    for (size_t k = 0; k < row->figure_count; k++) {
        if (strcmp(row->figures[k].name, name) == 0)
            return &row->figures[k];
    }
    return NULL;
}

static const struct report_figure *find(const struct bench_report *r, const char *row,
                                        const char *figure)
{
    for (size_t i = 0; i < r->row_count; i++) {
        if (strcmp(r->rows[i].name, row) == 0)
            return find_figure(&r->rows[i], figure);
    }
    return NULL;
}

double report_median(const struct bench_report *r, const char *row, const char *figure)
{
    const struct report_figure *f = find(r, row, figure);

    return f ? spread_of(f->samples[THAW], f->rounds[THAW]).median : 0;
}

void report_finish(struct bench_report *r)
{
    json_decref(r->facts);
}

void report_note(struct bench_report *r, const char *fmt, ...)
{
    va_list ap;

    if (r->note_count == REPORT_NOTES)
        return;
    va_start(ap, fmt);
    vsnprintf(r->notes[r->note_count++], sizeof(r->notes[0]), fmt, ap);
    va_end(ap);
}

static void add_fact(struct bench_report *r, const char *name, json_t *value)
{
    if (!r->facts)
        r->facts = json_object();
    json_object_set_new(r->facts, name, value);
}

void report_fact(struct bench_report *r, const char *name, double value)
{
    add_fact(r, name, json_real(value));
    report_note(r, "%s %.1f", name, value);
}

void report_fact_text(struct bench_report *r, const char *name, const char *value)
{
    add_fact(r, name, json_string(value));
    report_note(r, "%s %s", name, value);
}

void report_add(struct bench_report *r, const char *row, const char *figure, enum contender who,
                double value)
{
    struct report_row *at = r->rows;
    struct report_figure *f;

    while (at < r->rows + r->row_count && strcmp(at->name, row) != 0)
        at++;
    if (at == r->rows + r->row_count) {
        assert(r->row_count < REPORT_ROWS);
        r->row_count++;
        snprintf(at->name, sizeof(at->name), "%s", row);
    }
    f = at->figures;
    while (f < at->figures + at->figure_count && strcmp(f->name, figure) != 0)
        f++;
    if (f == at->figures + at->figure_count) {
        assert(at->figure_count < REPORT_FIGURES);
        at->figure_count++;
        f->name = figure;
    }
    if (f->rounds[who] < REPORT_ROUNDS)
        f->samples[who][f->rounds[who]++] = value;
}

static double ratio_median(const struct bench_report *r, const struct report_ratio *ratio,
                           const struct report_figure *f)
{
    const struct report_figure *base;

    if (!ratio->base)
        return ratio_of(f).median;
    if (ratio->base[0] == '\0')
        return spread_of(f->samples[THAW], f->rounds[THAW]).median;
    base = find(r, ratio->base, ratio->figure);
    return base ? quotient(f, base, THAW).median : 0;
}

/* The worst row decides. */
double report_value(const struct bench_report *r, const struct report_ratio *ratio)
{
    double worst = NAN;

    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_row *row = &r->rows[i];
        const struct report_figure *f = find_figure(row, ratio->figure);
        double v;

        if (!f || strncmp(row->name, ratio->rows, strlen(ratio->rows)) != 0)
            continue;
        v = ratio_median(r, ratio, f);
        if (isnan(worst) || (ratio->at_least ? v < worst : v > worst))
            worst = v;
    }
    return worst;
}

bool report_holds(const struct report_ratio *ratio, double value)
{
    if (isnan(ratio->bar))
        return true;
    return ratio->at_least ? value >= ratio->bar : value <= ratio->bar;
}

/* Whether each row is a contender, and not thaw and a floor. */
static bool rows_compete(const struct bench_report *r)
{
    return r->row_count > 0 && r->rows[0].figures[0].rounds[FLOOR] == 0;
}

static void print_pairs(const struct bench_report *r)
{
    printf("%-30s %-18s %26s %26s %22s\n", "", "", "thaw (min median max)",
           "floor (min median max)", "thaw / floor");
    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_row *row = &r->rows[i];

        for (size_t k = 0; k < row->figure_count; k++) {
            const struct report_figure *f = &row->figures[k];
            struct spread t = spread_of(f->samples[THAW], f->rounds[THAW]);
            struct spread g = spread_of(f->samples[FLOOR], f->rounds[FLOOR]);
            struct spread x = ratio_of(f);

            printf("%-30s %-18s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f  %6.2f %6.2f %6.2f\n",
                   k == 0 ? row->name : "", f->name, t.min, t.median, t.max, g.min, g.median, g.max,
                   x.min, x.median, x.max);
        }
    }
}

static void print_line(const struct bench_report *r, const char *figure, const char *what,
                       size_t part)
{
    printf("%-22s", what);
    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_figure *f = find_figure(&r->rows[i], figure);
        struct spread s = f ? spread_of(f->samples[THAW], f->rounds[THAW]) : (struct spread){0};
        double parts[] = {s.median, s.min, s.max};

        printf(" %15.2f", parts[part]);
    }
    putchar('\n');
}

/* A column for each contender: medians, and of the first figure the spread as well. */
static void print_contenders(const struct bench_report *r)
{
    const struct report_row *first = &r->rows[0];

    printf("%-22s", "median");
    for (size_t i = 0; i < r->row_count; i++)
        printf(" %15s", r->rows[i].name);
    putchar('\n');
    for (size_t k = 0; k < first->figure_count; k++) {
        print_line(r, first->figures[k].name, first->figures[k].name, 0);
        if (k == 0) {
            print_line(r, first->figures[k].name, "  least", 1);
            print_line(r, first->figures[k].name, "  most", 2);
        }
    }
}

static void print_ratio(const struct bench_report *r, const struct report_ratio *ratio)
{
    double v = report_value(r, ratio);

    if (isnan(v))
        printf("  %-26s not measured\n", ratio->name);
    else if (isnan(ratio->bar))
        printf("  %-26s %8.2f\n", ratio->name, v);
    else
        printf("  %-26s %8.2f   %s %.2f%s\n", ratio->name, v,
               ratio->at_least ? "at least" : "at most", ratio->bar,
               report_holds(ratio, v) ? "" : "   NOT MET");
}

static void print_table(const struct bench_report *r)
{
    if (r->skipped[0]) {
        printf("%s: skipped: %s\n", r->bench, r->skipped);
        return;
    }
    if (rows_compete(r))
        print_contenders(r);
    else
        print_pairs(r);
    putchar('\n');
    for (size_t i = 0; i < r->note_count; i++)
        printf("  %s\n", r->notes[i]);
    if (r->note_count > 0)
        putchar('\n');
    for (size_t i = 0; i < r->ratio_count; i++)
        print_ratio(r, &r->ratios[i]);
}

static json_t *spread_json(struct spread s)
{
    return json_pack("{s:f, s:f, s:f}", "min", s.min, "median", s.median, "max", s.max);
}

static json_t *figure_json(const struct report_figure *f)
{
    json_t *thaw = spread_json(spread_of(f->samples[THAW], f->rounds[THAW]));
    int rounds = (int)f->rounds[THAW];

    if (f->rounds[FLOOR] == 0) {
        json_object_set_new(thaw, "rounds", json_integer(rounds));
        return thaw;
    }
    return json_pack("{s:o, s:o, s:o, s:i}", "thaw", thaw, "floor",
                     spread_json(spread_of(f->samples[FLOOR], f->rounds[FLOOR])), "ratio",
                     spread_json(ratio_of(f)), "rounds", rounds);
}

static json_t *rows_json(const struct bench_report *r)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_row *row = &r->rows[i];
        json_t *object = json_pack("{s:s}", "name", row->name);

        for (size_t k = 0; k < row->figure_count; k++)
            json_object_set_new(object, row->figures[k].name, figure_json(&row->figures[k]));
        json_array_append_new(rows, object);
    }
    return rows;
}

static json_t *environment_json(void)
{
    struct utsname u;

    if (uname(&u) < 0)
        return json_null();
    return json_pack("{s:s, s:s, s:i}", "kernel", u.release, "machine", u.machine, "processors",
                     get_nprocs());
}

static int print_json_line(const struct bench_report *r)
{
    json_t *ratios = json_object(), *environment = environment_json();
    json_t *all;
    int result;

    for (size_t i = 0; i < r->ratio_count && !r->skipped[0]; i++) {
        double v = report_value(r, &r->ratios[i]);

        json_object_set_new(ratios, r->ratios[i].name, isnan(v) ? json_null() : json_real(v));
    }
    if (r->facts)
        json_object_update(environment, r->facts);
    all = json_pack("{s:s, s:o, s:o, s:o}", "bench", r->bench, "rows", rows_json(r), "ratios",
                    ratios, "environment", environment);
    if (r->skipped[0])
        json_object_set_new(all, "skipped", json_string(r->skipped));
    result = all ? json_dumpf(all, stdout, JSON_COMPACT | JSON_REAL_PRECISION(5)) : -1;
    json_decref(all);
    return result < 0 || putchar('\n') == EOF ? -EIO : 0;
}

int report_print(const struct bench_report *r, bool json)
{
    if (json) {
        int result = print_json_line(r);

        if (result < 0)
            return result;
    } else {
        print_table(r);
    }
    return fflush(stdout) == EOF ? -EIO : 0;
}
