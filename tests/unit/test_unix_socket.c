/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "scratch.h"

#define BACKLOG 4

static char *folder, *path;

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "socket");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(path);
    scratch_remove(folder);
    return 0;
}

static int listen_at(const char *at, bool replace_stale, struct thaw_error *e)
{
    struct unix_listen_options o = {
        .path = at,
        .owner_uid = (uid_t)-1,
        .owner_gid = (gid_t)-1,
        .backlog = BACKLOG,
        .replace_stale = replace_stale,
    };

    return unix_listen(&o, e);
}

/* The connection, or -errno; -EAGAIN: too many wait to be accepted. */
static int connection_to(const char *at)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0 && strlen(at) < sizeof(addr.sun_path));
    memcpy(addr.sun_path, at, strlen(at) + 1);
    return connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : TAKE_FD(fd);
}

/* 0 or -errno */
static int connect_to(const char *at)
{
    int fd CLEANUP_FD = connection_to(at);

    return MIN(fd, 0);
}

static void it_listens_and_is_private(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int fd CLEANUP_FD = listen_at(path, false, &e);
    struct stat st;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(connect_to(path), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_uid, geteuid());
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void lengths_are_bounded(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char text[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1] = "";
    int fd CLEANUP_FD = -1;

    (void)state;
    assert_int_equal(listen_at("", false, &e), -EINVAL);
    assert_non_null(strstr(e.text, "empty"));
    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(listen_at(text, true, &e), -ENAMETOOLONG);
    assert_non_null(strstr(e.text, text));
    assert_non_null(strstr(e.text, "107 characters"));
    assert_int_equal(chdir(folder), 0);
    text[sizeof(text) - 2] = '\0'; /* the longest that there can be */
    fd = listen_at(text, false, &e);
    assert_true(fd >= 0);
    assert_int_equal(connect_to(text), 0);
    assert_int_equal(chdir("/"), 0);
}

static void whoever_listens_stays(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int fd CLEANUP_FD = listen_at(path, true, &e);

    (void)state;
    assert_true(fd >= 0);
    for (int replace = 0; replace < 2; replace++) {
        assert_int_equal(listen_at(path, replace, &e), -EADDRINUSE);
        assert_non_null(strstr(e.text, path));
        assert_non_null(strstr(e.text, replace ? "stop who listens there" : "remove it"));
        assert_int_equal(connect_to(path), 0);
    }
}

/* Too busy to take connections is not gone. */
static void whoever_is_busy_stays(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int fd CLEANUP_FD = listen_at(path, false, &e);
    int connections[BACKLOG + 1];

    (void)state;
    assert_true(fd >= 0);
    for (unsigned i = 0; i < ARRAY_SIZE(connections); i++) {
        connections[i] = connection_to(path);
        assert_true(connections[i] >= 0);
    }
    assert_int_equal(connect_to(path), -EAGAIN);
    assert_int_equal(listen_at(path, true, &e), -EADDRINUSE);
    for (unsigned i = 0; i < ARRAY_SIZE(connections); i++)
        close(connections[i]);
}

/* As after a crash: nobody listens, and the file is there. Replaced only if that was asked for. */
static void what_is_left_is_replaced(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int fd = listen_at(path, false, &e);

    (void)state;
    assert_true(fd >= 0);
    close_fd(&fd);
    assert_int_equal(connect_to(path), -ECONNREFUSED);
    assert_int_equal(listen_at(path, false, &e), -EADDRINUSE);
    assert_int_equal(connect_to(path), -ECONNREFUSED);
    fd = listen_at(path, true, &e);
    assert_true(fd >= 0);
    assert_int_equal(connect_to(path), 0);
    close_fd(&fd);
}

static void no_other_file_is_replaced(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;

    (void)state;
    assert_true(fd >= 0);
    close_fd(&fd);
    assert_int_equal(listen_at(path, true, &e), -EADDRINUSE);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
}

/* Who may connect cannot be arranged, or the folder is not there: no file is left. */
static void failures_leave_nothing(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct unix_listen_options o = {.path = path, .owner_uid = 1, .owner_gid = 1, .backlog = 1};
    char *nowhere = scratch_path(folder, "nowhere/socket");

    (void)state;
    assert_int_equal(listen_at(nowhere, true, &e), -ENOENT);
    assert_non_null(strstr(e.text, nowhere));
    free(nowhere);
    if (geteuid() == 0)
        return; /* root may give it to anybody */
    assert_int_equal(unix_listen(&o, &e), -EPERM);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(it_listens_and_is_private), TEST(lengths_are_bounded),
        TEST(whoever_listens_stays),     TEST(what_is_left_is_replaced),
        TEST(no_other_file_is_replaced), TEST(failures_leave_nothing),
        TEST(whoever_is_busy_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
