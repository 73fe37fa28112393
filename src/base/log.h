/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_LOG_H
#define THAW_BASE_LOG_H

/*
 * Lines to the operator, on stderr: one write(2) each, so that threads do not mix. Libraries below
 * src/sandbox log at debug only; the owner that decides what happens next says so, once.
 */

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/** log_set_level() - print lines up to @level; the default is LOG_WARNING, or THAW_DEBUG=1 */
void log_set_level(enum log_level level);

/** log_line() - print one line. Any thread; preserves errno. */
[[gnu::format(printf, 2, 3)]] void log_line(enum log_level level, const char *fmt, ...);

#define log_error(...)   log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

#endif
