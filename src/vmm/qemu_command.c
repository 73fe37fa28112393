/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_command.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/units.h"
#include "vmm/shim_dir.h" /* generated: THAW_SHIM_DIR */

#define ARGUMENTS_MAX 1024 /* recorded and extra ones, each; a real command line has some 50 */
#define SHIM_NAME     "libthaw-shim.so"

#if defined(__x86_64__)
#define DEFAULT_PROGRAM "qemu-system-x86_64"
#elif defined(__aarch64__)
#define DEFAULT_PROGRAM "qemu-system-aarch64"
#else
#error "no QEMU is known for this architecture"
#endif

/* A growing list of strings, as exec wants it. NULL on no memory once `failed` is set. */
struct strings {
    char **v; /* owned; always room for the NULL at the end */
    size_t n, cap;
    bool failed;
};

static void destroy_list(char **v)
{
    for (size_t i = 0; v && v[i]; i++)
        free(v[i]);
    free(v);
}

/* Append @text, whose memory becomes the list's; NULL stands for a failed allocation. */
static void add_owned(struct strings *s, char *text)
{
    if (text && !s->failed && s->n + 1 >= s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        char **v = reallocarray(s->v, cap, sizeof(*v));

        s->failed = !v;
        if (v) {
            s->v = v;
            s->cap = cap;
        }
    }
    if (!text || s->failed) {
        s->failed = true;
        free(text);
        return;
    }
    s->v[s->n++] = text;
    s->v[s->n] = NULL;
}

static void add(struct strings *s, const char *text)
{
    add_owned(s, strdup(text));
}

[[gnu::format(printf, 2, 3)]] static void add_format(struct strings *s, const char *fmt, ...)
{
    char *text;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    add_owned(s, text);
}

static size_t count(const char *const *list)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    return n;
}

/* "-chardev socket,id=ser" is two arguments, "-S" is one. */
static void add_option(struct strings *s, const char *option)
{
    size_t word_len = strcspn(option, " ");

    add_owned(s, strndup(option, word_len));
    option += word_len;
    option += strspn(option, " ");
    if (*option)
        add(s, option);
}

static int build_argv(const struct vmm_options *o, char ***ret, struct thaw_error *e)
{
    struct strings s = {0};

    add(&s, o->program ? o->program : DEFAULT_PROGRAM);
    for (size_t i = 0; o->args[i]; i++)
        add(&s, o->args[i]);
    add(&s, "-object");
    add_format(&s, "memory-backend-ram,id=mem,size=%" PRIu64, o->memory_bytes);
    add(&s, "-incoming");
    add(&s, "defer");
    add(&s, "-S"); /* paused after the load, whatever state the snapshot was taken in */
    add(&s, "-chardev");
    add_format(&s, "socket,id=thaw-qmp,fd=%d", QEMU_QMP_FD);
    add(&s, "-mon");
    add(&s, "chardev=thaw-qmp,mode=control");
    for (size_t i = 0; o->extra_options && o->extra_options[i]; i++)
        add_option(&s, o->extra_options[i]);
    if (s.failed) {
        destroy_list(s.v);
        return err_set(e, -ENOMEM, "no memory for QEMU's command line");
    }
    *ret = s.v;
    return 0;
}

/* Beside the program as installed into one folder, as it lies in a build tree, as installed by the
 * distribution; THAW_SHIM overrules all. */
static int find_shim(char ret[PATH_MAX], struct thaw_error *e)
{
    static const char *const beside[] = {SHIM_NAME, "src/shim/" SHIM_NAME};
    const char *named = getenv("THAW_SHIM");
    char folder[PATH_MAX];
    ssize_t n;

    if (named && *named) {
        if (snprintf(ret, PATH_MAX, "%s", named) < PATH_MAX && access(ret, R_OK) == 0)
            return 0;
        return err_errno(e, -errno, "THAW_SHIM names %s", named);
    }
    n = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    if (n > 0) {
        folder[n] = '\0';
        *strrchr(folder, '/') = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(beside); i++) {
            if (snprintf(ret, PATH_MAX, "%s/%s", folder, beside[i]) < PATH_MAX &&
                access(ret, R_OK) == 0)
                return 0;
        }
    }
    snprintf(ret, PATH_MAX, "%s/%s", THAW_SHIM_DIR, SHIM_NAME);
    if (access(ret, R_OK) == 0)
        return 0;
    return err_set(e, -ENOENT,
                   "%s is neither beside the running program nor in %s; set THAW_SHIM to its path",
                   SHIM_NAME, THAW_SHIM_DIR);
}

static int build_environment(const struct vmm_options *o, char ***ret, struct thaw_error *e)
{
    const char *others = getenv("LD_PRELOAD");
    char shim[PATH_MAX];
    struct strings s = {0};
    int r = find_shim(shim, e);

    if (r < 0)
        return r;
    if (strpbrk(shim, " :"))
        return err_set(e, -EINVAL,
                       "%s cannot be preloaded, because its path holds a blank or a colon; set "
                       "THAW_SHIM to a copy elsewhere",
                       shim);
    add_format(&s, "LD_PRELOAD=%s%s%s", shim, others && *others ? ":" : "", others ? others : "");
    add_format(&s, "THAW_SHIM_SOCKET=%s", o->memory_socket);
    add_format(&s, "THAW_SHIM_BYTES=%" PRIu64, o->memory_bytes);
    add_format(&s, "THAW_SHIM_PAGE_BYTES=%" PRIu64, o->page_bytes);
    add_format(&s, "THAW_SHIM_READY_FD=%d", QEMU_READY_FD);
    if (s.failed) {
        destroy_list(s.v);
        return err_set(e, -ENOMEM, "no memory for QEMU's environment");
    }
    *ret = s.v;
    return 0;
}

int qemu_command_build(const struct vmm_options *o, struct qemu_command **ret, struct thaw_error *e)
{
    struct qemu_command *c CLEANUP_QEMU_COMMAND = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return err_set(e, -ENOMEM, "no memory for QEMU's command line");
    if (o->page_bytes != PAGE_BYTES)
        return err_set(e, -EOPNOTSUPP,
                       "driver qemu serves guest pages of 4096 bytes, the build has pages of "
                       "%" PRIu64 " bytes",
                       o->page_bytes);
    if (o->memory_bytes == 0 || o->memory_bytes % PAGE_BYTES != 0)
        return err_set(e, -EINVAL, "a guest memory of %" PRIu64 " bytes is not a number of pages",
                       o->memory_bytes);
    if (count(o->args) > ARGUMENTS_MAX || count(o->extra_options) > ARGUMENTS_MAX)
        return err_set(e, -E2BIG, "QEMU's command line has more than %d arguments", ARGUMENTS_MAX);
    if (strlen(o->memory_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(e, -ENAMETOOLONG, "the path of the memory socket is too long: %s",
                       o->memory_socket);
    r = build_argv(o, &c->argv, e);
    if (r == 0)
        r = build_environment(o, &c->environment, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(c);
    return 0;
}

void qemu_command_destroy(struct qemu_command *c)
{
    if (!c)
        return;
    destroy_list(c->argv);
    destroy_list(c->environment);
    free(c);
}
