/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_command.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/units.h"
#include "vmm/arg_list.h"
#include "vmm/qemu_args.h"
#include "vmm/shim_dir.h" /* generated: THAW_SHIM_DIR */

#define SHIM_NAME "libthaw-shim.so"

#if defined(__x86_64__)
#define DEFAULT_PROGRAM "qemu-system-x86_64"
#elif defined(__aarch64__)
#define DEFAULT_PROGRAM "qemu-system-aarch64"
#else
#error "no QEMU is known for this architecture"
#endif

static size_t count(const char *const *list)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    return n;
}

/* "-chardev socket,id=ser" is two arguments, "-S" is one. */
static void add_option(struct arg_list *s, const char *option)
{
    size_t word_len = strcspn(option, " ");

    arg_list_add_owned(s, strndup(option, word_len));
    option += word_len;
    option += strspn(option, " ");
    if (*option)
        arg_list_add(s, option);
}

/* The recorded arguments, but for what an extra option makes anew: one that names the same object
 * takes the place of the recorded one. */
static void add_recorded(struct arg_list *s, const struct vmm_options *o,
                         const struct arg_list *extra)
{
    struct qemu_option recorded, other;

    for (size_t at = 0; qemu_option_next(o->args, at, &recorded); at += recorded.words) {
        bool replaced = false;

        for (size_t i = 0; extra->v && qemu_option_next((const char *const *)extra->v, i, &other);
             i += other.words)
            replaced = replaced || qemu_option_same_object(&recorded, &other);
        for (size_t i = 0; i < recorded.words && !replaced; i++)
            arg_list_add(s, o->args[at + i]);
    }
}

/* A comma ends a value, unless there are two of them. NULL on no memory. */
static char *double_commas(const char *text)
{
    char *copy = malloc(2 * strlen(text) + 1), *to = copy;

    if (!copy)
        return NULL;
    for (; *text; text++) {
        *to++ = *text;
        if (*text == ',')
            *to++ = ',';
    }
    *to = '\0';
    return copy;
}

static void add_disk(struct arg_list *s, const struct vmm_options *o)
{
    char *path CLEANUP_FREE = o->disk_socket ? double_commas(o->disk_socket) : NULL;
    char *name CLEANUP_FREE = double_commas(o->disk_export ? o->disk_export : "");

    if (!o->disk_socket)
        return;
    if (!path || !name) {
        s->failed = true;
        return;
    }
    arg_list_add(s, "-blockdev");
    arg_list_add_format(s,
                        "driver=nbd,node-name=" QEMU_DISK_ID ",server.type=unix,server.path=%s,"
                        "reconnect-delay=10,export=%s",
                        path, name);
}

static int build_argv(const struct vmm_options *o, char ***ret, struct thaw_error *e)
{
    struct arg_list s CLEANUP_ARG_LIST = {0}, extra CLEANUP_ARG_LIST = {0};

    for (size_t i = 0; o->extra_options && o->extra_options[i]; i++)
        add_option(&extra, o->extra_options[i]);
    arg_list_add(&s, o->program ? o->program : DEFAULT_PROGRAM);
    add_recorded(&s, o, &extra);
    arg_list_add(&s, "-object");
    arg_list_add_format(&s,
                        "memory-backend-file,id=" QEMU_MEMORY_ID ",size=%" PRIu64
                        ",mem-path=/proc/self/fd/%d,share=on",
                        o->memory_bytes, QEMU_MEMORY_FD);
    add_disk(&s, o);
    arg_list_add(&s, "-incoming");
    arg_list_add(&s, "defer");
    arg_list_add(&s, "-S"); /* paused after the load, whatever state the snapshot was taken in */
    arg_list_add(&s, "-chardev");
    arg_list_add_format(&s, "socket,id=thaw-qmp,fd=%d", QEMU_QMP_FD);
    arg_list_add(&s, "-mon");
    arg_list_add(&s, "chardev=thaw-qmp,mode=control");
    for (size_t i = 0; i < extra.n; i++)
        arg_list_add(&s, extra.v[i]);
    if (s.failed || extra.failed)
        return err_set(e, -ENOMEM, "no memory for QEMU's command line");
    if (qemu_args_find((const char *const *)s.v + 1, "daemonize"))
        return err_set(e, -EINVAL, "QEMU cannot be run with -daemonize: thaw waits for its end");
    *ret = TAKE_PTR(s.v);
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
    struct arg_list s CLEANUP_ARG_LIST = {0};
    int r = find_shim(shim, e);

    if (r < 0)
        return r;
    if (strpbrk(shim, " :"))
        return err_set(e, -EINVAL,
                       "%s cannot be preloaded, because its path holds a blank or a colon; set "
                       "THAW_SHIM to a copy elsewhere",
                       shim);
    arg_list_add_format(&s, "LD_PRELOAD=%s%s%s", shim, others && *others ? ":" : "",
                        others ? others : "");
    arg_list_add_format(&s, "THAW_SHIM_SOCKET=%s", o->memory_socket);
    arg_list_add_format(&s, "THAW_SHIM_BYTES=%" PRIu64, o->memory_bytes);
    arg_list_add_format(&s, "THAW_SHIM_PAGE_BYTES=%" PRIu64, o->page_bytes);
    arg_list_add_format(&s, "THAW_SHIM_READY_FD=%d", QEMU_READY_FD);
    if (s.failed)
        return err_set(e, -ENOMEM, "no memory for QEMU's environment");
    *ret = TAKE_PTR(s.v);
    return 0;
}

/* What the recorded arguments and the build say of the guest must be the same. */
static int check_disk(const struct vmm_options *o, struct thaw_error *e)
{
    bool named = qemu_args_name_disk(o->args);

    if (o->disk_socket && !named)
        return err_set(
            e, -EINVAL,
            "the build has a disk, and its recorded arguments have no device on it: "
            "create it with --vmm-arg=-device --vmm-arg=virtio-blk-pci,drive=" QEMU_DISK_ID
            " among them, as it was in the machine");
    if (!o->disk_socket && named)
        return err_set(e, -EINVAL,
                       "the recorded arguments have a device on drive '" QEMU_DISK_ID
                       "', and the build has no disk: create it with --rootfs");
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
    if (count(o->args) > QEMU_ARGS_MAX || count(o->extra_options) > QEMU_ARGS_MAX)
        return err_set(e, -E2BIG, "QEMU's command line has more than %d arguments", QEMU_ARGS_MAX);
    if (strlen(o->memory_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(e, -ENAMETOOLONG, "the path of the memory socket is too long: %s",
                       o->memory_socket);
    r = check_disk(o, e);
    if (r == 0)
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
    strv_free(c->argv);
    strv_free(c->environment);
    free(c);
}
