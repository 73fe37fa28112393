/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_THROTTLE_PAGE_H
#define THAW_BENCH_THROTTLE_PAGE_H

/* The page that `thaw bench throttle --html` writes: what was measured, drawn. One thread. */

struct bench_report;
struct run_record;
struct thaw_error;
struct throttle_page;

/** throttle_page_create() - an empty one; NULL if there is no memory */
struct throttle_page *throttle_page_create(void);
void throttle_page_destroy(struct throttle_page *p);

/**
 * throttle_page_lane() - take in one run
 * @row: static: its name
 * @record: with its latencies in order; copied
 */
void throttle_page_lane(struct throttle_page *p, const char *row, const struct run_record *record);

/** throttle_page_write() - draw everything and @report into the file @path, all or nothing */
[[gnu::warn_unused_result]] int throttle_page_write(struct throttle_page *p,
                                                    const struct bench_report *report,
                                                    const char *path, struct thaw_error *e);

#endif
