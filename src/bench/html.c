/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/html.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"

struct html {
    FILE *out;  /* owned: writes to @text */
    char *text; /* owned: valid after a flush, as is @len */
    size_t len;
};

struct html *html_create(const char *title, const char *style)
{
    struct html *h CLEANUP_HTML = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->out = open_memstream(&h->text, &h->len);
    if (!h->out)
        return NULL;
    html_put(h, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n");
    html_element(h, "title", title);
    html_put(h, "\n<style>\n%s</style>\n</head>\n<body>\n", style);
    return TAKE_PTR(h);
}

void html_destroy(struct html *h)
{
    if (!h)
        return;
    if (h->out)
        fclose(h->out);
    free(h->text);
    free(h);
}

void html_put(struct html *h, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(h->out, fmt, ap);
    va_end(ap);
}

static const char *entity_of(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    default:
        return NULL;
    }
}

void html_text(struct html *h, const char *text)
{
    for (; *text; text++) {
        const char *entity = entity_of(*text);

        if (entity)
            fputs(entity, h->out);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, h->out);
        else
            fputc(' ', h->out);
    }
}

void html_element(struct html *h, const char *name, const char *text)
{
    html_put(h, "<%s>", name);
    html_text(h, text);
    html_put(h, "</%s>", name);
}

/* A new file beside @path: its name, and a descriptor or -errno. */
static int open_beside(const char *path, char ret[PATH_MAX])
{
    int fd;

    if (snprintf(ret, PATH_MAX, "%s.XXXXXX", path) >= PATH_MAX)
        return -ENAMETOOLONG;
    fd = mkostemp(ret, O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int html_try(const char *path, struct thaw_error *e)
{
    char beside[PATH_MAX];
    int fd CLEANUP_FD = open_beside(path, beside);
    struct stat st;

    if (fd < 0)
        return err_errno(e, fd, "writing the page %s", path);
    unlink(beside);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(e, -EINVAL, "%s is there and is not a file, so the page cannot be", path);
    return 0;
}

static int replace(const char *path, const char *text, size_t len)
{
    char beside[PATH_MAX];
    int fd CLEANUP_FD = open_beside(path, beside);
    int r;

    if (fd < 0)
        return fd;
    r = file_write_at(fd, text, len, 0);
    if (r == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(beside, path) < 0))
        r = -errno;
    if (r < 0)
        unlink(beside);
    return r;
}

int html_write(struct html *h, const char *path, struct thaw_error *e)
{
    int r;

    html_put(h, "</body>\n</html>\n");
    if (fflush(h->out) == EOF)
        return err_set(e, -ENOMEM, "no memory for the page %s", path);
    r = replace(path, h->text, h->len);
    return r < 0 ? err_errno(e, r, "writing the page %s", path) : 0;
}
