/* SPDX-License-Identifier: Apache-2.0 */

/* The receiving end of a hand-over: every way in which it may arrive, and what is kept of it. */
#include "memory/handshake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "format/handover.h"
#include "unit.h"

#define REGION "{\"base_host_virt_addr\":1048576,\"size\":8192,\"offset\":0,\"page_size\":4096}"

static struct handshake h;
static struct thaw_error e;
static int pair[2]; /* ours, the VMM's */
static int uffd;
static unsigned open_before;

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int set_up(void **state)
{
    (void)state;
    open_before = open_fds();
    e = (struct thaw_error)THAW_ERROR_INIT;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0)
        uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
    assert_true(uffd >= 0);
    return handshake_init(&h);
}

/* Whatever a test has sent: nothing of it may be open afterwards. */
static int tear_down(void **state)
{
    (void)state;
    handshake_finish(&h);
    close(pair[0]);
    if (pair[1] >= 0)
        close(pair[1]);
    close(uffd);
    assert_int_equal(open_fds(), open_before);
    return 0;
}

static void send_with(const char *body, const int *fds, size_t count)
{
    char control[CMSG_SPACE(100 * sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)body, .iov_len = strlen(body)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (count > 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    }
    assert_int_equal(sendmsg(pair[1], &msg, 0), strlen(body));
}

static void hang_up(void)
{
    close(pair[1]);
    pair[1] = -1;
}

static int receive(void)
{
    struct handover *got = NULL;
    int fd = -1;
    int r = handshake_receive(&h, pair[0], &got, &fd, &e);

    if (r == 0) {
        assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_int_equal(got->region_count, 1);
        assert_int_equal(got->regions[0].base.v, 1048576);
        close(fd);
        handover_destroy(got);
    }
    return r;
}

static void one_message(void **state)
{
    (void)state;
    assert_int_equal(receive(), -EAGAIN);
    send_with("[" REGION "]", &uffd, 1);
    assert_int_equal(receive(), 0);
}

static void closed_right_after(void **state)
{
    (void)state;
    send_with("[" REGION "]", &uffd, 1);
    hang_up(); /* Firecracker up to 1.11 */
    assert_int_equal(receive(), 0);
}

static void in_pieces(void **state)
{
    (void)state;
    send_with("[{\"base_host_virt_addr\":104", &uffd, 1);
    assert_int_equal(receive(), -EAGAIN);
    send_with("8576,\"size\":8192,\"off", NULL, 0);
    assert_int_equal(receive(), -EAGAIN);
    send_with("set\":0}]", NULL, 0);
    assert_int_equal(receive(), 0);
}

/* E2B's Firecracker sends the guest's memfd, too; others more. What is not needed is closed. */
static void with_more_descriptors(void **state)
{
    int fds[] = {uffd, memfd_create("guest", MFD_CLOEXEC), memfd_create("bitmap", MFD_CLOEXEC)};

    (void)state;
    send_with("[" REGION "]", fds, 3);
    close(fds[1]);
    close(fds[2]);
    assert_int_equal(receive(), 0);
}

static void as_nydus_sends_it(void **state)
{
    (void)state;
    send_with("{\"type\":0,\"regions\":[" REGION "],\"policy\":1,\"enable_prefault\":true}", &uffd,
              1);
    assert_int_equal(receive(), 0);
}

static void too_many_descriptors(void **state)
{
    int fds[HANDSHAKE_MAX_FDS + 5];

    (void)state;
    for (size_t i = 0; i < HANDSHAKE_MAX_FDS + 5; i++)
        fds[i] = uffd;
    send_with("[" REGION "]", fds, HANDSHAKE_MAX_FDS + 5);
    assert_int_equal(receive(), -EPROTO);
    assert_non_null(strstr(e.text, "descriptors"));
}

static void without_a_descriptor(void **state)
{
    (void)state;
    send_with("[" REGION "]", NULL, 0);
    assert_int_equal(receive(), -EPROTO);
    assert_non_null(strstr(e.text, "no descriptor"));
}

static void with_another_descriptor(void **state)
{
    int fd = memfd_create("not a uffd", MFD_CLOEXEC);

    (void)state;
    send_with("[" REGION "]", &fd, 1);
    close(fd);
    assert_int_equal(receive(), -EPROTO);
    assert_non_null(strstr(e.text, "not a userfaultfd"));
}

static void closed_in_the_middle(void **state)
{
    (void)state;
    send_with("[{\"base_host_virt_addr\":", &uffd, 1);
    hang_up();
    assert_int_equal(receive(), -EPROTO);
    assert_non_null(strstr(e.text, "in the middle"));
}

static void closed_at_once(void **state)
{
    (void)state;
    hang_up();
    assert_int_equal(receive(), -ECONNRESET);
}

static void rubbish(void **state)
{
    (void)state;
    send_with("GET / HTTP/1.1\r\n\r\n", &uffd, 1);
    assert_int_equal(receive(), -EPROTO);
}

static void without_end(void **state)
{
    char blanks[4097];
    int r = -EAGAIN;

    (void)state;
    memset(blanks, ' ', sizeof(blanks) - 1);
    blanks[sizeof(blanks) - 1] = '\0';
    send_with("[", &uffd, 1);
    for (unsigned i = 0; i < 20 && r == -EAGAIN; i++) {
        send_with(blanks, NULL, 0);
        r = receive();
    }
    assert_int_equal(r, -EPROTO);
    assert_non_null(strstr(e.text, "longer than"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(one_message),
        TEST(closed_right_after),
        TEST(in_pieces),
        TEST(with_more_descriptors),
        TEST(as_nydus_sends_it),
        TEST(too_many_descriptors),
        TEST(without_a_descriptor),
        TEST(with_another_descriptor),
        TEST(closed_in_the_middle),
        TEST(closed_at_once),
        TEST(rubbish),
        TEST(without_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
