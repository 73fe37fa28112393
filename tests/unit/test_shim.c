/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The preload library in a process of its own, shim_client.c, with this one as its memory server.
 *
 *     test-shim PATH_OF_LIBTHAW_SHIM PATH_OF_CLIENT
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/units.h"
#include "format/handover.h"
#include "kernel/uffd.h"
#include "shim_client.h"
#include "unit.h"
#include "vmm/process.h"

#define LONG_WAIT (clock_now_ns() + 60 * NS_PER_SEC)

static char client[PATH_MAX], shim[PATH_MAX], folder[] = "/tmp/thaw-test-shimXXXXXX";
static char log_path[64], socket_path[64];

/* ---- the memory server ---- */

static int listen_here(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static struct process *start_client(const char *how, const char *ready_fd, const int *fds,
                                    size_t fd_count)
{
    const char *argv[] = {client, how, NULL};
    char preload[2 * PATH_MAX], socket_entry[128], bytes_entry[64], ready_entry[64];
    const char *environment[] = {preload, socket_entry, bytes_entry, ready_entry, NULL};
    struct process_options o = {
        .argv = argv,
        .environment = environment,
        .fds = fds,
        .fd_count = fd_count,
        .log_path = log_path,
    };
    struct thaw_error e = THAW_ERROR_INIT;
    struct process *p = NULL;

    snprintf(preload, sizeof(preload), "LD_PRELOAD=%s:libc.so.6", shim);
    snprintf(socket_entry, sizeof(socket_entry), "THAW_SHIM_SOCKET=%s", socket_path);
    snprintf(bytes_entry, sizeof(bytes_entry), "THAW_SHIM_BYTES=%d", SHIM_CLIENT_BYTES);
    snprintf(ready_entry, sizeof(ready_entry), "THAW_SHIM_READY_FD=%s", ready_fd);
    assert_int_equal(process_start(&o, &p, &e), 0);
    return p;
}

/* Take the one message of the hand-over; its userfaultfd goes to @ret_uffd. */
static struct handover *receive(int listener, int *ret_conn, int *ret_uffd)
{
    char body[HANDOVER_MAX_BYTES];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = body, .iov_len = sizeof(body)};
    struct msghdr m = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    struct pollfd poll_fd = {.fd = listener, .events = POLLIN};
    struct handover *h = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    ssize_t n;

    assert_int_equal(poll(&poll_fd, 1, 60000), 1);
    *ret_conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(*ret_conn >= 0);
    n = recvmsg(*ret_conn, &m, MSG_CMSG_CLOEXEC);
    assert_true(n > 0);
    assert_int_equal(handover_decode(body, (size_t)n, &h, &e), 0);
    assert_int_equal(m.msg_controllen, CMSG_SPACE(sizeof(int))); /* one descriptor, no more */
    assert_int_equal(control.align.cmsg_type, SCM_RIGHTS);
    assert_int_equal(control.align.cmsg_len, CMSG_LEN(sizeof(int)));
    memcpy(ret_uffd, CMSG_DATA(&control.align), sizeof(int));
    return h;
}

struct counts {
    unsigned faults, removes;
    uint64_t removed_at;
};

/* Serve until the client hangs up. */
static void serve(int conn, int uffd, uint64_t base, struct counts *ret)
{
    struct pollfd fds[] = {{.fd = uffd, .events = POLLIN}, {.fd = conn, .events = POLLIN}};

    while (poll(fds, ARRAY_SIZE(fds), 60000) > 0 && !fds[1].revents) {
        unsigned char page[PAGE_BYTES];
        struct uffd_msg event;
        uint64_t at, done;

        if (uffd_kernel.read(uffd, &event, 1) != 1)
            continue;
        if (event.event == UFFD_EVENT_REMOVE) {
            ret->removes++;
            ret->removed_at = event.arg.remove.start - base;
            continue;
        }
        assert_int_equal(event.event, UFFD_EVENT_PAGEFAULT);
        ret->faults++;
        at = round_down(event.arg.pagefault.address, PAGE_BYTES);
        memset(page, (int)((at - base) / PAGE_BYTES), sizeof(page));
        assert_int_equal(uffd_kernel.copy(uffd, (struct host_addr){at}, page, sizeof(page), &done),
                         0);
    }
    assert_true(fds[1].revents & POLLHUP);
}

/* ---- the tests ---- */

static void hands_over_one_mapping(void **state)
{
    int listener CLEANUP_FD = listen_here();
    int conn CLEANUP_FD = -1, uffd CLEANUP_FD = -1;
    char text[PROCESS_EXIT_TEXT_BYTES], tail[PROCESS_LOG_TAIL_BYTES], byte;
    struct counts counts = {0};
    int ready[2];

    (void)state;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    struct process *p CLEANUP_PROCESS = start_client(NULL, "3", &ready[1], 1);
    close(ready[1]);
    struct handover *h CLEANUP_HANDOVER = receive(listener, &conn, &uffd);
    assert_int_equal(h->region_count, 1);
    assert_int_equal(h->page_bytes, PAGE_BYTES);
    assert_int_equal(h->regions[0].size_bytes, SHIM_CLIENT_BYTES);
    assert_int_equal(h->regions[0].offset.v, 0);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(read(ready[0], &byte, 1), 0); /* and the library has closed it */
    close(ready[0]);

    serve(conn, uffd, h->regions[0].base.v, &counts);
    assert_true(process_wait(p, LONG_WAIT));
    assert_string_equal(process_exit_text(p, text), "exit status 0");
    assert_string_equal(process_log_tail(p, tail), "LD_PRELOAD=libc.so.6");
    assert_int_equal(counts.faults, 3);
    assert_int_equal(counts.removes, 1);
    assert_int_equal(counts.removed_at, 5 * PAGE_BYTES);
    unlink(socket_path);
}

/* See shim_client.c: what is discarded is gone, and told of, in whatever order it is done; and the
 * VMM cannot lose its descriptors. */
static void watches_over_shared_memory(void **state)
{
    int listener CLEANUP_FD = listen_here();
    int conn CLEANUP_FD = -1, uffd CLEANUP_FD = -1;
    char text[PROCESS_EXIT_TEXT_BYTES], tail[PROCESS_LOG_TAIL_BYTES];
    struct counts counts = {0};
    int ready[2];

    (void)state;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    struct process *p CLEANUP_PROCESS = start_client("shared", "3", &ready[1], 1);
    close(ready[1]);
    struct handover *h CLEANUP_HANDOVER = receive(listener, &conn, &uffd);
    serve(conn, uffd, h->regions[0].base.v, &counts);
    assert_true(process_wait(p, LONG_WAIT));
    assert_string_equal(process_exit_text(p, text), "exit status 0");
    assert_non_null(strstr(process_log_tail(p, tail), "wanted to close what serves"));
    assert_int_equal(counts.faults, 3); /* page 5 twice */
    assert_int_equal(counts.removes, 1);
    assert_int_equal(counts.removed_at, 5 * PAGE_BYTES);
    close(ready[0]);
    unlink(socket_path);
}

static void assert_ends(const char *ready_fd, const char *expected)
{
    struct process *p CLEANUP_PROCESS = start_client(NULL, ready_fd, NULL, 0);
    char text[PROCESS_EXIT_TEXT_BYTES], tail[PROCESS_LOG_TAIL_BYTES];

    assert_true(process_wait(p, LONG_WAIT));
    assert_string_equal(process_exit_text(p, text), "exit status 1");
    assert_string_equal(process_log_tail(p, tail), expected);
}

static void ends_the_process_when_it_cannot(void **state)
{
    (void)state;
    assert_ends("three", "libthaw-shim.so: THAW_SHIM_READY_FD: Invalid argument");
    assert_ends("2", "libthaw-shim.so: connecting to the memory server at THAW_SHIM_SOCKET: "
                     "No such file or directory");
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(log_path, sizeof(log_path), "%s/log", folder);
    snprintf(socket_path, sizeof(socket_path), "%s/socket", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(log_path);
    unlink(socket_path);
    return rmdir(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hands_over_one_mapping),
        cmocka_unit_test(watches_over_shared_memory),
        cmocka_unit_test(ends_the_process_when_it_cannot),
    };
    int uffd;

    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0 && access("/dev/userfaultfd", R_OK | W_OK) < 0) {
        fprintf(stderr, "skipped: this user may not have a userfaultfd\n");
        return 77;
    }
    close_fd(&uffd);
    if (argc < 3 || !realpath(argv[1], shim) || !realpath(argv[2], client)) {
        fprintf(stderr, "usage: test-shim PATH_OF_LIBTHAW_SHIM PATH_OF_CLIENT\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
