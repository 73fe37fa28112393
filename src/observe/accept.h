/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_ACCEPT_H
#define THAW_OBSERVE_ACCEPT_H

/* Which of our formats a client wants, by the Accept fields of its request. Pure; any thread. */

#include <stdbool.h>
#include <stddef.h>

/**
 * struct accept - what was said so far; all zeros before the first field
 * @protobuf: the weight of our protobuf format, 0 to 1000, as RFC 9110 section 12.4.2 has it
 * @text: likewise of the text format
 *
 * The most specific range that matches counts, not the heaviest; @..._specific says how specific
 * that was.
 */
struct accept {
    int protobuf, text;
    int protobuf_specific, text_specific;
};

/**
 * accept_add() - read one Accept field, "text/plain;q=0.5, application/..."
 * @field: @len bytes of whatever a client sent. What does not parse is passed over.
 */
void accept_add(struct accept *a, const char *field, size_t len);

/** accept_wants_protobuf() - whether to answer in protobuf. When in doubt it is text: it weighs as
 * much, nothing was said, or neither is wanted */
bool accept_wants_protobuf(const struct accept *a);

#endif
