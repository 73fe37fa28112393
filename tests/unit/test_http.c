/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client of a VMM's API against a server that has its words by heart: a child process that
 * takes one connection, reads the request, says its text, and then does what the test wants of it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/pidfd.h"
#include "unit.h"
#include "vmm/http.h"

#define LONG_WAIT_NS (60 * NS_PER_SEC) /* a test that needs it has failed */

enum then {
    EXIT_,       /* the process ends, and its connection with it */
    CLOSE_,      /* the connection ends, the process stays */
    STAY,        /* both stay */
    LEAVE_CHILD, /* the process ends; another one keeps the connection open */
};

struct server {
    char dir[64], path[80];
    int listen_fd;
    int heard[2]; /* pipe: the request, as it came */
    int go[2];    /* pipe: a byte lets the server say its text */
    pid_t pid;
    int pidfd;
};

static void listen_at(struct server *s)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", s->path);
    assert_int_equal(bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(s->listen_fd, 1), 0);
}

/* In the child: no assertions. */
static void serve(const struct server *s, const char *text, enum then then)
{
    char request[4096];
    int fd;
    ssize_t n;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* of a test that has failed, nothing is left */
    fd = accept(s->listen_fd, NULL, NULL);
    n = recv(fd, request, sizeof(request), 0);
    if (n > 0 && write(s->heard[1], request, (size_t)n) != n)
        _exit(1);
    if (read(s->go[0], request, 1) != 1)
        _exit(1);
    send(fd, text, strlen(text), MSG_NOSIGNAL);
    if (then == CLOSE_)
        close(fd);
    if (then == LEAVE_CHILD && fork() != 0)
        _exit(0);
    if (then != EXIT_)
        pause();
    _exit(0);
}

/* It takes the request, and says nothing until there is a byte in the pipe. */
static void server_start_silent(struct server *s, const char *text, enum then then)
{
    *s = (struct server){.dir = "/tmp/thaw-http-XXXXXX"};
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof(s->path), "%s/api", s->dir);
    listen_at(s);
    assert_int_equal(pipe(s->heard), 0);
    assert_int_equal(pipe(s->go), 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        setpgid(0, 0);
        serve(s, text, then);
    }
    setpgid(s->pid, s->pid);
    close_fd(&s->heard[1]);
    close_fd(&s->listen_fd);
    s->pidfd = pidfd_open_pid(s->pid);
    assert_true(s->pidfd >= 0);
}

static void server_start(struct server *s, const char *text, enum then then)
{
    server_start_silent(s, text, then);
    assert_int_equal(write(s->go[1], "", 1), 1);
}

static void server_stop(struct server *s)
{
    kill(-s->pid, SIGKILL);
    assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
    close_fd(&s->pidfd);
    close_fd(&s->heard[0]);
    close_fd(&s->go[0]);
    close_fd(&s->go[1]);
    unlink(s->path);
    rmdir(s->dir);
}

static struct http_request request_to(const struct server *s, const char *method, const char *body)
{
    return (struct http_request){
        .socket_path = s->path,
        .method = method,
        .target = "/thing",
        .body = body,
        .body_bytes = body ? strlen(body) : 0,
        .deadline_ns = clock_now_ns() + LONG_WAIT_NS,
        .pidfd = s->pidfd,
        .watch.fd = -1,
    };
}

/* One exchange with a server that says @text; the outcome, with its reason in @e. */
static int exchange(const char *text, enum then then, struct http_response *ret,
                    struct thaw_error *e)
{
    struct server s;
    int r;

    server_start(&s, text, then);
    struct http_request q = request_to(&s, "GET", NULL);
    r = http_call(&q, ret, e);
    server_stop(&s);
    return r;
}

static void expect_failure(const char *text, enum then then, int code, const char *part)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    assert_int_equal(exchange(text, then, &a, &e), code);
    if (!strstr(e.text, part))
        fail_msg("'%s' is not in '%s'", part, e.text);
}

static void sends_what_it_is_told(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct server s;
    char heard[4096];
    ssize_t n;

    (void)state;
    server_start(&s, "HTTP/1.1 204 No Content\r\n\r\n", STAY);
    struct http_request q = request_to(&s, "PATCH", "{\"a\":1}");
    assert_int_equal(http_call(&q, &a, &e), 0);
    assert_int_equal(a.status, 204);
    assert_int_equal(a.body.len, 0);
    n = read(s.heard[0], heard, sizeof(heard) - 1);
    assert_true(n > 0);
    heard[n] = '\0';
    assert_ptr_equal(strstr(heard, "PATCH /thing HTTP/1.1\r\n"), heard);
    assert_non_null(strstr(heard, "\r\nHost: localhost\r\n"));
    assert_non_null(strstr(heard, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(heard, "\r\nContent-Length: 7\r\n"));
    assert_non_null(strstr(heard, "\r\n\r\n{\"a\":1}"));
    assert_null(strstr(heard, "Expect"));
    server_stop(&s);
}

static void takes_an_answer(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(
        exchange("HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nfault", STAY, &a, &e), 0);
    assert_int_equal(a.status, 400);
    assert_int_equal(a.body.len, 5);
    assert_memory_equal(a.body.data, "fault", 5);
}

/* As Firecracker does that cannot load: it answers, and is gone. */
static void hears_the_last_words(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(exchange("HTTP/1.1 400 No\r\nContent-Length: 3\r\n\r\nwhy", EXIT_, &a, &e), 0);
    assert_int_equal(a.status, 400);
    assert_memory_equal(a.body.data, "why", 3);
}

static void tells_how_it_ended(void **state)
{
    (void)state;
    expect_failure("", EXIT_, -ECONNRESET, "closed before");
    expect_failure("", CLOSE_, -ECONNRESET, "closed before");
    expect_failure("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", CLOSE_, -ECONNRESET,
                   "closed before");
    expect_failure("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", LEAVE_CHILD, -ECONNRESET,
                   "it ended before");
    expect_failure("+PONG\r\n", STAY, -EPROTO, "HTTP/1.1");
}

static void nobody_listens(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct server s = {.path = "/tmp/thaw-http-nowhere/api", .pidfd = -1};
    struct http_request q = request_to(&s, "GET", NULL);

    (void)state;
    assert_int_equal(http_call(&q, &a, &e), -ENOENT);
    assert_non_null(strstr(e.text, s.path));
    s = (struct server){.dir = "/tmp/thaw-http-XXXXXX"};
    assert_non_null(mkdtemp(s.dir));
    snprintf(s.path, sizeof(s.path), "%s/api", s.dir);
    listen_at(&s);
    close_fd(&s.listen_fd); /* the file stays */
    assert_int_equal(http_call(&q, &a, &e), -ECONNREFUSED);
    unlink(s.path);
    rmdir(s.dir);
}

static void keeps_its_deadline(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct server s;

    (void)state;
    server_start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", STAY);
    struct http_request q = request_to(&s, "GET", NULL);
    q.deadline_ns = clock_now_ns() + 20 * NS_PER_MS;
    assert_int_equal(http_call(&q, &a, &e), -ETIMEDOUT);
    server_stop(&s);
}

struct watcher {
    struct server server;
    int looks;
};

static int look_and_give_up(void *arg, struct thaw_error *e)
{
    (void)arg;
    return err_set(e, -EDOM, "seen");
}

/* From now on the server speaks, and the descriptor stays readable. */
static int look_once(void *arg, struct thaw_error *e)
{
    struct watcher *w = arg;

    (void)e;
    w->looks++;
    return write(w->server.go[1], "", 1) == 1 ? 1 : -EIO;
}

static void watches_something_else(void **state)
{
    struct http_response a CLEANUP_HTTP_RESPONSE = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    int news CLEANUP_FD = eventfd(1, EFD_CLOEXEC);
    struct watcher w = {0};

    (void)state;
    server_start_silent(&w.server, "", STAY);
    struct http_request q = request_to(&w.server, "GET", NULL);
    q.watch = (struct http_watch){.fd = news, .look = look_and_give_up};
    assert_int_equal(http_call(&q, &a, &e), -EDOM);
    assert_string_equal(e.text, "seen");
    server_stop(&w.server);

    server_start_silent(&w.server, "HTTP/1.1 204 No Content\r\n\r\n", STAY);
    q = request_to(&w.server, "GET", NULL);
    q.watch = (struct http_watch){.fd = news, .look = look_once, .arg = &w};
    assert_int_equal(http_call(&q, &a, &e), 0);
    assert_int_equal(w.looks, 1);
    server_stop(&w.server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_what_it_is_told),  cmocka_unit_test(takes_an_answer),
        cmocka_unit_test(hears_the_last_words),   cmocka_unit_test(tells_how_it_ended),
        cmocka_unit_test(nobody_listens),         cmocka_unit_test(keeps_its_deadline),
        cmocka_unit_test(watches_something_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
