/* SPDX-License-Identifier: Apache-2.0 */
#include "format/trace_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 256
#define MAX_DIGITS     9

/* The line at *@at without its end into @line, cut if it is longer; false at the end of the text.
 */
static bool next_line(const char **at, const char *end, char line[LINE_MAX_BYTES])
{
    const char *start = *at, *stop;
    size_t len;

    if (start == end)
        return false;
    stop = memchr(start, '\n', (size_t)(end - start));
    *at = stop ? stop + 1 : end;
    len = (size_t)((stop ? stop : end) - start);
    if (len >= LINE_MAX_BYTES)
        len = LINE_MAX_BYTES - 1;
    memcpy(line, start, len);
    line[len] = '\0';
    return true;
}

/* "field:long pause;": the name is the last word of the declaration. */
static bool declares(const char *line, const char *name)
{
    size_t len = strlen(name), declaration = strcspn(line, ";");

    return declaration > len && strncmp(line + declaration - len, name, len) == 0 &&
           line[declaration - len - 1] == ' ';
}

/* The number behind @key, as "offset:112;" has it */
static int number_after(const char *line, const char *key, uint32_t *ret)
{
    const char *at = strstr(line, key);
    size_t digits;

    if (!at)
        return -EBADMSG;
    at += strlen(key);
    digits = strspn(at, "0123456789");
    if (digits < 1 || digits > MAX_DIGITS)
        return -EBADMSG;
    *ret = (uint32_t)strtoul(at, NULL, 10);
    return 0;
}

/* "\tfield:long pause;\toffset:112;\tsize:8;\tsigned:1;" */
static int parse_field(const char *line, struct trace_field *ret)
{
    uint32_t is_signed = 0;
    int r = number_after(line, ";\toffset:", &ret->offset);

    if (r == 0)
        r = number_after(line, ";\tsize:", &ret->bytes);
    if (r == 0)
        r = number_after(line, ";\tsigned:", &is_signed);
    ret->is_signed = is_signed != 0;
    return r;
}

int trace_format_decode(const void *bytes, size_t len, const char *name, uint32_t *ret_id,
                        struct trace_field *ret)
{
    const char *at = bytes, *end = at + len;
    char line[LINE_MAX_BYTES];
    struct trace_field field = {0};
    bool has_id = false, has_field = false;
    uint32_t id = 0;

    if (len > TRACE_FORMAT_MAX_BYTES)
        return -EBADMSG;
    while (next_line(&at, end, line)) {
        if (strncmp(line, "ID: ", 4) == 0) {
            if (number_after(line, "ID: ", &id) < 0)
                return -EBADMSG;
            has_id = true;
        } else if (strncmp(line, "\tfield:", 7) == 0 && declares(line, name)) {
            if (parse_field(line, &field) < 0)
                return -EBADMSG;
            has_field = true;
        }
    }
    if (!has_id)
        return -EBADMSG;
    if (!has_field)
        return -ENOENT;
    *ret_id = id;
    *ret = field;
    return 0;
}
