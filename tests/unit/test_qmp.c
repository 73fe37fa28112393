/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QMP client against a peer whose words are fixed: what it says is put into the socket before
 * the client asks (a socket keeps it), what the client said is looked at afterwards.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "unit.h"
#include "vmm/qmp.h"

#define GREETING  "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7}}, \"capabilities\": []}}\r\n"
#define ANSWER(n) "{\"return\": {}, \"id\": " #n "}\r\n"
#define LONG_WAIT (clock_now_ns() + 60 * NS_PER_SEC) /* a test that needs it has failed */

struct peer {
    int fd;
    struct qmp *qmp;
    struct thaw_error e;
};

static void say(struct peer *p, const char *text)
{
    size_t len = strlen(text);

    assert_int_equal(send(p->fd, text, len, MSG_DONTWAIT), len);
}

/* A client whose peer has said @text already. */
static void connect_peer(struct peer *p, int pidfd, const char *text)
{
    int pair[2];

    *p = (struct peer){0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    p->fd = pair[0];
    assert_int_equal(qmp_create(pair[1], pidfd, &p->qmp), 0);
    say(p, text);
}

static void disconnect_peer(struct peer *p)
{
    qmp_destroy(p->qmp);
    close_fd(&p->fd);
}

static void assert_heard(struct peer *p, const char *expected)
{
    char heard[4096];
    ssize_t n = recv(p->fd, heard, sizeof(heard) - 1, MSG_DONTWAIT);

    assert_true(n >= 0);
    heard[n] = '\0';
    assert_string_equal(heard, expected);
}

static void negotiates_and_executes(void **state)
{
    json_t *result CLEANUP_JSON = NULL;
    struct peer p;

    (void)state;
    connect_peer(&p, -1,
                 GREETING ANSWER(1) "{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n");
    assert_int_equal(qmp_negotiate(p.qmp, LONG_WAIT, &p.e), 0);
    assert_heard(&p, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
    assert_int_equal(
        qmp_execute(p.qmp, "query-status", json_pack("{s:i}", "a", 1), LONG_WAIT, &result, &p.e),
        0);
    assert_heard(&p, "{\"execute\":\"query-status\",\"id\":2,\"arguments\":{\"a\":1}}\n");
    assert_string_equal(json_string_value(json_object_get(result, "status")), "paused");
    assert_int_equal(p.e.code, 0);
    disconnect_peer(&p);
}

static void refuses_another_protocol(void **state)
{
    struct peer p;

    (void)state;
    connect_peer(&p, -1, "{\"hello\": {}}\n");
    assert_int_equal(qmp_negotiate(p.qmp, LONG_WAIT, &p.e), -EPROTO);
    disconnect_peer(&p);
    connect_peer(&p, -1, "SSH-2.0-OpenSSH_9.2p1\r\n");
    assert_int_equal(qmp_negotiate(p.qmp, LONG_WAIT, &p.e), -EPROTO);
    assert_non_null(strstr(p.e.text, "not a JSON object"));
    disconnect_peer(&p);
}

static void reports_an_error_and_goes_on(void **state)
{
    struct peer p;

    (void)state;
    connect_peer(&p, -1,
                 "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no such "
                 "thing\"}}\n" ANSWER(2) "{\"id\": 3, \"error\": 7}\n");
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), -EREMOTEIO);
    assert_string_equal(p.e.text, "QEMU refuses a: no such thing");
    assert_int_equal(qmp_execute(p.qmp, "b", NULL, LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_execute(p.qmp, "c", NULL, LONG_WAIT, NULL, &p.e), -EREMOTEIO);
    disconnect_peer(&p);
}

static void keeps_events_for_later(void **state)
{
    json_t *data CLEANUP_JSON = NULL;
    struct peer p;

    (void)state;
    connect_peer(&p, -1,
                 "{\"event\": \"STOP\"}\n"
                 "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n" ANSWER(
                     1) "{\"event\": \"RESUME\"}\n");
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "MIGRATION", LONG_WAIT, &data, &p.e), 0);
    assert_string_equal(json_string_value(json_object_get(data, "status")), "setup");
    assert_int_equal(qmp_wait_event(p.qmp, "RESUME", LONG_WAIT, NULL, &p.e), 0);
    /* STOP came before MIGRATION and went with it. */
    assert_int_equal(qmp_wait_event(p.qmp, "STOP", clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    disconnect_peer(&p);
}

static void drops_the_oldest_events(void **state)
{
    json_t *data CLEANUP_JSON = NULL;
    struct peer p;
    char line[80];

    (void)state;
    connect_peer(&p, -1, "");
    for (int i = 0; i < QMP_EVENTS_MAX + 10; i++) {
        snprintf(line, sizeof(line), "{\"event\": \"E\", \"data\": {\"n\": %d}}\n", i);
        say(&p, line);
    }
    say(&p, ANSWER(1) ANSWER(2));
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "E", LONG_WAIT, &data, &p.e), 0);
    assert_int_equal(json_integer_value(json_object_get(data, "n")), 10);
    qmp_forget_events(p.qmp);
    assert_int_equal(qmp_execute(p.qmp, "b", NULL, LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "E", clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    disconnect_peer(&p);
}

static void joins_lines_that_come_in_pieces(void **state)
{
    struct peer p;

    (void)state;
    connect_peer(&p, -1, "{\"event\": \"LONGER ");
    /* Each call reads what is there, times out, and the next one goes on with it. */
    assert_int_equal(qmp_wait_event(p.qmp, "LONGER ONE", clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    say(&p, "ONE\"");
    assert_int_equal(qmp_wait_event(p.qmp, "LONGER ONE", clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    say(&p, "}\n{\"event\": \"B\"}\n");
    assert_int_equal(qmp_wait_event(p.qmp, "LONGER ONE", LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "B", LONG_WAIT, NULL, &p.e), 0);
    disconnect_peer(&p);
}

static void refuses_what_is_no_answer(void **state)
{
    static const char *const bad[] = {
        "garbage\n",
        "\n",
        "[]\n",
        "7\n",
        "{}\n",
        "{\"return\": {}}\n", /* without our id */
        ANSWER(2),            /* not asked yet */
        "{\"return\": {}, \"id\": \"1\"}\n",
        "{\"id\": 1}\n",
        "{\"return\": {}, \"id\": 1\n",
    };
    struct peer p;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        connect_peer(&p, -1, bad[i]);
        assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), -EPROTO);
        assert_int_equal(p.e.code, -EPROTO);
        disconnect_peer(&p);
    }
}

static void *say_one_endless_line(void *arg)
{
    static const char piece[4096] = "{\"return\": \"........"; /* and NULs */
    struct peer *p = arg;
    size_t sent = 0;

    for (;;) {
        ssize_t n = send(p->fd, piece, sizeof(piece), MSG_NOSIGNAL);

        if (n < 0)
            return NULL;
        sent += (size_t)n;
        if (sent > 16 * MIB) /* the client took far more than a line may have */
            return arg;
    }
}

static void bounds_the_length_of_a_line(void **state)
{
    pthread_t talker;
    struct peer p;
    void *too_much;

    (void)state;
    connect_peer(&p, -1, "");
    assert_int_equal(pthread_create(&talker, NULL, say_one_endless_line, &p), 0);
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), -EPROTO);
    assert_non_null(strstr(p.e.text, "1048576"));
    qmp_destroy(TAKE_PTR(p.qmp));
    assert_int_equal(pthread_join(talker, &too_much), 0);
    assert_null(too_much);
    disconnect_peer(&p);
}

static void drops_an_answer_that_comes_too_late(void **state)
{
    json_t *result CLEANUP_JSON = NULL;
    struct peer p;

    (void)state;
    connect_peer(&p, -1, "");
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    say(&p, "{\"return\": \"late\", \"id\": 1}\n{\"return\": \"right\", \"id\": 2}\n");
    assert_int_equal(qmp_execute(p.qmp, "b", NULL, LONG_WAIT, &result, &p.e), 0);
    assert_string_equal(json_string_value(result), "right");
    disconnect_peer(&p);
}

static void gives_a_talkative_peer_no_more_time(void **state)
{
    static const char event[] = "{\"event\": \"RTC_CHANGE\"}\n";
    char text[1000 * sizeof(event)] = "";
    struct peer p;

    (void)state;
    for (size_t i = 0; i < 1000; i++) /* more than the client reads at once */
        memcpy(text + i * (sizeof(event) - 1), event, sizeof(event));
    connect_peer(&p, -1, text);
    say(&p, ANSWER(1) ANSWER(2));
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, clock_now_ns() - 1, NULL, &p.e), -ETIMEDOUT);
    assert_int_equal(qmp_execute(p.qmp, "b", NULL, LONG_WAIT, NULL, &p.e), 0);
    disconnect_peer(&p);
}

static void gives_up_on_a_peer_that_does_not_read(void **state)
{
    size_t len = 4 * MIB; /* more than the socket holds */
    char *text CLEANUP_FREE = calloc(1, len + 1);
    struct peer p;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', len);
    connect_peer(&p, -1, "");
    assert_int_equal(qmp_execute(p.qmp, "a", json_pack("{s:s}", "x", text),
                                 clock_now_ns() + NS_PER_MS, NULL, &p.e),
                     -ETIMEDOUT);
    disconnect_peer(&p);
}

static void notices_the_end_of_the_connection(void **state)
{
    struct peer p;

    (void)state;
    connect_peer(&p, -1, GREETING ANSWER(1));
    assert_int_equal(qmp_negotiate(p.qmp, LONG_WAIT, &p.e), 0);
    assert_heard(&p, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"); /* unread it is a reset */
    say(&p, "{\"event\": \"SHUTDOWN\"}\n{\"half");
    close_fd(&p.fd);
    assert_int_equal(qmp_wait_event(p.qmp, "SHUTDOWN", LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "RESUME", LONG_WAIT, NULL, &p.e), -ECONNRESET);
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), -ECONNRESET);
    disconnect_peer(&p);
}

/* The other end of the socket stays open here, as when a child of QEMU still holds it. */
static void notices_the_end_of_the_process(void **state)
{
    struct peer p;
    pid_t child = fork();
    int pidfd;

    (void)state;
    if (child == 0)
        _exit(0);
    assert_true(child > 0);
    pidfd = pidfd_open_pid(child);
    assert_true(pidfd >= 0);
    connect_peer(&p, pidfd, "{\"event\": \"SHUTDOWN\"}\n");
    assert_int_equal(waitid(P_PIDFD, (id_t)pidfd, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
    assert_int_equal(qmp_wait_event(p.qmp, "SHUTDOWN", LONG_WAIT, NULL, &p.e), 0);
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), -ECONNRESET);
    assert_string_equal(p.e.text, "QEMU ended");
    disconnect_peer(&p);
    close(pidfd);
    waitpid(child, NULL, 0);
}

static void assert_next_event(struct peer *p, const char *expected)
{
    json_t *event CLEANUP_JSON = NULL;

    assert_int_equal(qmp_next_event(p->qmp, &event, &p->e), expected ? 1 : 0);
    if (expected)
        assert_string_equal(json_string_value(json_object_get(event, "event")), expected);
}

/* Those that were kept, then those in the socket; never does it wait. */
static void hands_out_events_between_commands(void **state)
{
    struct peer p;

    (void)state;
    connect_peer(&p, -1, "{\"event\": \"STOP\"}\n" ANSWER(1) "{\"event\": \"RES");
    assert_int_equal(qmp_execute(p.qmp, "a", NULL, LONG_WAIT, NULL, &p.e), 0);
    assert_next_event(&p, "STOP");
    assert_next_event(&p, NULL);
    say(&p, "UME\"}\n" ANSWER(7) "{\"event\": \"RESET\"}\n");
    assert_next_event(&p, "RESUME");
    assert_next_event(&p, "RESET"); /* an answer that nobody waits for is passed over */
    assert_next_event(&p, NULL);
    say(&p, "no JSON\n");
    assert_int_equal(qmp_next_event(p.qmp, &(json_t *){NULL}, &p.e), -EPROTO);
    close_fd(&p.fd);
    assert_int_equal(qmp_next_event(p.qmp, &(json_t *){NULL}, &p.e), -ECONNRESET);
    disconnect_peer(&p);
}

static void knows_the_version(void **state)
{
    static const struct {
        const char *version;
        struct qmp_version expected;
    } cases[] = {
        {"{\"qemu\": {\"major\": 10, \"minor\": 0, \"micro\": 2}}", {10, 0, 2}},
        {"{\"qemu\": {\"major\": -1, \"minor\": \"2\", \"micro\": 99999999999}}", {0, 0, 0}},
        {"7", {0, 0, 0}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[256];
        struct peer p;

        snprintf(text, sizeof(text), "{\"QMP\": {\"version\": %s}}\n" ANSWER(1), cases[i].version);
        connect_peer(&p, -1, text);
        assert_int_equal(qmp_negotiate(p.qmp, LONG_WAIT, &p.e), 0);
        struct qmp_version v = qmp_version(p.qmp);
        assert_memory_equal(&v, &cases[i].expected, sizeof(v));
        disconnect_peer(&p);
    }
}

static void passes_a_descriptor(void **state)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    char heard[256];
    struct iovec iov = {.iov_base = heard, .iov_len = sizeof(heard)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    struct peer p;
    int fds[2], got;

    (void)state;
    connect_peer(&p, -1, ANSWER(1));
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(qmp_pass_fd(p.qmp, "state", fds[1], LONG_WAIT, &p.e), 0);
    assert_true(recvmsg(p.fd, &m, MSG_DONTWAIT) > 0);
    heard[iov.iov_len - 1] = '\0';
    assert_non_null(strstr(heard, "{\"execute\":\"getfd\",\"id\":1,\"arguments\":"
                                  "{\"fdname\":\"state\"}}\n"));
    assert_int_equal(m.msg_controllen, CMSG_SPACE(sizeof(int)));
    memcpy(&got, CMSG_DATA(&control.align), sizeof(got));
    close(fds[1]);
    assert_int_equal(write(got, "x", 1), 1); /* it is the pipe's other end */
    assert_int_equal(read(fds[0], heard, 1), 1);
    close(got);
    close(fds[0]);
    disconnect_peer(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(negotiates_and_executes),
        cmocka_unit_test(refuses_another_protocol),
        cmocka_unit_test(reports_an_error_and_goes_on),
        cmocka_unit_test(keeps_events_for_later),
        cmocka_unit_test(drops_the_oldest_events),
        cmocka_unit_test(joins_lines_that_come_in_pieces),
        cmocka_unit_test(refuses_what_is_no_answer),
        cmocka_unit_test(bounds_the_length_of_a_line),
        cmocka_unit_test(drops_an_answer_that_comes_too_late),
        cmocka_unit_test(gives_a_talkative_peer_no_more_time),
        cmocka_unit_test(gives_up_on_a_peer_that_does_not_read),
        cmocka_unit_test(notices_the_end_of_the_connection),
        cmocka_unit_test(notices_the_end_of_the_process),
        cmocka_unit_test(hands_out_events_between_commands),
        cmocka_unit_test(knows_the_version),
        cmocka_unit_test(passes_a_descriptor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
