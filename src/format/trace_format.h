/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_TRACE_FORMAT_H
#define THAW_FORMAT_TRACE_FORMAT_H

/*
 * The "format" file of a tracepoint in tracefs: its number, and where its fields are in a raw
 * sample (Documentation/trace/events.rst). Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_FORMAT_MAX_BYTES 65536 /* tracefs gives a page or so */

struct trace_field {
    uint32_t offset; /* in the raw sample */
    uint32_t bytes;
    bool is_signed;
};

/**
 * trace_format_decode() - the number of the event and its field @name
 *
 * Returns: 0, -ENOENT when it has no such field, -EBADMSG when the text does not hold.
 */
[[gnu::warn_unused_result]] int trace_format_decode(const void *bytes, size_t len, const char *name,
                                                    uint32_t *ret_id, struct trace_field *ret);

#endif
