/* SPDX-License-Identifier: Apache-2.0 */
#include "format/btf.h"

#include <errno.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define TYPEDEF_PREFIX "btf_trace_"
#define MAX_FOLLOWED   32 /* typedefs and qualifiers before the type itself; a circle ends here */

struct btf {
    const uint8_t *types;
    size_t types_len;
    const char *strings;
    size_t strings_len;
    uint32_t *at;   /* owned: offset of each type in @types; ids begin at 1 */
    uint32_t count; /* of @at, which includes the unused 0 */
};

static void finish(struct btf *b)
{
    free(b->at);
}

/* Bytes that follow the head of a type; negative for a kind that is not known. */
static int64_t tail_len(const struct btf_type *t)
{
    int64_t n = BTF_INFO_VLEN(t->info);

    switch (BTF_INFO_KIND(t->info)) {
    case BTF_KIND_INT:
        return sizeof(uint32_t);
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        return n * (int64_t)sizeof(struct btf_member);
    case BTF_KIND_ENUM:
        return n * (int64_t)sizeof(struct btf_enum);
    case BTF_KIND_FUNC_PROTO:
        return n * (int64_t)sizeof(struct btf_param);
    case BTF_KIND_VAR:
        return sizeof(struct btf_var);
    case BTF_KIND_DATASEC:
        return n * (int64_t)sizeof(struct btf_var_secinfo);
    case BTF_KIND_DECL_TAG:
        return sizeof(struct btf_decl_tag);
    case BTF_KIND_ENUM64:
        return n * (int64_t)sizeof(struct btf_enum64);
    case BTF_KIND_PTR:
    case BTF_KIND_FWD:
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_FUNC:
    case BTF_KIND_FLOAT:
    case BTF_KIND_TYPE_TAG:
        return 0;
    default:
        return -1;
    }
}

/* The sections, which the head places behind itself. */
static int find_sections(const uint8_t *bytes, size_t len, struct btf *ret)
{
    struct btf_header h;
    uint64_t rest;

    if (len < sizeof(h) || len > BTF_MAX_BYTES)
        return -EBADMSG;
    memcpy(&h, bytes, sizeof(h));
    if (h.magic != BTF_MAGIC || h.version != BTF_VERSION || h.hdr_len < sizeof(h) ||
        h.hdr_len > len)
        return -EBADMSG;
    rest = len - h.hdr_len;
    if (h.type_off > rest || h.type_len > rest - h.type_off || h.str_off > rest ||
        h.str_len > rest - h.str_off || h.str_len == 0)
        return -EBADMSG;
    ret->types = bytes + h.hdr_len + h.type_off;
    ret->types_len = h.type_len;
    ret->strings = (const char *)bytes + h.hdr_len + h.str_off;
    ret->strings_len = h.str_len;
    return ret->strings[ret->strings_len - 1] == '\0' ? 0 : -EBADMSG;
}

static int index_types(struct btf *b)
{
    b->at = calloc(b->types_len / sizeof(struct btf_type) + 1, sizeof(*b->at));
    if (!b->at)
        return -ENOMEM;
    b->count = 1;
    for (size_t at = 0; at < b->types_len;) {
        struct btf_type t;
        int64_t tail;

        if (b->types_len - at < sizeof(t))
            return -EBADMSG;
        memcpy(&t, b->types + at, sizeof(t));
        tail = tail_len(&t);
        if (tail < 0 || (uint64_t)tail > b->types_len - at - sizeof(t))
            return -EBADMSG;
        b->at[b->count++] = (uint32_t)at;
        at += sizeof(t) + (size_t)tail;
    }
    return 0;
}

static int get_type(const struct btf *b, uint32_t id, struct btf_type *ret)
{
    if (id == 0 || id >= b->count)
        return -EBADMSG;
    memcpy(ret, b->types + b->at[id], sizeof(*ret));
    return 0;
}

static bool is_alias(const struct btf_type *t)
{
    switch (BTF_INFO_KIND(t->info)) {
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_TYPE_TAG:
        return true;
    default:
        return false;
    }
}

static int describe(const struct btf *b, uint32_t id, struct btf_argument *ret)
{
    struct btf_type t;
    uint32_t encoding;
    int r = get_type(b, id, &t);

    for (int i = 0; r == 0 && is_alias(&t); i++) {
        id = t.type;
        r = i < MAX_FOLLOWED ? get_type(b, id, &t) : -EBADMSG;
    }
    if (r < 0)
        return r;
    *ret = (struct btf_argument){0};
    if (BTF_INFO_KIND(t.info) == BTF_KIND_INT && t.size <= sizeof(uint64_t)) {
        memcpy(&encoding, b->types + b->at[id] + sizeof(t), sizeof(encoding));
        ret->integer_bytes = (uint8_t)t.size;
        ret->is_signed = (BTF_INT_ENCODING(encoding) & BTF_INT_SIGNED) != 0;
    }
    return 0;
}

/* typedef -> pointer -> function; the first parameter belongs to whoever attaches. */
static int take_arguments(const struct btf *b, const struct btf_type *type_def,
                          struct btf_tracepoint *ret)
{
    struct btf_tracepoint found = {0};
    struct btf_type pointer, function;
    uint32_t params;

    if (get_type(b, type_def->type, &pointer) < 0 || BTF_INFO_KIND(pointer.info) != BTF_KIND_PTR ||
        get_type(b, pointer.type, &function) < 0 ||
        BTF_INFO_KIND(function.info) != BTF_KIND_FUNC_PROTO)
        return -EBADMSG;
    params = BTF_INFO_VLEN(function.info);
    if (params < 1 || params - 1 > BTF_TRACEPOINT_MAX)
        return -EBADMSG;
    for (uint32_t i = 1; i < params; i++) {
        struct btf_param p;
        int r;

        memcpy(&p, b->types + b->at[pointer.type] + sizeof(function) + i * sizeof(p), sizeof(p));
        r = describe(b, p.type, &found.args[found.count++]);
        if (r < 0)
            return r;
    }
    *ret = found;
    return 0;
}

static bool is_event(const struct btf *b, const struct btf_type *t, const char *event)
{
    size_t prefix = strlen(TYPEDEF_PREFIX);
    const char *name;

    if (BTF_INFO_KIND(t->info) != BTF_KIND_TYPEDEF || t->name_off >= b->strings_len)
        return false;
    name = b->strings + t->name_off; /* the last string ends with the section */
    return strncmp(name, TYPEDEF_PREFIX, prefix) == 0 && strcmp(name + prefix, event) == 0;
}

int btf_tracepoint(const void *bytes, size_t len, const char *event, struct btf_tracepoint *ret)
{
    struct btf b CLEANUP(finish) = {0};
    int r = find_sections(bytes, len, &b);

    if (r == 0)
        r = index_types(&b);
    for (uint32_t id = 1; r == 0 && id < b.count; id++) {
        struct btf_type t;

        r = get_type(&b, id, &t);
        if (r == 0 && is_event(&b, &t, event))
            return take_arguments(&b, &t, ret);
    }
    return r < 0 ? r : -ENOENT;
}
