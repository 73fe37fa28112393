/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's command lines: taken apart, recorded, made. And the other texts that a QEMU hands us. */
#include "vmm/qemu_args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "format/json.h"
#include "unit.h"
#include "vmm/arg_list.h"
#include "vmm/guest_memory.h"
#include "vmm/qemu_command.h"
#include "vmm/qemu_news.h"

/* ---- values ---- */

static void assert_gets(const char *value, const char *first_key, const char *key,
                        const char *expected)
{
    char *got CLEANUP_FREE = qemu_option_get(value, first_key, key);

    if (expected)
        assert_string_equal(got, expected);
    else
        assert_null(got);
}

static void values_are_taken_apart(void **state)
{
    (void)state;
    assert_gets("virtio-blk-pci,drive=rootfs", "driver", "drive", "rootfs");
    assert_gets("virtio-blk-pci,drive=rootfs", "driver", "driver", "virtio-blk-pci");
    assert_gets("virtio-blk-pci,drive=rootfs", NULL, "driver", NULL);
    assert_gets("driver=nbd,path=a,,b,,,,c,node-name=x", NULL, "path", "a,b,,c");
    assert_gets("driver=nbd,path=a,,b,,,,c,node-name=x", NULL, "node-name", "x");
    assert_gets("path=a,,id=mem", NULL, "id", NULL); /* it is the path's */
    assert_gets("path=a,,,id=mem", NULL, "id", "mem");
    assert_gets("xid=1,id2=2", NULL, "id", NULL);
    assert_gets("id=", NULL, "id", "");
    assert_gets("", "first", "first", "");
    assert_gets(",", NULL, "id", NULL);
    assert_gets("a,b", "first", "first", "a");
    assert_gets("{\"driver\": \"nbd\", \"node-name\": \"rootfs\"}", NULL, "node-name", "rootfs");
    assert_gets("{\"size\": 1}", NULL, "size", NULL);
    assert_gets("{not json", NULL, "id", NULL);
}

static void devices_on_the_root_disk_are_found(void **state)
{
    const char *const plain[] = {"-device", "virtio-blk-pci,drive=rootfs", NULL};
    const char *const dashes[] = {"-S", "--device", "driver=scsi-hd,drive=rootfs", NULL};
    const char *const json[] = {"-device", "{\"driver\": \"x\", \"drive\": \"rootfs\"}", NULL};
    const char *const other[] = {
        "-device", "virtio-blk-pci,drive=rootfs2", "-name", "drive=rootfs", "-device", NULL};

    (void)state;
    assert_true(qemu_args_name_disk(plain));
    assert_true(qemu_args_name_disk(dashes));
    assert_true(qemu_args_name_disk(json));
    assert_false(qemu_args_name_disk(other));
    assert_true(qemu_args_find(dashes, "S"));
    assert_false(qemu_args_find(other, "S"));
}

/* ---- recording ---- */

static int record(const char *line, size_t len, struct arg_list *ret)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int r = qemu_args_record(line, len, "pc-q35-7.2", ret, &e);

    assert_int_equal(e.code, r);
    return r;
}

/* The words of @v with @divider between them. */
static void join(char *const *v, const char *divider, char ret[4096])
{
    size_t len = 0;

    *ret = '\0';
    for (size_t i = 0; v && v[i]; i++)
        len += (size_t)snprintf(ret + len, 4096 - len, "%s%s", i > 0 ? divider : "", v[i]);
}

/* @words are divided by '|', so that blanks and empty words can be among them. */
static void assert_records(const char *words, const char *expected)
{
    struct arg_list got CLEANUP_ARG_LIST = {0};
    char line[4096], text[4096];
    size_t len = strlen(words) + 1;

    memcpy(line, words, len);
    for (size_t i = 0; i < len; i++) {
        if (line[i] == '|')
            line[i] = '\0';
    }
    assert_int_equal(record(line, len, &got), 0);
    join(got.v, "|", text);
    assert_string_equal(text, expected);
}

static void the_guest_is_kept_and_the_host_is_not(void **state)
{
    (void)state;
    assert_records("qemu|-machine|q35,memory-backend=mem|-m|1G|-nodefaults|-cpu|max",
                   "-machine|pc-q35-7.2,memory-backend=mem|-m|1G|-nodefaults|-cpu|max");
    assert_records("qemu|-object|memory-backend-file,id=mem,size=1G,mem-path=/x|-object|rng,id=r",
                   "-object|rng,id=r");
    assert_records("qemu|--object|{\"qom-type\": \"memory-backend-memfd\", \"id\": \"mem\"}|-usb",
                   "-usb");
    assert_records("qemu|-kernel|k|-initrd|i|-append|-S -daemonize|-S|-daemonize|-smp|2", "-smp|2");
    assert_records("qemu|-incoming|defer|-name|x|-pidfile|p|-D|log|-vnc|:1|-no-reboot",
                   "-no-reboot");
    assert_records("qemu|-blockdev|driver=file,filename=a,,node-name=x,node-name=rootfs|-device|"
                   "virtio-blk-pci,drive=rootfs",
                   "-device|virtio-blk-pci,drive=rootfs");
    assert_records("qemu|-drive|if=none,id=rootfs,file=a|-drive|if=none,id=seed,file=b",
                   "-drive|if=none,id=seed,file=b");
    assert_records("qemu", "");
    assert_records("qemu|-m", "-m"); /* QEMU would complain, and will again */
}

static void monitors_go_with_their_character_devices(void **state)
{
    (void)state;
    assert_records("qemu|-chardev|socket,id=q,path=/q|-mon|chardev=q,mode=control|-chardev|"
                   "socket,id=ser,path=/s|-serial|chardev:ser",
                   "-chardev|socket,id=ser,path=/s|-serial|chardev:ser");
    assert_records("qemu|-chardev|null,id=a|-chardev|null,id=b|-chardev|null,id=c|-mon|a|-qmp|"
                   "chardev:b|-monitor|chardev:c|-qmp|unix:/x",
                   "");
}

static void machines_get_their_full_names(void **state)
{
    (void)state;
    assert_records("qemu|-M|q35", "-M|pc-q35-7.2");
    assert_records("qemu|-machine|memory-backend=mem,type=q35,usb=off",
                   "-machine|memory-backend=mem,type=pc-q35-7.2,usb=off");
    assert_records("qemu|-machine|memory-backend=mem", "-machine|memory-backend=mem");
    assert_records("qemu|-machine|usb=off,q35", "-machine|usb=off,q35");
}

static void what_is_no_command_line_is_refused(void **state)
{
    struct arg_list got CLEANUP_ARG_LIST = {0};
    char many[2 * QEMU_ARGS_MAX + 8];

    (void)state;
    assert_int_equal(record("", 0, &got), -EBADMSG);
    assert_int_equal(record("qemu", 4, &got), -EBADMSG);
    memset(many, 'x', sizeof(many));
    for (size_t i = 1; i < sizeof(many); i += 2)
        many[i] = '\0';
    assert_int_equal(record(many, sizeof(many), &got), -E2BIG);
    assert_int_equal(record(many, 2 * (QEMU_ARGS_MAX + 1), &got), 0);
    assert_int_equal(got.n, QEMU_ARGS_MAX);
}

/* ---- making a command line ---- */

static int build(const char *const *args, const char *const *extra, const char *disk,
                 char ret[4096])
{
    struct vmm_options o = {
        .memory_socket = "/run/memory.sock",
        .memory_bytes = 64 * MIB,
        .page_bytes = PAGE_BYTES,
        .disk_socket = disk,
        .disk_export = disk ? "a,b" : NULL,
        .args = args,
        .extra_options = extra,
        .program = "qemu",
    };
    struct qemu_command *c CLEANUP_QEMU_COMMAND = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    int r;

    setenv("THAW_SHIM", "/dev/null", 1);
    r = qemu_command_build(&o, &c, &e);
    if (r == 0)
        join(c->argv, " ", ret);
    else
        snprintf(ret, 4096, "%s", e.text);
    return r;
}

static void extra_options_take_the_place_of_recorded_ones(void **state)
{
    const char *const args[] = {"-nodefaults", "-chardev",    "socket,id=ser,path=/old",
                                "-netdev",     "user,id=ser", "-serial",
                                "chardev:ser", NULL};
    const char *const extra[] = {"-chardev socket,id=ser,path=/new", "-usb", NULL};
    char text[4096];

    (void)state;
    assert_int_equal(build(args, extra, NULL, text), 0);
    assert_null(strstr(text, "/old"));
    assert_non_null(strstr(text, "-nodefaults -netdev user,id=ser -serial chardev:ser -object "));
    assert_non_null(strstr(text, " -chardev socket,id=ser,path=/new -usb"));
}

static void the_disk_is_where_it_was(void **state)
{
    const char *const with[] = {"-device", "virtio-blk-pci,drive=rootfs", NULL};
    const char *const without[] = {"-nodefaults", NULL};
    char text[4096];

    (void)state;
    assert_int_equal(build(with, NULL, "/run/a,b.sock", text), 0);
    assert_non_null(strstr(text, " -blockdev driver=nbd,node-name=rootfs,server.type=unix,"
                                 "server.path=/run/a,,b.sock,reconnect-delay=10,export=a,,b "));
    assert_int_equal(build(without, NULL, NULL, text), 0);
    assert_null(strstr(text, "-blockdev"));
    assert_int_equal(build(without, NULL, "/run/disk.sock", text), -EINVAL);
    assert_non_null(strstr(text, "no device on it"));
    assert_int_equal(build(with, NULL, NULL, text), -EINVAL);
    assert_non_null(strstr(text, "the build has no disk"));
}

static void a_daemon_is_refused(void **state)
{
    const char *const args[] = {"-nodefaults", NULL};
    const char *const extra[] = {"--daemonize", NULL};
    char text[4096];

    (void)state;
    assert_int_equal(build(args, extra, NULL, text), -EINVAL);
    assert_non_null(strstr(text, "-daemonize"));
}

/* ---- other texts ---- */

#define HEAD_A "7f0000000000-7f0000200000 rw-s 00000000 00:01 77    /memfd:mem (deleted)\n"
#define HEAD_B "7f0000200000-7f0000400000 rw-s 00200000 00:01 77    /memfd:mem (deleted)\n"
#define PLAIN  "Size: 2048 kB\nVmFlags: rd wr sh mr mw me ms sd \n"
#define SERVED "Size: 2048 kB\nVmFlags: rd wr sh mr mw me ms um sd \n"

static size_t parse(const char *text, uint64_t size_bytes, struct guest_mapping *ret)
{
    *ret = (struct guest_mapping){0};
    return guest_mapping_parse(text, strlen(text), size_bytes, ret);
}

static void guest_memory_is_found(void **state)
{
    struct guest_mapping m;

    (void)state;
    assert_int_equal(parse(HEAD_A PLAIN, 2 * MIB, &m), 1);
    assert_int_equal(m.start, 0x7f0000000000);
    assert_int_equal(m.end, 0x7f0000200000);
    assert_int_equal(m.inode, 77);
    assert_int_equal(m.minor, 1);
    assert_false(m.served);
    /* Two pieces are one mapping, of which a part is served; alone, neither has the size. */
    assert_int_equal(parse(HEAD_A PLAIN HEAD_B SERVED, 4 * MIB, &m), 1);
    assert_true(m.served && m.end == 0x7f0000400000);
    assert_int_equal(parse(HEAD_A PLAIN HEAD_B SERVED, 2 * MIB, &m), 0);
    /* A piece of another file ends it. */
    assert_int_equal(
        parse(HEAD_A SERVED "7f0000200000-7f0000400000 rw-s 00200000 00:01 78 /x\n", 2 * MIB, &m),
        2);
    assert_true(m.served);
    /* Private, or not to be written to, or of another size: not it. */
    assert_int_equal(parse("7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n" PLAIN, 2 * MIB, &m),
                     0);
    assert_int_equal(parse("7f0000000000-7f0000200000 r--s 00000000 00:01 7 \n" PLAIN, 2 * MIB, &m),
                     0);
    assert_int_equal(parse(HEAD_A, MIB, &m), 0);
    assert_int_equal(parse("", MIB, &m), 0);
    assert_int_equal(parse("x\n\n-\nVmFlags: um", MIB, &m), 0);
}

static void assert_news(const char *json, const char *expected)
{
    json_t *event CLEANUP_JSON = json_loads(json, 0, NULL);
    char text[VMM_NEWS_BYTES] = "";

    assert_non_null(event);
    assert_int_equal(qemu_news_text(event, text), expected != NULL);
    if (expected)
        assert_string_equal(text, expected);
}

static void events_become_sentences(void **state)
{
    (void)state;
    assert_news("{\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}",
                "the guest's kernel panicked (QEMU's action: pause)");
    assert_news("{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shutdown\"}}",
                "the guest shut itself down");
    assert_news("{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"host-qmp-quit\"}}", NULL);
    assert_news("{\"event\": \"RESET\"}", "the guest rebooted");
    assert_news(
        "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"node-name\": \"rootfs\", "
        "\"operation\": \"read\", \"action\": \"report\", \"reason\": \"I/O\\u001b error\"}}",
        "a read of the guest on disk 'rootfs' failed: I/O  error (QEMU's action: report)");
    assert_news("{\"event\": \"BLOCK_IO_ERROR\"}",
                "a ? of the guest on disk '?' failed: ? (QEMU's action: ?)");
    assert_news("{\"event\": \"RESUME\"}", NULL);
    assert_news("{\"event\": 1}", NULL);
    assert_news("{}", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_taken_apart),
        cmocka_unit_test(devices_on_the_root_disk_are_found),
        cmocka_unit_test(the_guest_is_kept_and_the_host_is_not),
        cmocka_unit_test(monitors_go_with_their_character_devices),
        cmocka_unit_test(machines_get_their_full_names),
        cmocka_unit_test(what_is_no_command_line_is_refused),
        cmocka_unit_test(extra_options_take_the_place_of_recorded_ones),
        cmocka_unit_test(the_disk_is_where_it_was),
        cmocka_unit_test(a_daemon_is_refused),
        cmocka_unit_test(guest_memory_is_found),
        cmocka_unit_test(events_become_sentences),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
