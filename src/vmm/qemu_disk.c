/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/source.h"
#include "image/source_nbd.h"
#include "vmm/qmp.h"

#define EXPORT_ID   "thaw-rootfs"
#define EXPORT_NAME "rootfs"
#define SOCKET_NAME "thaw-nbd" /* of the descriptor in QEMU */

/* A listening socket with a connection that waits to be accepted. */
static int make_sockets(int *ret_listener, int *ret_connected)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/tmp/thaw-XXXXXX"};
    int listener CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int connected CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char folder[sizeof(address.sun_path) / 2];
    int r = 0;

    if (listener < 0 || connected < 0 || !mkdtemp(address.sun_path))
        return -errno;
    snprintf(folder, sizeof(folder), "%.50s", address.sun_path);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/nbd", folder);
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 1) < 0 ||
        connect(connected, (struct sockaddr *)&address, sizeof(address)) < 0)
        r = -errno;
    unlink(address.sun_path);
    rmdir(folder);
    if (r < 0)
        return r;
    *ret_listener = TAKE_FD(listener);
    *ret_connected = TAKE_FD(connected);
    return 0;
}

static int start_server(struct qmp *q, int listener, uint64_t deadline_ns, struct thaw_error *e)
{
    json_t *address = json_pack("{s:{s:s, s:{s:s}}, s:i}", "addr", "type", "fd", "data", "str",
                                SOCKET_NAME, "max-connections", 1);
    int r = qmp_pass_fd(q, SOCKET_NAME, listener, deadline_ns, e);

    if (r < 0) {
        json_decref(address);
        return r;
    }
    return qmp_execute(q, "nbd-server-start", address, deadline_ns, NULL, e);
}

static int add_export(struct qmp *q, const char *node, uint64_t deadline_ns, struct thaw_error *e)
{
    json_t *arguments = json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id", EXPORT_ID,
                                  "node-name", node, "name", EXPORT_NAME, "writable", 0);

    return qmp_execute(q, "block-export-add", arguments, deadline_ns, NULL, e);
}

int qemu_disk_open(struct qmp *q, const char *node, uint64_t deadline_ns, struct source *ret,
                   struct thaw_error *e)
{
    int listener CLEANUP_FD = -1, connected CLEANUP_FD = -1;
    int r = make_sockets(&listener, &connected);

    if (r < 0)
        return err_errno(e, r, "making a socket to read the guest's disk by");
    r = start_server(q, listener, deadline_ns, e);
    if (r < 0)
        return r;
    r = add_export(q, node, deadline_ns, e);
    if (r == 0)
        r = source_open_nbd_socket(TAKE_FD(connected), EXPORT_NAME, "the guest's disk", ret, e);
    if (r < 0 && qmp_execute(q, "nbd-server-stop", NULL, deadline_ns, NULL, NULL) < 0)
        err_wrap(e, "QEMU's NBD server could not be stopped, and");
    return r;
}

int qemu_disk_close(struct qmp *q, uint64_t deadline_ns, struct thaw_error *e)
{
    /* Stops the export as well, and ends what is left of the connection. */
    return qmp_execute(q, "nbd-server-stop", NULL, deadline_ns, NULL, e);
}
