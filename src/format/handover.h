/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_HANDOVER_H
#define THAW_FORMAT_HANDOVER_H

/*
 * The body of Firecracker's UFFD hand-over: the JSON text in which a VMM says where the regions of
 * guest memory lie in its address space and in the memory file. The uffd itself travels beside it.
 *
 * Accepted: the bare array, and the object with a "regions" array that nydus sends. page_size_kib
 * holds bytes in spite of its name and stands in for a missing page_size; without both a page has
 * 4096 bytes. Unknown fields are ignored.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"

#define HANDOVER_MAX_BYTES (64 * KIB)

struct handover_region {
    struct host_addr base;
    uint64_t size_bytes;
    struct image_off offset; /* of the region's first byte in the memory image */
};

struct handover {
    struct handover_region *regions; /* owned; as sent, at least one; no host byte in two of them */
    size_t region_count;
    uint64_t page_bytes; /* 4096 or 2 MiB; all bases, sizes and offsets are multiples of it */
};

/**
 * handover_decode() - read a body of at most HANDOVER_MAX_BYTES
 *
 * Returns: 0, -ENOMEM, or -EPROTO naming the region and field that does not hold. A text that ends
 * too early gives -EAGAIN: the rest may not have arrived yet.
 */
[[gnu::warn_unused_result]] int handover_decode(const void *bytes, size_t len,
                                                struct handover **ret, struct thaw_error *e);

/**
 * handover_encode() - write the body for @regions, NUL-terminated
 *
 * Depends on nothing but libc, for programs that do not link the rest of thaw.
 *
 * Returns: the length without the NUL, or -ENOSPC when @cap does not hold it (the content of
 * @ret_text is then unspecified).
 */
[[gnu::warn_unused_result]] int handover_encode(const struct handover_region *regions,
                                                size_t region_count, uint64_t page_bytes,
                                                char *ret_text, size_t cap);

/** handover_destroy() - release @h; NULL is allowed */
void handover_destroy(struct handover *h);
DEFINE_CLEANUP(struct handover, handover_destroy);
#define CLEANUP_HANDOVER CLEANUP(cleanup_handover_destroy)

#endif
