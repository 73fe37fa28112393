/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "disk/disk_internal.h"

int disk_zeros(struct disk *d, uint64_t off, uint64_t len_bytes, uint64_t *ret_bytes)
{
    struct overlay_extent x;
    int r;

    if (len_bytes == 0 || off > d->size_bytes || len_bytes > d->size_bytes - off)
        return -EINVAL;
    if (d->ended)
        return -ESHUTDOWN;
    r = overlay_lookup(d->overlay, off, len_bytes, &x);
    if (r < 0)
        return r;
    *ret_bytes = x.len_bytes;
    return x.source == OVERLAY_ZEROS;
}
