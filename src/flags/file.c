/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The file of flags, read again whenever something happens in its folder.
 *
 * The folder is watched, not the file: a file that is replaced by rename is another file, and a
 * Kubernetes ConfigMap is a symbolic link over a link that is renamed, so that the name of the file
 * is in no event at all. Every event therefore means "read it again", and what was read is compared
 * with what was read before. The watch is set before the first read, so no change falls between.
 *
 * A file that is being written in place may be read half: no beginning of a JSON object is one, so
 * that does not hold, nothing changes, and the writer's close is the next event.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "flags/internal.h"
#include "format/flagd.h"

#define EVENTS                                                                                     \
    (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB |            \
     IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

/* The folder is not, or no longer, where its path says. */
#define LOST (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)

/* Values. */

/* A string, as people write it, or a number of bytes. */
static int convert_size(const struct flag_decl *d, const struct flagd_flag *from,
                        union flag_value *ret)
{
    if (from->type == FLAGD_STRING)
        return flag_parse_value(d, from->string, ret, NULL);
    if (from->type != FLAGD_INT || from->integer < 0)
        return -EINVAL;
    ret->bytes = (uint64_t)from->integer;
    return 0;
}

/* 0 and @ret when the file gives this flag a value that it can take */
static int convert(const struct flag_decl *d, const struct flagd_flag *from, union flag_value *ret)
{
    if (d->type == FLAG_SIZE)
        return convert_size(d, from, ret);
    if (d->type == FLAG_BOOL && from->type == FLAGD_BOOL)
        ret->boolean = from->boolean;
    else if (d->type == FLAG_INT && from->type == FLAGD_INT)
        ret->integer = from->integer;
    else if (d->type == FLAG_STRING && from->type == FLAGD_STRING &&
             strlen(from->string) <= FLAG_STRING_MAX)
        ret->string = from->string;
    else
        return -EINVAL;
    return 0;
}

/* What is wrong with this flag in the file; its value stays what it is. */
static void refuse(struct flags *f, size_t id, const char *what)
{
    struct flag_report now;

    flags_report(f, id, &now);
    flags_warn(f, "%s: flag %s: %s; it stays %s (%s)", f->file.path, f->decls[id].name, what,
               now.value, now.origin);
}

static void refuse_type(struct flags *f, size_t id, const struct flagd_flag *from)
{
    char what[160];

    if (from->type == FLAGD_STRING && f->decls[id].type == FLAG_STRING)
        snprintf(what, sizeof(what), "its value has more than %d bytes", FLAG_STRING_MAX);
    else if (f->decls[id].type == FLAG_SIZE && from->type == FLAGD_STRING)
        snprintf(what, sizeof(what), "its value is \"%.32s\", but must be %s", from->string,
                 flag_type_text(FLAG_SIZE));
    else if (f->decls[id].type == FLAG_SIZE && from->type == FLAGD_INT)
        snprintf(what, sizeof(what), "its value is negative, but must be %s",
                 flag_type_text(FLAG_SIZE));
    else
        snprintf(what, sizeof(what), "its value is %s, but must be %s", flagd_type_name(from->type),
                 flag_type_text(f->decls[id].type));
    refuse(f, id, what);
}

static void tell_targeting(struct flags *f, size_t id)
{
    struct flag_state *s = &f->states[id];

    if (!s->targeting_told)
        flags_warn(f,
                   "%s: flag %s has targeting rules, which thaw does not evaluate: its default "
                   "variant holds",
                   f->file.path, f->decls[id].name);
    s->targeting_told = true;
}

/* A flag that is read at start only keeps what it was told then. */
static bool frozen(struct flags *f, size_t id, const union flag_value *value)
{
    const struct flag_state *s = &f->states[id];
    bool says = s->says[FLAG_FROM_FILE]; /* only this thread writes it */

    if (!f->running || f->decls[id].run_time)
        return false;
    if (says != (value != NULL) ||
        (value && !flags_same(&f->decls[id], *value, s->said[FLAG_FROM_FILE])))
        refuse(f, id, "it is changed, which takes effect when thaw starts again");
    return true;
}

static void take_flag(struct flags *f, size_t id, const struct flagd_flag *from)
{
    union flag_value value;

    if (!from || from->type == FLAGD_UNSET) {
        if (!frozen(f, id, NULL))
            flags_unsay(f, id, FLAG_FROM_FILE);
        return;
    }
    if (from->type == FLAGD_INVALID) {
        refuse(f, id, from->problem);
        return;
    }
    if (convert(&f->decls[id], from, &value) < 0) {
        refuse_type(f, id, from);
        return;
    }
    if (from->targeting)
        tell_targeting(f, id);
    if (!frozen(f, id, &value) && flags_say(f, id, FLAG_FROM_FILE, value) < 0)
        refuse(f, id, "no memory");
}

static bool is_declared(const struct flags *f, const char *name)
{
    for (size_t i = 0; i < f->count; i++) {
        if (strcmp(f->decls[i].name, name) == 0)
            return true;
    }
    return false;
}

static void take_all(struct flags *f, const struct flagd_file *decoded)
{
    for (size_t i = 0; i < f->count; i++)
        take_flag(f, i, flagd_find(decoded, f->decls[i].name));
    for (size_t i = 0; i < decoded->count; i++) {
        if (!is_declared(f, decoded->flags[i].name))
            log_debug("%s: \"%s\" is no flag of this thaw: ignored", f->file.path,
                      decoded->flags[i].name);
    }
}

/* The file. */

static void cannot_read(struct flags *f, int code)
{
    struct flags_file *file = &f->file;
    char reason[128];

    file->seen = false;
    if (code != file->failed && code == -EFBIG)
        flags_warn(f, "%s: it has more than 1 MiB; the flags stay as they are", file->path);
    else if (code != file->failed && code == -EINVAL)
        flags_warn(f, "%s: it is not a regular file; the flags stay as they are", file->path);
    else if (code != file->failed)
        flags_warn(f, "%s: %s; the flags stay as they are", file->path,
                   strerror_r(-code, reason, sizeof(reason)));
    file->failed = code;
}

static bool seen_before(const struct flags_file *file, const struct buf *b)
{
    return file->seen && b->len == file->bytes.len &&
           (b->len == 0 || memcmp(b->data, file->bytes.data, b->len) == 0);
}

static void load(struct flags *f)
{
    struct flags_file *file = &f->file;
    struct flagd_file *decoded CLEANUP_FLAGD = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf b CLEANUP_BUF = {0};
    int r = file_load(AT_FDCWD, file->path, FLAGD_MAX_BYTES, &b);

    if (r == -ESTALE) /* cut while it was read: whoever does that is not done with it */
        return;
    if (r < 0) {
        cannot_read(f, r);
        return;
    }
    file->failed = 0;
    if (seen_before(file, &b))
        return;
    r = flagd_decode(b.data, b.len, &decoded, &e);
    if (r < 0)
        flags_warn(f, "%s: %s; the flags stay as they are", file->path, e.text);
    else
        take_all(f, decoded);
    file->seen = r != -ENOMEM;
    buf_finish(&file->bytes);
    file->bytes = b;
    b = (struct buf){0};
}

/* The watch. */

static int watch(struct flags_file *file)
{
    int w = inotify_add_watch(file->inotify_fd, file->folder, EVENTS);

    if (w < 0)
        return -errno;
    /* The same number again while it is the same folder. */
    if (file->watch >= 0 && file->watch != w)
        inotify_rm_watch(file->inotify_fd, file->watch);
    file->watch = w;
    return 0;
}

static void watch_again(struct flags *f)
{
    bool was_watched = f->file.watch >= 0;
    char reason[128];
    int r = watch(&f->file);

    if (r == 0)
        return;
    if (was_watched)
        inotify_rm_watch(f->file.inotify_fd, f->file.watch);
    f->file.watch = -1;
    if (was_watched)
        flags_warn(f,
                   "%s: the folder %s can no longer be watched: %s; the flags stay as they are "
                   "until it is back and SIGHUP is sent",
                   f->file.path, f->file.folder, strerror_r(-r, reason, sizeof(reason)));
}

/* Whether any of the events in @buf says that the folder under watch is gone. */
static bool lost_in(const struct flags_file *file, const char *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        struct inotify_event event;

        memcpy(&event, buf + at, sizeof(event));
        if (event.wd == file->watch && (event.mask & LOST))
            return true;
        at += sizeof(event) + event.len;
    }
    return false;
}

void flags_handle(struct flags *f)
{
    char buf[4096];
    bool any = false, lost = false;
    ssize_t n;

    if (f->file.inotify_fd < 0)
        return;
    while ((n = read(f->file.inotify_fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        any = true;
        lost = lost || (n > 0 && lost_in(&f->file, buf, (size_t)n));
    }
    if (lost)
        watch_again(f);
    if (any)
        load(f);
}

void flags_reload(struct flags *f)
{
    if (f->file.inotify_fd < 0)
        return;
    watch_again(f);
    f->file.seen = false; /* whoever asks wants to be told again what is wrong */
    f->file.failed = 0;
    load(f);
}

int flags_fd(const struct flags *f)
{
    return f->file.inotify_fd;
}

static int name_file(struct flags_file *file, const char *path)
{
    const char *slash = strrchr(path, '/');

    file->path = strdup(path);
    if (!slash)
        file->folder = strdup(".");
    else
        file->folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (asprintf(&file->origin, "file %s", path) < 0)
        file->origin = NULL;
    return file->path && file->folder && file->origin ? 0 : -ENOMEM;
}

int flags_file_open(struct flags *f, const char *path, struct thaw_error *e)
{
    struct flags_file *file = &f->file;
    int r;

    if (path[0] == '\0' || path[strlen(path) - 1] == '/')
        return err_set(e, -EINVAL, "flags: \"%s\" is not the path of a file", path);
    r = name_file(file, path);
    if (r < 0)
        return err_set(e, r, "flags: no memory");
    file->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (file->inotify_fd < 0)
        return err_errno(e, -errno, "flags: inotify (see fs.inotify.max_user_instances)");
    r = watch(file);
    if (r < 0)
        return err_errno(e, r, "flags: the folder of %s cannot be watched", path);
    load(f);
    return 0;
}

void flags_file_close(struct flags_file *file)
{
    close_fd(&file->inotify_fd);
    free(file->path);
    free(file->folder);
    free(file->origin);
    buf_finish(&file->bytes);
}
