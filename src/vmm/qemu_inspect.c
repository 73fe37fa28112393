/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_inspect.h"

#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "vmm/qemu_args.h"

#define MEMORY_HELP                                                                                \
    "start the guest with -machine TYPE,memory-backend=" QEMU_MEMORY_ID                            \
    " -object memory-backend-memfd,id=" QEMU_MEMORY_ID ",size=SIZE,share=on"
#define FILE_HELP                                                                                  \
    "start the guest with -object memory-backend-file,id=" QEMU_MEMORY_ID                          \
    ",size=SIZE,mem-path=/dev/shm/NAME,share=on"

struct inspection {
    struct qmp *qmp;
    uint64_t deadline_ns;
    struct qemu_guest *guest;
    struct thaw_error *e;
};

static int ask(const struct inspection *i, const char *command, json_t *arguments, json_t **ret)
{
    return qmp_execute(i->qmp, command, arguments, i->deadline_ns, ret, i->e);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/* One property of the machine, which must be a text. */
static int ask_machine(const struct inspection *i, const char *property, json_t **ret)
{
    json_t *value = NULL;
    int r = ask(i, "qom-get", json_pack("{s:s, s:s}", "path", "/machine", "property", property),
                &value);

    if (r < 0)
        return r;
    if (!json_is_string(value)) {
        json_decref(value);
        return err_set(i->e, -EPROTO, "QEMU's property '%s' of the machine is no text", property);
    }
    *ret = value;
    return 0;
}

/* "pc-q35-7.2-machine" is the type of machine pc-q35-7.2. */
static int inspect_machine(const struct inspection *i)
{
    static const char suffix[] = "-machine";
    json_t *type CLEANUP_JSON = NULL;
    int r = ask_machine(i, "type", &type);
    const char *text;
    size_t len;

    if (r < 0)
        return r;
    text = json_string_value(type);
    len = strlen(text);
    if (len <= strlen(suffix) || strcmp(text + len - strlen(suffix), suffix) != 0)
        return err_set(i->e, -EPROTO, "QEMU's machine is of the strange type '%s'", text);
    i->guest->machine = strndup(text, len - strlen(suffix));
    return i->guest->machine ? 0 : err_set(i->e, -ENOMEM, "no memory for a name");
}

static int inspect_status(const struct inspection *i)
{
    static const char *const fit[] = {"running", "paused", "prelaunch"};
    json_t *info CLEANUP_JSON = NULL;
    int r = ask(i, "query-status", NULL, &info);
    const char *status;

    if (r < 0)
        return r;
    status = text_of(info, "status");
    i->guest->running = json_is_true(json_object_get(info, "running"));
    for (size_t k = 0; k < ARRAY_SIZE(fit); k++) {
        if (strcmp(status, fit[k]) == 0)
            return 0;
    }
    if (strcmp(status, "postmigrate") == 0)
        return err_set(i->e, -EBUSY,
                       "the guest stands still since its state was saved, and QEMU saves it once "
                       "only: let it go on first (QMP: cont)");
    return err_set(i->e, -EBUSY, "the guest is '%s': a build is made of one that runs or is paused",
                   status);
}

/* From 8.1 on QEMU leaves memory out of its state only where it has been given a file for it. */
static int check_backend_type(const struct inspection *i)
{
    struct qmp_version v = qmp_version(i->qmp);
    json_t *objects CLEANUP_JSON = NULL, *object;
    size_t k;
    int r;

    if (v.major < 8 || (v.major == 8 && v.minor < 1))
        return 0;
    r = ask(i, "qom-list", json_pack("{s:s}", "path", "/objects"), &objects);
    if (r < 0)
        return r;
    json_array_foreach(objects, k, object)
    {
        if (strcmp(text_of(object, "name"), QEMU_MEMORY_ID) == 0 &&
            !strstr(text_of(object, "type"), "memory-backend-file"))
            return err_set(i->e, -ENOTSUP,
                           "QEMU %u.%u leaves memory out of the state that it saves only if it is "
                           "a file: " FILE_HELP,
                           v.major, v.minor);
    }
    return 0;
}

static int inspect_memory(const struct inspection *i)
{
    json_t *backends CLEANUP_JSON = NULL, *used CLEANUP_JSON = NULL, *backend, *mem = NULL;
    const char *name;
    size_t k;
    int r = ask(i, "query-memdev", NULL, &backends);

    if (r == 0)
        r = ask_machine(i, "memory-backend", &used);
    if (r < 0)
        return r;
    json_array_foreach(backends, k, backend)
    {
        if (strcmp(text_of(backend, "id"), QEMU_MEMORY_ID) == 0)
            mem = backend;
    }
    name = strrchr(json_string_value(used), '/');
    name = name ? name + 1 : json_string_value(used);
    if (!mem || strcmp(name, QEMU_MEMORY_ID) != 0)
        return err_set(i->e, -ENOTSUP,
                       "the guest's memory is not the backend '" QEMU_MEMORY_ID "': " MEMORY_HELP);
    if (json_array_size(backends) != 1)
        return err_set(i->e, -ENOTSUP,
                       "the guest has %zu memory backends; a build holds one, '" QEMU_MEMORY_ID "'",
                       json_array_size(backends));
    if (!json_is_true(json_object_get(mem, "share")))
        return err_set(i->e, -ENOTSUP, "the guest's memory is private to QEMU: " MEMORY_HELP);
    i->guest->memory_bytes = (uint64_t)json_integer_value(json_object_get(mem, "size"));
    if (i->guest->memory_bytes == 0 || i->guest->memory_bytes % PAGE_BYTES != 0)
        return err_set(i->e, -EPROTO, "QEMU does not tell how much memory its guest has");
    return check_backend_type(i);
}

/* A disk that the build would not have, and that the guest has written to, is a disk that the
 * resumed guest would find in another state than it left it. */
static int take_disk(const struct inspection *i, const json_t *disk)
{
    const json_t *medium = json_object_get(disk, "inserted");
    const char *node = text_of(medium, "node-name"), *device = text_of(disk, "device");

    if (!medium)
        return 0;
    if (strcmp(node, QEMU_DISK_ID) == 0 || strcmp(device, QEMU_DISK_ID) == 0) {
        free(i->guest->disk_node);
        i->guest->disk_node = strdup(node);
        return i->guest->disk_node ? 0 : err_set(i->e, -ENOMEM, "no memory for a name");
    }
    if (json_is_true(json_object_get(medium, "ro")))
        return 0;
    return err_set(i->e, -ENOTSUP,
                   "the guest can write to the disk '%s' (node '%s', %s), which the build would "
                   "not have: a build has one disk, the node '" QEMU_DISK_ID
                   "'; others must be read-only",
                   *device ? device : text_of(disk, "qdev"), node, text_of(medium, "file"));
}

static int inspect_disks(const struct inspection *i)
{
    json_t *disks CLEANUP_JSON = NULL, *disk;
    size_t k;
    int r = ask(i, "query-block", NULL, &disks);

    json_array_foreach(disks, k, disk)
    {
        if (r == 0)
            r = take_disk(i, disk);
    }
    return r;
}

int qemu_inspect(struct qmp *q, uint64_t deadline_ns, struct qemu_guest *ret, struct thaw_error *e)
{
    struct inspection i = {.qmp = q, .deadline_ns = deadline_ns, .guest = ret, .e = e};
    int r = inspect_status(&i);

    if (r == 0)
        r = inspect_machine(&i);
    if (r == 0)
        r = inspect_memory(&i);
    if (r == 0)
        r = inspect_disks(&i);
    return r;
}

void qemu_guest_finish(struct qemu_guest *g)
{
    free(g->machine);
    free(g->disk_node);
    *g = (struct qemu_guest){0};
}
