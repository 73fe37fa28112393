/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_SIZE_H
#define THAW_BASE_SIZE_H

/* Byte counts as people write and read them. Any thread. */

#include <stddef.h>
#include <stdint.h>

#define SIZE_TEXT_BYTES 24

/**
 * size_parse() - read "512", "64K", "4M", "32G" or "1T"; suffixes are powers of 1024, either case
 *
 * Returns: 0, -EINVAL when @text is anything else, -ERANGE beyond 64 bits; *@ret is then untouched.
 */
[[gnu::warn_unused_result]] int size_parse(const char *text, uint64_t *ret);

/** size_format() - "512 B", "64.0 KiB", "1.5 GiB" into @ret; returns @ret */
const char *size_format(uint64_t bytes, char ret[SIZE_TEXT_BYTES]);

#endif
