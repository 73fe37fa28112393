/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The page: what decided, then three drawings over the same contenders, then all medians. A
 * contender has its colour everywhere. Drawings are 1200 units wide, with names at their left.
 */
#include "bench/throttle_page.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/html.h"
#include "bench/report.h"
#include "bench/throttle_run.h"

#define LANES_MAX 8
#define WIDTH     1200
#define LEFT      150
#define RIGHT     1180
#define LANE      64 /* height of a lane with its gap */
#define PLOT      48 /* height of what is drawn in it */
#define SERVED    300
#define COLUMNS   (RIGHT - LEFT)
#define DECADES   6 /* of latency: 10 us to 10 s */
#define PER_TEN   10
#define BINS      (DECADES * PER_TEN)
#define LOWEST_US 10.0

struct lane {
    const char *row;
    struct run_sample *samples; /* owned: times from the beginning */
    size_t sample_count;
    uint64_t wall_ns, paused_ns, pauses;
    uint32_t bins[BINS], store_count;
    double p50_us, p99_us;
};

struct throttle_page {
    struct lane lanes[LANES_MAX];
    size_t count;
};

static const char style[] =
    ":root{--ink:#1d2127;--soft:#5c6570;--line:#d9dde3;--paper:#fff;--good:#1a7f4b;--bad:#c42b33;\n"
    "--c0:#6f7782;--c1:#d4373e;--c2:#1a7f4b;--c3:#b86200;--c4:#2766c8;--c5:#8746bf;--c6:#0b7f8c;"
    "--c7:#a13d78}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e7eaee;--soft:#a2abb6;--line:#363d47;\n"
    "--paper:#15181c;--good:#4fc48a;--bad:#ff7a80;--c0:#9aa3ae;--c1:#ff6b70;--c2:#4fc48a;"
    "--c3:#f0a04b;--c4:#74a7ff;--c5:#c08cf0;--c6:#4cc3d0;--c7:#ef86bf}}\n"
    "body{margin:24px auto;padding:0 24px;max-width:1200px;color:var(--ink);"
    "background:var(--paper);\nfont:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 4px}\n"
    "p{margin:4px 0 12px;color:var(--soft);max-width:80ch}\n"
    "svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}\n"
    "svg text.name{fill:var(--ink);font-size:13px;font-weight:600}\n"
    "svg .grid{stroke:var(--line);stroke-width:1;fill:none}\n"
    "svg .served{fill:none;stroke-width:2;stroke-linejoin:round}\n"
    "svg .mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 2}\n"
    "div.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:3px 14px 3px 0;text-align:right;border-bottom:1px solid var(--line)}\n"
    "th:first-child,td:first-child{text-align:left}th{font-weight:600}\n"
    ".met{color:var(--good)}.missed{color:var(--bad);font-weight:600}\n"
    "ul.key{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;padding:0;margin:4px 0}\n"
    "ul.key svg{display:inline-block;width:22px;height:10px;margin-right:6px}\n"
    ".f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}"
    ".f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}\n"
    ".s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}"
    ".s4{stroke:var(--c4)}.s5{stroke:var(--c5)}.s6{stroke:var(--c6)}.s7{stroke:var(--c7)}\n"
    ".s0,.s3{stroke-dasharray:7 4}.s4{stroke-dasharray:2 3}.s5{stroke-dasharray:10 3 2 3}\n";

/* --- taking in --- */

struct throttle_page *throttle_page_create(void)
{
    return calloc(1, sizeof(struct throttle_page));
}

void throttle_page_destroy(struct throttle_page *p)
{
    for (size_t i = 0; p && i < p->count; i++)
        free(p->lanes[i].samples);
    free(p);
}

static void take_samples(struct lane *l, const struct run_record *r)
{
    for (size_t i = 0; l->samples && i < r->sample_count; i++) {
        struct run_sample s = r->samples[i];

        if (s.at_ns < r->begin_ns || s.at_ns > r->end_ns)
            continue;
        s.at_ns -= r->begin_ns;
        l->samples[l->sample_count++] = s;
    }
}

static void take_latencies(struct lane *l, const struct run_record *r)
{
    uint32_t n = MIN(atomic_load(&r->store_count), RUN_LATENCIES_MAX);

    for (uint32_t i = 0; i < n; i++) {
        double at = log10(MAX(r->store_us[i], 1) / LOWEST_US) * PER_TEN;

        l->bins[at < 0 ? 0 : at >= BINS ? BINS - 1 : (unsigned)at]++;
    }
    l->store_count = n;
    l->p50_us = n ? r->store_us[(n - 1) / 2] : 0;
    l->p99_us = n ? r->store_us[(size_t)(n - 1) * 99 / 100] : 0;
}

void throttle_page_lane(struct throttle_page *p, const char *row, const struct run_record *record)
{
    struct lane *l = &p->lanes[p->count];

    if (p->count == LANES_MAX)
        return;
    p->count++;
    *l = (struct lane){
        .row = row,
        .samples = calloc(record->sample_count + 1, sizeof(*l->samples)),
        .wall_ns = record->end_ns - record->begin_ns,
        .paused_ns = record->throttle.paused_ns,
        .pauses = record->throttle.pauses,
    };
    take_samples(l, record);
    take_latencies(l, record);
}

/* --- drawing --- */

static void svg_begin(struct html *h, unsigned height, const char *label)
{
    html_put(h, "<svg viewBox=\"0 0 %d %u\" role=\"img\" aria-label=\"", WIDTH, height);
    html_text(h, label);
    html_put(h, "\">\n");
}

static void svg_text(struct html *h, double x, double y, const char *class, const char *anchor,
                     const char *text)
{
    html_put(h, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, class,
             anchor);
    html_text(h, text);
    html_put(h, "</text>\n");
}

static void svg_line(struct html *h, const char *class, double x1, double y1, double x2, double y2)
{
    html_put(h, "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", class, x1, y1, x2, y2);
}

/* A step of 1, 2 or 5 times a power of ten, of which @max has at most ten. */
static double axis_step(double max)
{
    double step = pow(10, floor(log10(max / 10)));

    while (max / step > 10)
        step *= max / step > 50 ? 5 : 2;
    return step;
}

static double longest_s(const struct throttle_page *p)
{
    uint64_t max = NS_PER_MS;

    for (size_t i = 0; i < p->count; i++)
        max = MAX(max, p->lanes[i].wall_ns);
    return (double)max / (double)NS_PER_SEC;
}

/* Seconds, from LEFT to RIGHT, with lines from @top to @bottom and numbers below. */
static void time_axis(struct html *h, double max_s, double top, double bottom)
{
    double step = axis_step(max_s);

    for (unsigned i = 0; i * step <= max_s; i++) {
        double x = LEFT + COLUMNS * (i * step / max_s);
        char text[32];

        snprintf(text, sizeof(text), "%g s", i * step);
        svg_line(h, "grid", x, top, x, bottom);
        svg_text(h, x, bottom + 16, "tick", "middle", text);
    }
}

static double x_of(uint64_t at_ns, double max_s)
{
    return LEFT + COLUMNS * ((double)at_ns / (double)NS_PER_SEC / max_s);
}

/* The most threads that were asleep in each column, as an area. */
static void stall_area(struct html *h, const struct lane *l, size_t index, double max_s,
                       unsigned max_threads, double bottom)
{
    unsigned most[COLUMNS + 1] = {0};
    unsigned last = 0;

    for (size_t i = 0; i < l->sample_count; i++) {
        size_t x = (size_t)(x_of(l->samples[i].at_ns, max_s) - LEFT);

        most[MIN(x, COLUMNS)] = MAX(most[MIN(x, COLUMNS)], l->samples[i].throttled);
    }
    html_put(h, "<path class=\"f%zu\" d=\"M%d %.1f", index, LEFT, bottom);
    for (size_t x = 0; x <= COLUMNS; x++) {
        if (most[x] == last)
            continue;
        last = most[x];
        html_put(h, "H%zuV%.1f", LEFT + x, bottom - PLOT * ((double)last / max_threads));
    }
    html_put(h, "V%.1fZ\"/>\n", bottom);
}

static void lane_name(struct html *h, const struct lane *l, double bottom, const char *below)
{
    svg_text(h, 0, bottom - 24, "name", "start", l->row);
    svg_text(h, 0, bottom - 8, "tick", "start", below);
}

static void draw_stall(struct html *h, const struct throttle_page *p)
{
    double max_s = longest_s(p), bottom = (double)p->count * LANE;
    unsigned max_threads = 1;

    for (size_t i = 0; i < p->count; i++) {
        for (size_t k = 0; k < p->lanes[i].sample_count; k++)
            max_threads = MAX(max_threads, p->lanes[i].samples[k].throttled);
    }
    html_element(h, "h2", "Threads that serve, asleep in the kernel's throttle of dirty pages");
    html_put(h,
             "<p>One lane for each contender, up to %u thread%s high, looked at every %u ms; a "
             "lane ends with the resume. At the left: how long threads slept, by the kernel's "
             "own account.</p>\n",
             max_threads, max_threads == 1 ? "" : "s", (unsigned)(RUN_SAMPLE_NS / NS_PER_MS));
    svg_begin(h, (unsigned)bottom + 24, "threads in the throttle over time, a lane per contender");
    time_axis(h, max_s, 0, bottom);
    for (size_t i = 0; i < p->count; i++) {
        const struct lane *l = &p->lanes[i];
        double base = LANE * (double)(i + 1) - 8;
        char below[64];

        snprintf(below, sizeof(below), "%.0f ms, %llu times", (double)l->paused_ns / 1e6,
                 (unsigned long long)l->pauses);
        lane_name(h, l, base, below);
        svg_line(h, "grid", LEFT, base, RIGHT, base);
        stall_area(h, l, i, max_s, max_threads, base);
        html_put(h, "<path class=\"s%zu\" stroke-width=\"2\" d=\"M%d %.1fH%.1f\"/>\n", i, LEFT,
                 base, x_of(l->wall_ns, max_s));
    }
    html_put(h, "</svg>\n");
}

static void served_line(struct html *h, const struct lane *l, size_t index, double max_s,
                        uint64_t max_bytes)
{
    double drawn = -1;

    html_put(h, "<path class=\"served s%zu\" d=\"M%d %d", index, LEFT, SERVED);
    for (size_t i = 0; i < l->sample_count; i++) {
        double x = x_of(l->samples[i].at_ns, max_s);

        if (x < drawn + 1 && i + 1 < l->sample_count)
            continue;
        drawn = x;
        html_put(h, "L%.1f %.1f", x,
                 SERVED - (SERVED - 10) * ((double)l->samples[i].served_bytes / (double)max_bytes));
    }
    html_put(h, "\"/>\n");
}

static void key(struct html *h, const struct throttle_page *p)
{
    html_put(h, "<ul class=\"key\">");
    for (size_t i = 0; i < p->count; i++) {
        html_put(h,
                 "<li><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"served s%zu\" "
                 "d=\"M0 5H22\"/></svg>",
                 i);
        html_text(h, p->lanes[i].row);
        html_put(h, "</li>");
    }
    html_put(h, "</ul>\n");
}

static void draw_served(struct html *h, const struct throttle_page *p)
{
    double max_s = longest_s(p), step;
    uint64_t max_bytes = MIB;

    for (size_t i = 0; i < p->count; i++) {
        for (size_t k = 0; k < p->lanes[i].sample_count; k++)
            max_bytes = MAX(max_bytes, p->lanes[i].samples[k].served_bytes);
    }
    html_element(h, "h2", "Memory served to the guest");
    html_element(h, "p", "MiB installed over time. What is flat is a guest that waits.");
    key(h, p);
    svg_begin(h, SERVED + 24, "bytes served over time, a line per contender");
    time_axis(h, max_s, 10, SERVED);
    step = axis_step((double)max_bytes / (double)MIB);
    for (unsigned i = 0; i * step <= (double)max_bytes / (double)MIB; i++) {
        double y = SERVED - (SERVED - 10) * (i * step * (double)MIB / (double)max_bytes);
        char text[32];

        snprintf(text, sizeof(text), "%g MiB", i * step);
        svg_line(h, "grid", LEFT, y, RIGHT, y);
        svg_text(h, LEFT - 14, y + 4, "tick", "end", text);
    }
    for (size_t i = 0; i < p->count; i++)
        served_line(h, &p->lanes[i], i, max_s, max_bytes);
    html_put(h, "</svg>\n");
}

static double latency_x(double us)
{
    double at = log10(MAX(us, LOWEST_US) / LOWEST_US) / DECADES;

    return LEFT + COLUMNS * MIN(at, 1.0);
}

static void latency_axis(struct html *h, double bottom)
{
    static const char *const names[DECADES + 1] = {"10 µs",  "100 µs", "1 ms", "10 ms",
                                                   "100 ms", "1 s",    "10 s"};

    for (size_t i = 0; i <= DECADES; i++) {
        double x = LEFT + COLUMNS * (double)i / DECADES;

        svg_line(h, "grid", x, 0, x, bottom);
        svg_text(h, x, bottom + 16, "tick", i == DECADES ? "end" : "middle", names[i]);
    }
}

static void latency_bars(struct html *h, const struct lane *l, size_t index, uint32_t most,
                         double bottom)
{
    const double width = (double)COLUMNS / BINS;

    for (unsigned i = 0; i < BINS; i++) {
        double height = PLOT * log2(1 + l->bins[i]) / log2(1 + most);

        if (l->bins[i] > 0)
            html_put(
                h, "<rect class=\"f%zu\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                index, LEFT + width * i, bottom - height, width - 1, height);
    }
    svg_line(h, "mark", latency_x(l->p50_us), bottom, latency_x(l->p50_us), bottom - PLOT);
    svg_line(h, "mark", latency_x(l->p99_us), bottom, latency_x(l->p99_us), bottom - PLOT);
}

static void draw_latencies(struct html *h, const struct throttle_page *p)
{
    double bottom = (double)p->count * LANE;
    uint32_t most = 1;

    for (size_t i = 0; i < p->count; i++) {
        for (unsigned k = 0; k < BINS; k++)
            most = MAX(most, p->lanes[i].bins[k]);
    }
    html_element(h, "h2", "From the start of a read until its bytes are in the cache");
    html_put(h,
             "<p>Batches by how long they took, on a logarithmic axis; heights are logarithmic "
             "too, up to %u batches, so that the few slow ones can be seen. Dashed: median and "
             "99th percentile.</p>\n",
             most);
    svg_begin(h, (unsigned)bottom + 24, "histograms of store latency, a lane per contender");
    latency_axis(h, bottom);
    for (size_t i = 0; i < p->count; i++) {
        const struct lane *l = &p->lanes[i];
        double base = LANE * (double)(i + 1) - 8;
        char below[64];

        snprintf(below, sizeof(below), "%.2f ms, %.0f ms", l->p50_us / 1e3, l->p99_us / 1e3);
        lane_name(h, l, base, below);
        svg_line(h, "grid", LEFT, base, RIGHT, base);
        latency_bars(h, l, i, most, base);
    }
    html_put(h, "</svg>\n");
}

/* --- tables --- */

static void table_of_ratios(struct html *h, const struct bench_report *r)
{
    html_put(h, "<table><tr><th>ratio</th><th>value</th><th>bar</th></tr>\n");
    for (size_t i = 0; i < r->ratio_count; i++) {
        const struct report_ratio *ratio = &r->ratios[i];
        double v = report_value(r, ratio);

        html_put(h, "<tr>");
        html_element(h, "td", ratio->name);
        html_put(h, "<td class=\"%s\">%.2f</td>",
                 isnan(ratio->bar)        ? ""
                 : report_holds(ratio, v) ? "met"
                                          : "missed",
                 v);
        if (isnan(ratio->bar))
            html_put(h, "<td></td></tr>\n");
        else
            html_put(h, "<td>%s %g%s</td></tr>\n", ratio->at_least ? "at least" : "at most",
                     ratio->bar, report_holds(ratio, v) ? "" : ", not met");
    }
    html_put(h, "</table>\n");
}

static void table_of_medians(struct html *h, const struct bench_report *r)
{
    html_element(h, "h2", "Medians of all rounds");
    html_put(h, "<div class=\"wide\"><table><tr><th></th>");
    for (size_t i = 0; i < r->row_count; i++)
        html_element(h, "th", r->rows[i].name);
    html_put(h, "</tr>\n");
    for (size_t k = 0; r->row_count > 0 && k < r->rows[0].figure_count; k++) {
        const char *figure = r->rows[0].figures[k].name;

        html_put(h, "<tr>");
        html_element(h, "td", figure);
        for (size_t i = 0; i < r->row_count; i++)
            html_put(h, "<td>%.2f</td>", report_median(r, r->rows[i].name, figure));
        html_put(h, "</tr>\n");
    }
    html_put(h, "</table></div>\n<ul>\n");
    for (size_t i = 0; i < r->note_count; i++)
        html_element(h, "li", r->notes[i]);
    html_put(h, "</ul>\n");
}

int throttle_page_write(struct throttle_page *p, const struct bench_report *report,
                        const char *path, struct thaw_error *e)
{
    struct html *h CLEANUP_HTML = html_create("thaw bench throttle", style);

    if (!h)
        return err_set(e, -ENOMEM, "no memory for the page %s", path);
    html_element(h, "h1", "thaw bench throttle");
    html_element(h, "p",
                 "A guest touches all of its memory and writes to its disk, while what is fetched "
                 "for it goes into a cache on a device that writes a quarter of what the store "
                 "gives. The floor keeps nothing, and tiered has memory for a quarter of it; the "
                 "drawings are of the last round.");
    table_of_ratios(h, report);
    draw_stall(h, p);
    draw_served(h, p);
    draw_latencies(h, p);
    table_of_medians(h, report);
    return html_write(h, path, e);
}
