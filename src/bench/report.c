/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/report.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

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
static struct spread ratio_of(const struct report_figure *f)
{
    double ratios[REPORT_ROUNDS];
    size_t n = f->rounds[THAW] < f->rounds[FLOOR] ? f->rounds[THAW] : f->rounds[FLOOR];

    for (size_t i = 0; i < n; i++)
        ratios[i] = f->samples[THAW][i] / f->samples[FLOOR][i];
    return spread_of(ratios, n);
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

/* The worst row decides. */
static double bar_value(const struct bench_report *r, const struct report_ratio *ratio)
{
    double worst = 0;
    bool any = false;

    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_row *row = &r->rows[i];

        if (strncmp(row->name, ratio->rows, strlen(ratio->rows)) != 0)
            continue;
        for (size_t k = 0; k < row->figure_count; k++) {
            double v;

            if (strcmp(row->figures[k].name, ratio->figure) != 0)
                continue;
            v = ratio_of(&row->figures[k]).median;
            if (!any || (ratio->at_least ? v < worst : v > worst))
                worst = v;
            any = true;
        }
    }
    return worst;
}

static bool holds(const struct report_ratio *ratio, double value)
{
    return ratio->at_least ? value >= ratio->bar : value <= ratio->bar;
}

static void print_table(const struct bench_report *r)
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
    putchar('\n');
    for (size_t i = 0; i < r->ratio_count; i++) {
        const struct report_ratio *ratio = &r->ratios[i];
        double v = bar_value(r, ratio);

        printf("  %-22s %6.2f   %s %.2f%s\n", ratio->name, v,
               ratio->at_least ? "at least" : "at most", ratio->bar,
               holds(ratio, v) ? "" : "   NOT MET");
    }
}

static json_t *spread_json(struct spread s)
{
    return json_pack("{s:f, s:f, s:f}", "min", s.min, "median", s.median, "max", s.max);
}

static json_t *rows_json(const struct bench_report *r)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < r->row_count; i++) {
        const struct report_row *row = &r->rows[i];
        json_t *object = json_pack("{s:s}", "name", row->name);

        for (size_t k = 0; k < row->figure_count; k++) {
            const struct report_figure *f = &row->figures[k];

            json_object_set_new(
                object, f->name,
                json_pack("{s:o, s:o, s:o, s:i}", "thaw",
                          spread_json(spread_of(f->samples[THAW], f->rounds[THAW])), "floor",
                          spread_json(spread_of(f->samples[FLOOR], f->rounds[FLOOR])), "ratio",
                          spread_json(ratio_of(f)), "rounds", (int)f->rounds[THAW]));
        }
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
    json_t *ratios = json_object();
    json_t *all;
    int result;

    for (size_t i = 0; i < r->ratio_count; i++)
        json_object_set_new(ratios, r->ratios[i].name, json_real(bar_value(r, &r->ratios[i])));
    all = json_pack("{s:s, s:o, s:o, s:o}", "bench", r->bench, "rows", rows_json(r), "ratios",
                    ratios, "environment", environment_json());
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
