/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header_codec.h"

#include <errno.h>
#include <inttypes.h>

/*
 * V1, V2 and V3: after the metadata nothing but mappings, until the end of the file. No count and
 * no checksum: what is cut off at the border of a mapping shows only as an image that is not
 * covered. E2B's reader takes a header without any mapping for one that maps the whole image onto
 * its own build; none was ever written that way, and it is what a header cut after 64 bytes looks
 * like, so it is refused here.
 */

int header_v3_decode(struct header_input *in, struct header *h)
{
    size_t left = reader_left(&in->r);
    uint64_t count = left / HEADER_RECORD_BYTES;
    int r;

    /* Reading one more than fits makes a file that ends within a mapping say where. */
    r = header_read_records(in, count + (left % HEADER_RECORD_BYTES != 0), h);
    return r < 0 ? r : header_input_finish(in, h);
}

int header_v3_encode(const struct header *h, struct buf *ret, struct thaw_error *e)
{
    uint64_t bytes = HEADER_META_BYTES + (uint64_t)map_run_count(h->map) * HEADER_RECORD_BYTES;

    for (size_t i = 0; i < h->build_count; i++) {
        char text[UUID_TEXT_BYTES];

        if (h->builds[i].known && h->builds[i].frames.codec != CODEC_NONE)
            return err_set(e, -EINVAL,
                           "build %s is compressed, which a V3 header cannot say: write V4",
                           uuid_format(&h->builds[i].id, text));
    }
    if (bytes > HEADER_MAX_BYTES)
        return err_set(e, -EINVAL,
                       "%zu mappings make a V3 header of %" PRIu64 " bytes, readers take %" PRIu64
                       ": compact the build, or write V4",
                       map_run_count(h->map), bytes, HEADER_MAX_BYTES);
    header_write_records(h, ret);
    return 0;
}
