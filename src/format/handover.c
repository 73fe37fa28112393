/* SPDX-License-Identifier: Apache-2.0 */
#include "format/handover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/json.h"

#define WHAT       "memory hand-over"
#define SMALL_PAGE PAGE_BYTES
#define HUGE_PAGE  (2 * MIB)

/* Peers break a protocol where files are damaged. */
static int as_protocol_error(int r, struct thaw_error *e)
{
    if (r != -EBADMSG)
        return r;
    if (e)
        e->code = -EPROTO;
    return -EPROTO;
}

static int parse_body(const void *bytes, size_t len, json_t **ret, struct thaw_error *e)
{
    json_error_t why;
    json_t *root;

    if (len > HANDOVER_MAX_BYTES)
        return err_set(e, -EPROTO, WHAT ": it has %zu bytes, at most %" PRIu64 " are allowed", len,
                       HANDOVER_MAX_BYTES);
    root = json_loadb(bytes, len, 0, &why);
    if (root) {
        *ret = root;
        return 0;
    }
    if (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0')
        return err_set(e, -ENOMEM, WHAT ": no memory");
    if (json_error_code(&why) == json_error_premature_end_of_input)
        return err_set(e, -EAGAIN, WHAT ": the text ends early, after %zu bytes", len);
    return err_set(e, -EPROTO, WHAT ": byte %d: %s", why.position, why.text);
}

static int get_page_bytes(const json_t *region, uint64_t *ret, struct thaw_error *e)
{
    uint64_t page_bytes = SMALL_PAGE;
    int r = 0;

    if (json_object_get(region, "page_size"))
        r = json_get_u64(region, "page_size", &page_bytes, e);
    else if (json_object_get(region, "page_size_kib"))
        r = json_get_u64(region, "page_size_kib", &page_bytes, e);
    if (r < 0)
        return r;
    if (page_bytes != SMALL_PAGE && page_bytes != HUGE_PAGE)
        return err_set(e, -EBADMSG, "page size %" PRIu64 " is neither 4096 nor 2097152",
                       page_bytes);
    *ret = page_bytes;
    return 0;
}

static int check_region(const struct handover_region *region, uint64_t page_bytes,
                        struct thaw_error *e)
{
    if (region->size_bytes == 0)
        return err_set(e, -EBADMSG, "\"size\" is 0");
    if (region->base.v % page_bytes != 0 || region->size_bytes % page_bytes != 0 ||
        region->offset.v % page_bytes != 0)
        return err_set(e, -EBADMSG,
                       "base_host_virt_addr 0x%" PRIx64 ", size 0x%" PRIx64 ", offset 0x%" PRIx64
                       ": not all are multiples of the page size, %" PRIu64,
                       region->base.v, region->size_bytes, region->offset.v, page_bytes);
    if (region->size_bytes > UINT64_MAX - region->base.v ||
        region->size_bytes > UINT64_MAX - region->offset.v)
        return err_set(e, -EBADMSG, "its end is past 2^64");
    return 0;
}

static int decode_region(const json_t *value, struct handover_region *ret, uint64_t *ret_page_bytes,
                         struct thaw_error *e)
{
    int r;

    if (!json_is_object(value))
        return err_set(e, -EBADMSG, "it is not a JSON object");
    r = json_get_u64(value, "base_host_virt_addr", &ret->base.v, e);
    if (r == 0)
        r = json_get_u64(value, "size", &ret->size_bytes, e);
    if (r == 0)
        r = json_get_u64(value, "offset", &ret->offset.v, e);
    if (r == 0)
        r = get_page_bytes(value, ret_page_bytes, e);
    return r < 0 ? r : check_region(ret, *ret_page_bytes, e);
}

static int decode_regions(const json_t *array, struct handover *h, struct thaw_error *e)
{
    size_t count = json_array_size(array);

    h->regions = calloc(count, sizeof(*h->regions));
    if (!h->regions)
        return err_set(e, -ENOMEM, "no memory for %zu regions", count);
    for (; h->region_count < count; h->region_count++) {
        size_t i = h->region_count;
        uint64_t page_bytes = 0;
        int r = decode_region(json_array_get(array, i), &h->regions[i], &page_bytes, e);

        if (r < 0) {
            err_wrap(e, "region %zu", i);
            return r;
        }
        if (i > 0 && page_bytes != h->page_bytes)
            return err_set(e, -EBADMSG,
                           "region %zu: page size %" PRIu64 ", the regions before it have %" PRIu64,
                           i, page_bytes, h->page_bytes);
        h->page_bytes = page_bytes;
    }
    return 0;
}

static int compare_bases(const void *a, const void *b)
{
    const struct handover_region *x = a, *y = b;

    return x->base.v < y->base.v ? -1 : x->base.v > y->base.v;
}

/* A fault address must belong to one region alone. */
static int check_overlap(const struct handover *h, struct thaw_error *e)
{
    struct handover_region *sorted CLEANUP_FREE = calloc(h->region_count, sizeof(*sorted));

    if (!sorted)
        return err_set(e, -ENOMEM, "no memory for %zu regions", h->region_count);
    memcpy(sorted, h->regions, h->region_count * sizeof(*sorted));
    qsort(sorted, h->region_count, sizeof(*sorted), compare_bases);
    for (size_t i = 1; i < h->region_count; i++) {
        if (sorted[i].base.v - sorted[i - 1].base.v < sorted[i - 1].size_bytes)
            return err_set(e, -EBADMSG, "regions at 0x%" PRIx64 " and 0x%" PRIx64 " overlap",
                           sorted[i - 1].base.v, sorted[i].base.v);
    }
    return 0;
}

static int decode_root(const json_t *root, struct handover *h, struct thaw_error *e)
{
    const json_t *array = json_is_object(root) ? json_object_get(root, "regions") : root;
    int r;

    if (!json_is_array(array))
        return err_set(e, -EBADMSG, "it is neither an array of regions nor an object with one");
    if (json_array_size(array) == 0)
        return err_set(e, -EBADMSG, "it has no regions");
    r = decode_regions(array, h, e);
    return r < 0 ? r : check_overlap(h, e);
}

int handover_decode(const void *bytes, size_t len, struct handover **ret, struct thaw_error *e)
{
    struct handover *h CLEANUP_HANDOVER = NULL;
    json_t *root CLEANUP_JSON = NULL;
    int r = parse_body(bytes, len, &root, e);

    if (r < 0)
        return r;
    h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(e, -ENOMEM, WHAT ": no memory");
    r = decode_root(root, h, e);
    if (r < 0) {
        err_wrap(e, WHAT);
        return as_protocol_error(r, e);
    }
    *ret = TAKE_PTR(h);
    return 0;
}

void handover_destroy(struct handover *h)
{
    if (!h)
        return;
    free(h->regions);
    free(h);
}
