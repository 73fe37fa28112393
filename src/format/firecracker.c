/* SPDX-License-Identifier: Apache-2.0 */
#include "format/firecracker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "format/json.h"

#define VERSION_WHAT "its version"

int firecracker_encode_load(const char *snapfile, const char *memory_socket, struct buf *ret,
                            struct thaw_error *e)
{
    json_t *path CLEANUP_JSON = json_string(snapfile);
    json_t *socket CLEANUP_JSON = json_string(memory_socket);
    json_t *body CLEANUP_JSON = NULL;

    if (!path || !socket)
        return err_set(e, -EINVAL, "%s cannot be told to Firecracker: a path must be UTF-8",
                       path ? memory_socket : snapfile);
    body = json_pack("{s:O, s:{s:s, s:O}, s:b}", "snapshot_path", path, "mem_backend",
                     "backend_type", "Uffd", "backend_path", socket, "resume_vm", 0);
    if (!body || json_print(body, ret) < 0)
        return err_set(e, -ENOMEM, "no memory for a request to Firecracker");
    return 0;
}

static bool is_printable(char c)
{
    return c >= ' ' && c <= '~';
}

/* Copy as much of @text as @cap holds; what a terminal could take for more than text is '?'. */
static void put_line(char *ret, size_t cap, const char *text)
{
    size_t len = strnlen(text, cap - 1);

    memcpy(ret, text, len);
    ret[len] = '\0';
    for (size_t i = 0; i < len; i++) {
        if (!is_printable(ret[i]))
            ret[i] = '?';
    }
}

static int take_version(const json_t *root, char ret[FIRECRACKER_VERSION_BYTES],
                        struct thaw_error *e)
{
    const char *text = NULL;
    int r;

    if (!json_is_object(root))
        return err_set(e, -EPROTO, VERSION_WHAT ": not a JSON object");
    r = json_get_text(root, "firecracker_version", &text, e);
    if (r < 0)
        return err_wrap(e, VERSION_WHAT);
    if (strlen(text) >= FIRECRACKER_VERSION_BYTES)
        return err_set(e, -EPROTO, VERSION_WHAT ": %zu characters", strlen(text));
    for (const char *c = text; *c; c++) {
        if (!is_printable(*c))
            return err_set(e, -EPROTO, VERSION_WHAT ": characters that are no text");
    }
    memcpy(ret, text, strlen(text) + 1);
    return 0;
}

int firecracker_decode_version(const void *bytes, size_t len, char ret[FIRECRACKER_VERSION_BYTES],
                               struct thaw_error *e)
{
    json_t *root CLEANUP_JSON = NULL;
    struct thaw_error why = THAW_ERROR_INIT;
    int r;

    if (len > FIRECRACKER_BODY_MAX_BYTES)
        return err_set(e, -EPROTO, VERSION_WHAT ": %zu bytes, at most %" PRIu64 " are allowed", len,
                       FIRECRACKER_BODY_MAX_BYTES);
    r = json_parse(bytes, len, VERSION_WHAT, &root, &why);
    if (r == 0)
        r = take_version(root, ret, &why);
    if (r == -EBADMSG) /* no file of ours that is damaged, but a peer that says something else */
        r = -EPROTO;
    return r < 0 ? err_set(e, r, "%s", why.text) : 0;
}

const char *firecracker_decode_fault(const void *bytes, size_t len,
                                     char ret[FIRECRACKER_FAULT_BYTES])
{
    json_t *root CLEANUP_JSON = NULL;
    const char *text = NULL;

    if (len > 0 && len <= FIRECRACKER_BODY_MAX_BYTES &&
        json_parse(bytes, len, "fault", &root, NULL) == 0)
        text = json_string_value(json_object_get(root, "fault_message"));
    put_line(ret, FIRECRACKER_FAULT_BYTES, text ? text : "it does not say why");
    return ret;
}

/* --- versions --- */

struct version {
    unsigned major, minor, patch;
    bool unreleased; /* "-dev": its format may be that of the release before, or of the one after */
};

/*
 * The first release of each format. (SNAPSHOT_VERSION in src/vmm/src/persist.rs at the tags; the
 * first three versions of it, up to 1.6, could be converted one into another.)
 */
static const struct {
    struct version since;
    int format;
} formats[] = {
    {{1, 7, 0, false}, 1},  {{1, 8, 0, false}, 2},  {{1, 9, 0, false}, 3},
    {{1, 10, 1, false}, 4}, {{1, 11, 0, false}, 5}, {{1, 12, 0, false}, 6},
    {{1, 13, 0, false}, 8}, {{1, 15, 0, false}, 9}, {{1, 16, 0, false}, 10},
};

#define FORMAT_EARLIER 0  /* up to 1.6: what reads what is not known here */
#define FORMAT_LATER   -1 /* not known when this was written */

static int version_compare(const struct version *a, const struct version *b)
{
    if (a->major != b->major)
        return a->major < b->major ? -1 : 1;
    if (a->minor != b->minor)
        return a->minor < b->minor ? -1 : 1;
    if (a->patch != b->patch)
        return a->patch < b->patch ? -1 : 1;
    return 0;
}

/* A decimal number of at most four digits; where it ends, or NULL. */
static const char *parse_number(const char *text, unsigned *ret)
{
    unsigned n = 0;
    size_t digits = strspn(text, "0123456789");

    if (digits < 1 || digits > 4)
        return NULL;
    for (size_t i = 0; i < digits; i++)
        n = 10 * n + (unsigned)(text[i] - '0');
    *ret = n;
    return text + digits;
}

static bool version_parse(const char *text, struct version *ret)
{
    const char *at = parse_number(*text == 'v' ? text + 1 : text, &ret->major);

    at = at && *at == '.' ? parse_number(at + 1, &ret->minor) : NULL;
    at = at && *at == '.' ? parse_number(at + 1, &ret->patch) : NULL;
    if (!at || !strchr("-_+", *at)) /* the end is in there, too */
        return false;
    ret->unreleased = *at == '-';
    return true;
}

static int format_of(const struct version *v)
{
    const struct version *last = &formats[ARRAY_SIZE(formats) - 1].since;
    int format = FORMAT_EARLIER;

    if (v->major != last->major || v->minor > last->minor)
        return v->major < last->major ? FORMAT_EARLIER : FORMAT_LATER;
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        if (version_compare(v, &formats[i].since) >= 0)
            format = formats[i].format;
    }
    return format;
}

enum firecracker_reads firecracker_reads(const char *running, const char *recorded)
{
    struct version a = {0}, b = {0};
    int format_a, format_b;

    if (strcmp(running, recorded) == 0)
        return FIRECRACKER_READS;
    if (!version_parse(running, &a) || !version_parse(recorded, &b) || a.unreleased || b.unreleased)
        return FIRECRACKER_READS_MAYBE;
    if (version_compare(&a, &b) == 0)
        return FIRECRACKER_READS;
    format_a = format_of(&a);
    format_b = format_of(&b);
    if (format_a == FORMAT_LATER || format_b == FORMAT_LATER)
        return FIRECRACKER_READS_MAYBE;
    if (format_a == format_b)
        return format_a == FORMAT_EARLIER ? FIRECRACKER_READS_MAYBE : FIRECRACKER_READS;
    return FIRECRACKER_READS_NOT;
}
