/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file system that shows a folder, and fails when it is told to:
 *
 *   faultfs FOLDER MOUNTPOINT SOCKET
 *
 * Mounts itself, prints a line of JSON once it serves, and unmounts at SIGTERM, SIGINT, or when its
 * parent dies. What goes wrong it is told by the socket (rules.h). Needs root and /dev/fuse.
 *
 * It speaks the kernel's protocol itself (linux/fuse.h): so it has files without a name and
 * SEEK_HOLE, and an operation that hangs is a request in a list, and costs no thread. An
 * inode of the kernel's is a node here, which holds an O_PATH descriptor; an open file is a
 * descriptor. The files are opened without O_DIRECT, so that a rule may tear a write anywhere.
 */
#include "faultfs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define WORKERS 4
#define BUFFER  (DATA_BYTES + 64 * KIB) /* of a request, with room for its head */

static int device; /* /dev/fuse */

/* --- requests --- */

static void answer(const struct call *c, int r)
{
    struct fuse_out_header out = {.unique = c->in->unique, .error = MIN(r, 0)};
    struct iovec iov[] = {{&out, sizeof(out)}, {c->out, (size_t)MAX(r, 0)}};

    out.len = (uint32_t)(iov[0].iov_len + iov[1].iov_len);
    if (writev(device, iov, 2) < 0 && errno != ENOENT && errno != ENODEV) {
        /* What was opened for one who is gone (ENOENT) stays open until we end. */
        perror("faultfs: an answer");
        exit(EXIT_FAILURE);
    }
}

static void run(struct call *c)
{
    const struct operation *o = operation_of(c->in->opcode);
    int r = c->fault.kind == FAULT_ERROR ? -c->fault.error : o->run(c);

    if (!o->silent)
        answer(c, r);
}

static void serve(const void *request, size_t len, void *out)
{
    const struct fuse_in_header *in = request;
    const struct operation *o = operation_of(in->opcode);
    struct call c = {.in = in, .arg = in + 1, .out = out};

    if (!o) {
        answer(&c, -ENOSYS);
        return;
    }
    c.fault = fault_judge(o->op, request, len);
    if (c.fault.kind != FAULT_HANG)
        run(&c);
}

static void serve_held(const void *request)
{
    const struct fuse_in_header *in = request;
    struct call c = {.in = in, .arg = in + 1, .out = aligned_alloc(PAGE_BYTES, BUFFER)};

    if (!c.out)
        abort();
    run(&c);
    free(c.out);
}

static void *work(void *arg)
{
    char *request = aligned_alloc(PAGE_BYTES, BUFFER), *out = aligned_alloc(PAGE_BYTES, BUFFER);

    while (request && out) {
        ssize_t n = read(device, request, BUFFER);

        if (n >= 0)
            serve(request, (size_t)n, out);
        else if (errno == ENODEV)
            break; /* unmounted */
        else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
            abort();
    }
    free(request);
    free(out);
    return arg;
}

/* --- main --- */

static int mount_it(const char *mount_point)
{
    char options[200];

    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -errno;
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device);
    return mount("faultfs", mount_point, "fuse.faultfs", MS_NOSUID | MS_NODEV, options) < 0 ? -errno
                                                                                            : 0;
}

static int start(const char *folder, const char *socket, const char *mount_point)
{
    pthread_t thread;
    int r = nodes_init(folder);

    if (r == 0)
        r = faults_listen(socket, serve_held);
    if (r == 0)
        r = mount_it(mount_point);
    for (unsigned i = 0; i < WORKERS && r == 0; i++)
        r = -pthread_create(&thread, NULL, work, NULL);
    return r;
}

int main(int argc, char **argv)
{
    sigset_t end;
    int r, signum;

    if (argc != 4) {
        fputs("usage: faultfs FOLDER MOUNTPOINT SOCKET\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    umask(0);
    r = start(argv[1], argv[3], argv[2]);
    if (r < 0) {
        fprintf(stderr, "faultfs: %s on %s: %s\n", argv[1], argv[2], strerror(-r));
        return r == -EPERM || r == -ENOENT || r == -ENODEV ? 77 : 1;
    }
    printf("{\"mounted\":\"%s\"}\n", argv[2]);
    fflush(stdout);
    sigwait(&end, &signum);
    umount2(argv[2], MNT_DETACH);
    unlink(argv[3]);
    return 0;
}
