/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_METADATA_JSON_H
#define THAW_FORMAT_METADATA_JSON_H

/* Between the files of the metadata codec: its keys, and the rules of both directions. */

#include <stdbool.h>

#include "format/json.h"
#include "format/metadata.h"

#define METADATA_WHAT            "metadata.json"
#define METADATA_STRIPPED        1 /* E2B's DeprecatedVersion: up to here nothing is relied on */
#define METADATA_IMAGE_MAX_BYTES (16 * TIB)

/** metadata_block_bytes_valid() - whether a page or prefetch block may have that size */
bool metadata_block_bytes_valid(uint64_t block_bytes);

/** metadata_index_valid() - whether block @index lies in guest memory, as far as its size is known
 */
bool metadata_index_valid(const struct metadata *m, uint64_t index, uint64_t block_bytes);

/** metadata_access_valid() - whether @access is one of E2B's access types: r, w, p */
bool metadata_access_valid(char access);

#endif
