/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/accept.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

/*
 * RFC 9110 section 12.5.1: media ranges separated by commas, each followed by parameters, of which
 * `q` is the weight. A quoted parameter may have commas and semicolons in it.
 */

#define WEIGHT_MAX 1000

/* A part of the field. */
struct span {
    const char *at;
    size_t len;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static struct span trimmed(struct span s)
{
    for (; s.len > 0 && is_space(s.at[0]); s.at++)
        s.len--;
    while (s.len > 0 && is_space(s.at[s.len - 1]))
        s.len--;
    return s;
}

static bool equals(struct span s, const char *text)
{
    return s.len == strlen(text) && strncasecmp(s.at, text, s.len) == 0;
}

/* Cut off what is before the next @separator outside of quotes, and the separator. */
static struct span take_until(struct span *rest, char separator)
{
    struct span part = {.at = rest->at};
    bool quoted = false;

    for (; part.len < rest->len; part.len++) {
        char c = rest->at[part.len];

        if (c == separator && !quoted)
            break;
        if (c == '"')
            quoted = !quoted;
        else if (c == '\\' && quoted && part.len + 1 < rest->len)
            part.len++;
    }
    rest->at += part.len;
    rest->len -= part.len;
    if (rest->len > 0) {
        rest->at++;
        rest->len--;
    }
    return trimmed(part);
}

static struct span unquoted(struct span s)
{
    if (s.len >= 2 && s.at[0] == '"' && s.at[s.len - 1] == '"')
        return (struct span){s.at + 1, s.len - 2};
    return s;
}

/* "0.25" as thousandths: a digit, perhaps a point and up to three more. -1 if it is not that. */
static int parse_weight(struct span s)
{
    int weight, unit = WEIGHT_MAX / 10;

    if (s.len == 0 || s.len > 5 || (s.at[0] != '0' && s.at[0] != '1'))
        return -1;
    weight = s.at[0] == '1' ? WEIGHT_MAX : 0;
    if (s.len > 1 && s.at[1] != '.')
        return -1;
    for (size_t i = 2; i < s.len; i++, unit /= 10) {
        if (s.at[i] < '0' || s.at[i] > '9')
            return -1;
        weight += (s.at[i] - '0') * unit;
    }
    return weight <= WEIGHT_MAX ? weight : -1;
}

/* The parameters after a media range. */
struct parameters {
    int weight; /* -1 is not a weight */
    bool proto, delimited, other_version;
};

static struct parameters parse_parameters(struct span rest)
{
    struct parameters p = {.weight = WEIGHT_MAX};

    while (rest.len > 0) {
        struct span value = take_until(&rest, ';');
        struct span name = take_until(&value, '=');

        value = unquoted(trimmed(value));
        if (equals(name, "q"))
            p.weight = parse_weight(value);
        else if (equals(name, "proto"))
            p.proto = equals(value, "io.prometheus.client.MetricFamily");
        else if (equals(name, "encoding"))
            p.delimited = equals(value, "delimited");
        else if (equals(name, "version"))
            p.other_version = !equals(value, "0.0.4");
    }
    return p;
}

static void weigh(int *weight, int *specific, int new_weight, int new_specific)
{
    if (new_specific < *specific || (new_specific == *specific && new_weight < *weight))
        return;
    *weight = new_weight;
    *specific = new_specific;
}

void accept_add(struct accept *a, const char *field, size_t len)
{
    struct span rest = {field, len};

    while (rest.len > 0) {
        struct span parameters = take_until(&rest, ',');
        struct span range = take_until(&parameters, ';');
        struct parameters p = parse_parameters(parameters);

        if (p.weight < 0)
            continue;
        if (equals(range, "*/*") || equals(range, "text/*"))
            weigh(&a->text, &a->text_specific, p.weight, 1 + (range.at[0] != '*'));
        else if (equals(range, "text/plain") && !p.other_version)
            weigh(&a->text, &a->text_specific, p.weight, 3);
        if (equals(range, "*/*") || equals(range, "application/*"))
            weigh(&a->protobuf, &a->protobuf_specific, p.weight, 1 + (range.at[0] != '*'));
        else if (equals(range, "application/vnd.google.protobuf") && p.proto && p.delimited)
            weigh(&a->protobuf, &a->protobuf_specific, p.weight, 3);
    }
}

bool accept_wants_protobuf(const struct accept *a)
{
    return a->protobuf > a->text;
}
