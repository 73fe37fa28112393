/* SPDX-License-Identifier: Apache-2.0 */
#include "format/tier.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"

/* Byte offsets of the fields. */
#define AT_MAGIC    0
#define AT_VERSION  8
#define AT_NAME_LEN 12
#define AT_BUILD    16
#define AT_SIZE     32
#define AT_ORIGIN   40
#define AT_NAME     48
#define AT_CHECK    (TIER_PAGE_BYTES - 8)

#define VERSION 1

static const char magic[8] = {'T', 'H', 'A', 'W', 'T', 'I', 'E', 'R'};

static_assert(AT_NAME + TIER_NAME_MAX <= AT_CHECK, "every name has room");

static bool is_name(const char *name, size_t len)
{
    return len > 0 && len <= TIER_NAME_MAX && !memchr(name, '/', len) && !memchr(name, '\0', len);
}

int tier_identity_init(struct tier_identity *id, const struct uuid *build, const char *name,
                       uint64_t size_bytes, uint64_t origin)
{
    size_t len = strnlen(name, TIER_NAME_MAX + 1);

    if (!is_name(name, len))
        return -EINVAL;
    *id = (struct tier_identity){.build = *build, .size_bytes = size_bytes, .origin = origin};
    memcpy(id->name, name, len);
    return 0;
}

bool tier_identity_same(const struct tier_identity *a, const struct tier_identity *b)
{
    return uuid_compare(&a->build, &b->build) == 0 && a->size_bytes == b->size_bytes &&
           a->origin == b->origin && strcmp(a->name, b->name) == 0;
}

void tier_page_encode(const struct tier_identity *id, void *ret_page)
{
    size_t len = strnlen(id->name, TIER_NAME_MAX);
    uint8_t *p = ret_page;

    memset(p, 0, TIER_PAGE_BYTES);
    memcpy(p + AT_MAGIC, magic, sizeof(magic));
    store_le(p + AT_VERSION, VERSION, 4);
    store_le(p + AT_NAME_LEN, len, 4);
    memcpy(p + AT_BUILD, id->build.b, sizeof(id->build.b));
    store_le(p + AT_SIZE, id->size_bytes, 8);
    store_le(p + AT_ORIGIN, id->origin, 8);
    memcpy(p + AT_NAME, id->name, len);
    store_le(p + AT_CHECK, XXH3_64bits(p, AT_CHECK), 8);
}

static bool is_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

int tier_page_decode(const void *page, struct tier_identity *ret, struct thaw_error *e)
{
    const uint8_t *p = page;
    uint64_t version = load_le(p + AT_VERSION, 4);
    size_t len = load_le(p + AT_NAME_LEN, 4);
    uint64_t check = load_le(p + AT_CHECK, 8);
    uint64_t actual = XXH3_64bits(p, AT_CHECK);
    struct tier_identity id = {0};

    if (memcmp(p + AT_MAGIC, magic, sizeof(magic)) != 0)
        return err_set(e, -EBADMSG, "page of a cached object: no THAWTIER at byte 0");
    if (check != actual)
        return err_set(e, -EBADMSG,
                       "page of a cached object: checksum at byte %d is %016" PRIx64
                       ", the page's content has %016" PRIx64,
                       AT_CHECK, check, actual);
    if (version != VERSION)
        return err_set(e, -EBADMSG,
                       "page of a cached object: version at byte %d is %" PRIu64
                       ", this thaw knows only %d",
                       AT_VERSION, version, VERSION);
    if (len > TIER_NAME_MAX || !is_name((const char *)p + AT_NAME, len))
        return err_set(e, -EBADMSG, "page of a cached object: no name of %zu bytes at byte %d", len,
                       AT_NAME);
    if (!is_zero(p + AT_NAME + len, AT_CHECK - AT_NAME - len))
        return err_set(e, -EBADMSG, "page of a cached object: something follows the name");
    memcpy(id.build.b, p + AT_BUILD, sizeof(id.build.b));
    id.size_bytes = load_le(p + AT_SIZE, 8);
    id.origin = load_le(p + AT_ORIGIN, 8);
    memcpy(id.name, p + AT_NAME, len);
    *ret = id;
    return 0;
}
