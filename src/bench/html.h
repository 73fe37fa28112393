/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_HTML_H
#define THAW_BENCH_HTML_H

/*
 * A page of HTML that stands for itself: no scripts, and nothing from elsewhere. It is collected in
 * memory and written at once. One thread.
 */

#include "base/cleanup.h"

struct html;
struct thaw_error;

/** html_try() - whether a file can be made beside @path: before the work that it is to show */
[[gnu::warn_unused_result]] int html_try(const char *path, struct thaw_error *e);

/** html_create() - with head and style, up to the beginning of the body; NULL: no memory */
struct html *html_create(const char *title, const char *style);
void html_destroy(struct html *h);
DEFINE_CLEANUP(struct html, html_destroy);
#define CLEANUP_HTML CLEANUP(cleanup_html_destroy)

/** html_put() - markup, as it is: for numbers and for text that is known not to need escapes */
[[gnu::format(printf, 2, 3)]] void html_put(struct html *h, const char *fmt, ...);

/** html_text() - any text, escaped for content and for attributes in double quotes */
void html_text(struct html *h, const char *text);

/** html_element() - <@name>@text</@name>, of which @text is escaped */
void html_element(struct html *h, const char *name, const char *text);

/**
 * html_write() - end the page and write it to @path, where it appears whole or not at all
 *
 * What was there is replaced. Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int html_write(struct html *h, const char *path, struct thaw_error *e);

#endif
