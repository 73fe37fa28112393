/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_ERROR_H
#define THAW_BASE_ERROR_H

/*
 * Filling of struct thaw_error, the error of operator-facing paths. Code that serves a guest uses
 * plain -errno results and formats nothing. Any thread; the struct itself belongs to one thread.
 */

#include "thaw/error.h"

/**
 * err_set() - record a failure
 * @e: where to, or NULL
 * @code: negative errno value
 * @fmt: printf format of the text; "%s" of strerror(-@code) is *not* appended
 *
 * Returns: @code, so that `return err_set(e, -EINVAL, "...")` reads well.
 */
[[gnu::format(printf, 3, 4)]] int err_set(struct thaw_error *e, int code, const char *fmt, ...);

/** err_errno() - like err_set(), with ": " and the system's text for @code appended */
[[gnu::format(printf, 3, 4)]] int err_errno(struct thaw_error *e, int code, const char *fmt, ...);

/**
 * err_wrap() - put context before the text of an error that is already set
 *
 * Returns: the code of @e, or -EIO when @e is NULL or holds no error.
 */
[[gnu::format(printf, 2, 3)]] int err_wrap(struct thaw_error *e, const char *fmt, ...);

#endif
