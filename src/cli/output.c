/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "base/units.h"

#define BAR_WIDTH 30u

int fail(const struct thaw_error *e)
{
    fprintf(stderr, "thaw: %s\n", e->text);
    return EXIT_FAILED;
}

void warn(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "thaw: %s\n", text);
}

int print_json(struct json_t *json)
{
    int r = json ? json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) : -1;

    json_decref(json);
    if (r < 0 || putchar('\n') == EOF || fflush(stdout) == EOF) {
        fputs("thaw: cannot print the result\n", stderr);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

const char *time_format(int64_t seconds, char ret[TIME_TEXT_BYTES])
{
    time_t t = (time_t)seconds;
    struct tm tm;

    if (seconds == 0 || !gmtime_r(&t, &tm) ||
        strftime(ret, TIME_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(ret, TIME_TEXT_BYTES, "-");
    return ret;
}

void progress_start(struct progress *p, const char *what)
{
    *p = (struct progress){.what = what, .start_ns = clock_now_ns()};
}

void progress_report(void *progress, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *p = progress;
    uint64_t now = clock_now_ns();
    unsigned filled = total_bytes ? (unsigned)(done_bytes * BAR_WIDTH / total_bytes) : BAR_WIDTH;
    char done[SIZE_TEXT_BYTES], total[SIZE_TEXT_BYTES];
    char bar[BAR_WIDTH + 1];

    if (now - p->start_ns < NS_PER_SEC / 2 || now - p->drawn_ns < NS_PER_SEC / 10 ||
        !isatty(STDERR_FILENO))
        return;
    p->drawn_ns = now;
    for (unsigned i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %s of %s\033[K", p->what, bar, size_format(done_bytes, done),
            size_format(total_bytes, total));
}

void progress_end(struct progress *p)
{
    if (p->drawn_ns)
        fputs("\r\033[K", stderr);
}
