/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_BASE_INTERNAL_H
#define THAW_IMAGE_BASE_INTERNAL_H

/* Between base.c and base_compare.c. */

#include "base/uuid.h"
#include "format/manifest.h"
#include "image/layout.h"

struct base_object {
    struct store_object *object; /* owned; NULL: the map has no data of this build */
    uint64_t size_bytes;
    uint64_t *sums; /* owned: one a granule; NULL: the object has none and cannot be verified */
    struct uuid build;
    char name[OBJECT_NAME_BYTES];
};

struct base {
    struct layout *layout;       /* owned */
    struct base_object *objects; /* owned: one for each of the header's builds */
};

#endif
