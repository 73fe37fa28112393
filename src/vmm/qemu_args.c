/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_args.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "format/json.h"
#include "vmm/arg_list.h"

/* All options of QEMU 7.2 to 10 that take no value. */
static const char *const without_value[] = {
    "S",
    "async-teardown",
    "audio-help",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "nouserconfig",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
};

/* Options that say how this one process lives, where one looks at it, or what it booted. */
static const char *const of_the_host[] = {
    "D",     "S",       "add-fd",   "append", "chroot",  "d",      "daemonize",  "dfilter",
    "dtb",   "gdb",     "incoming", "initrd", "kernel",  "loadvm", "mem-path",   "mem-prealloc",
    "mon",   "monitor", "msg",      "name",   "pidfile", "qmp",    "qmp-pretty", "run-with",
    "runas", "s",       "spice",    "trace",  "vnc",
};

static bool is_one_of(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

bool qemu_option_next(const char *const *args, size_t at, struct qemu_option *ret)
{
    const char *word = args[at];
    bool takes_value;

    if (!word)
        return false;
    if (word[0] != '-' || word[1] == '\0') {
        *ret = (struct qemu_option){.name = "", .value = word, .at = at, .words = 1};
        return true;
    }
    word += word[1] == '-' ? 2 : 1;
    takes_value = args[at + 1] && !is_one_of(word, without_value, ARRAY_SIZE(without_value));
    *ret = (struct qemu_option){
        .name = word,
        .value = takes_value ? args[at + 1] : NULL,
        .at = at,
        .words = takes_value ? 2 : 1,
    };
    return true;
}

/* The end of the part that begins at @part: a comma that is not doubled, or the end of it all. */
static const char *part_end(const char *part)
{
    const char *at = part;

    for (;;) {
        at += strcspn(at, ",");
        if (at[0] != ',' || at[1] != ',')
            return at;
        at += 2;
    }
}

/* The bytes up to @end, with doubled commas made one. */
static char *unescape(const char *start, const char *end)
{
    char *text = malloc((size_t)(end - start) + 1), *to = text;

    if (!text)
        return NULL;
    while (start < end) {
        *to++ = *start;
        start += start[0] == ',' ? 2 : 1;
    }
    *to = '\0';
    return text;
}

static char *json_get_copy(const char *value, const char *key)
{
    json_t *object CLEANUP_JSON = json_loads(value, 0, NULL);
    const char *text = json_string_value(json_object_get(object, key));

    return text ? strdup(text) : NULL;
}

char *qemu_option_get(const char *value, const char *first_key, const char *key)
{
    const char *part = value;
    size_t key_len = strlen(key);

    if (value[0] == '{')
        return json_get_copy(value, key);
    for (;;) {
        const char *end = part_end(part);
        const char *equals = memchr(part, '=', (size_t)(end - part));

        if (equals && (size_t)(equals - part) == key_len && memcmp(part, key, key_len) == 0)
            return unescape(equals + 1, end);
        if (!equals && part == value && first_key && strcmp(first_key, key) == 0)
            return unescape(part, end);
        if (*end == '\0')
            return NULL;
        part = end + 1;
    }
}

static bool says(const char *value, const char *first_key, const char *key, const char *wanted)
{
    char *text CLEANUP_FREE = value ? qemu_option_get(value, first_key, key) : NULL;

    return text && strcmp(text, wanted) == 0;
}

static char *object_id(const struct qemu_option *o)
{
    return o->value ? qemu_option_get(o->value, NULL,
                                      strcmp(o->name, "blockdev") == 0 ? "node-name" : "id")
                    : NULL;
}

bool qemu_option_same_object(const struct qemu_option *a, const struct qemu_option *b)
{
    char *first CLEANUP_FREE = object_id(a);
    char *second CLEANUP_FREE = object_id(b);

    return first && second && strcmp(a->name, b->name) == 0 && strcmp(first, second) == 0;
}

bool qemu_args_name_disk(const char *const *args)
{
    struct qemu_option o;

    for (size_t at = 0; qemu_option_next(args, at, &o); at += o.words) {
        if (strcmp(o.name, "device") == 0 && says(o.value, "driver", "drive", QEMU_DISK_ID))
            return true;
    }
    return false;
}

bool qemu_args_find(const char *const *args, const char *name)
{
    struct qemu_option o;

    for (size_t at = 0; qemu_option_next(args, at, &o); at += o.words) {
        if (strcmp(o.name, name) == 0)
            return true;
    }
    return false;
}

/* Whether the monitor that @o makes talks through the character device @id. */
static bool is_monitor_of(const struct qemu_option *o, const char *id)
{
    if (strcmp(o->name, "mon") == 0)
        return says(o->value, "chardev", "chardev", id);
    if (strcmp(o->name, "qmp") == 0 || strcmp(o->name, "qmp-pretty") == 0 ||
        strcmp(o->name, "monitor") == 0)
        return o->value && strncmp(o->value, "chardev:", 8) == 0 && strcmp(o->value + 8, id) == 0;
    return false;
}

static bool is_of_a_monitor(const char *const *args, const struct qemu_option *chardev)
{
    char *id CLEANUP_FREE = object_id(chardev);
    struct qemu_option o;

    for (size_t at = 0; id && qemu_option_next(args, at, &o); at += o.words) {
        if (is_monitor_of(&o, id))
            return true;
    }
    return false;
}

static bool is_root_disk(const struct qemu_option *o)
{
    bool is_drive = strcmp(o->name, "drive") == 0;

    if (!is_drive && strcmp(o->name, "blockdev") != 0)
        return false;
    return says(o->value, NULL, "node-name", QEMU_DISK_ID) ||
           (is_drive && says(o->value, NULL, "id", QEMU_DISK_ID));
}

static bool belongs_to_host(const char *const *args, const struct qemu_option *o)
{
    if (is_one_of(o->name, of_the_host, ARRAY_SIZE(of_the_host)))
        return true;
    if (strcmp(o->name, "chardev") == 0)
        return is_of_a_monitor(args, o);
    if (strcmp(o->name, "object") == 0)
        return says(o->value, "qom-type", "id", QEMU_MEMORY_ID);
    return is_root_disk(o);
}

/* The machine's value with its type's full name: it is the first part, or follows "type=". */
static void add_machine(struct arg_list *ret, const char *value, const char *machine)
{
    char *type CLEANUP_FREE = qemu_option_get(value, "type", "type");
    const char *part = value;

    while (type && *part) {
        const char *end = part_end(part);
        bool named = strncmp(part, "type=", 5) == 0;

        if (named || (part == value && !memchr(part, '=', (size_t)(end - part)))) {
            arg_list_add_format(ret, "%.*s%s%s%s", (int)(part - value), value, named ? "type=" : "",
                                machine, end);
            return;
        }
        part = *end ? end + 1 : end;
    }
    arg_list_add(ret, value);
}

static void add_option(struct arg_list *ret, const struct qemu_option *o, const char *const *args,
                       const char *machine)
{
    bool is_machine = strcmp(o->name, "machine") == 0 || strcmp(o->name, "M") == 0;

    for (size_t i = 0; i < o->words; i++) {
        if (i == 1 && is_machine)
            add_machine(ret, o->value, machine);
        else
            arg_list_add(ret, args[o->at + i]);
    }
}

/* The words of @cmdline but the first; they are borrowed from it. */
static int split(const char *cmdline, size_t len_bytes, const char *words[QEMU_ARGS_MAX + 1],
                 struct thaw_error *e)
{
    const char *end = cmdline + len_bytes;
    size_t n = 0;

    if (len_bytes == 0 || end[-1] != '\0')
        return err_set(e, -EBADMSG, "QEMU's command line does not end with a NUL");
    for (cmdline += strlen(cmdline) + 1; cmdline < end; cmdline += strlen(cmdline) + 1) {
        if (n == QEMU_ARGS_MAX)
            return err_set(e, -E2BIG, "QEMU's command line has more than %d words", QEMU_ARGS_MAX);
        words[n++] = cmdline;
    }
    words[n] = NULL;
    return 0;
}

int qemu_args_record(const void *cmdline, size_t len_bytes, const char *machine,
                     struct arg_list *ret, struct thaw_error *e)
{
    const char **words CLEANUP_FREE = calloc(QEMU_ARGS_MAX + 1, sizeof(*words));
    struct qemu_option o;
    int r;

    if (!words)
        return err_set(e, -ENOMEM, "no memory for QEMU's command line");
    r = split(cmdline, len_bytes, words, e);
    if (r < 0)
        return r;
    for (size_t at = 0; qemu_option_next(words, at, &o); at += o.words) {
        if (!belongs_to_host(words, &o))
            add_option(ret, &o, words, machine);
    }
    return ret->failed ? err_set(e, -ENOMEM, "no memory for QEMU's command line") : 0;
}
