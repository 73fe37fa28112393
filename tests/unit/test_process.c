/* SPDX-License-Identifier: Apache-2.0 */
/* Real child processes: /bin/sh with a script that shows, or does, what the test asks about. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "unit.h"
#include "vmm/process.h"

#define LONG_WAIT (clock_now_ns() + 60 * NS_PER_SEC)

static char log_path[64];

static struct process *start(const char *script, const int *fds, size_t fd_count)
{
    static const char *const environment[] = {"PROCESS_TEST=new", "LANG=C", NULL};
    const char *argv[] = {"sh", "-c", script, NULL};
    struct process_options o = {
        .argv = argv,
        .environment = environment,
        .fds = fds,
        .fd_count = fd_count,
        .log_path = log_path,
    };
    struct thaw_error e = THAW_ERROR_INIT;
    struct process *p = NULL;

    assert_int_equal(process_start(&o, &p, &e), 0);
    return p;
}

/* What the script printed, as the last lines of its log. */
static const char *output_of(const char *script, char ret[PROCESS_LOG_TAIL_BYTES])
{
    struct process *p CLEANUP_PROCESS = start(script, NULL, 0);

    assert_true(process_wait(p, LONG_WAIT));
    return process_log_tail(p, ret);
}

static void tells_how_it_ended(void **state)
{
    static const struct {
        const char *script, *expected;
    } cases[] = {
        {"exit 0", "exit status 0"},
        {"exit 7", "exit status 7"},
        {"kill -KILL $$", "killed by signal 9 (SIGKILL)"},
        {"kill -SEGV $$", "killed by signal 11 (SIGSEGV)"},
    };
    char text[PROCESS_EXIT_TEXT_BYTES];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct process *p CLEANUP_PROCESS = start(cases[i].script, NULL, 0);

        assert_true(process_wait(p, LONG_WAIT));
        assert_string_equal(process_exit_text(p, text), cases[i].expected);
        assert_true(process_wait(p, 0)); /* and it stays so */
        assert_true(process_succeeded(p) == (i == 0));
    }
}

static void waits_no_longer_than_asked(void **state)
{
    struct process *p CLEANUP_PROCESS = start("exec sleep 600", NULL, 0);
    char text[PROCESS_EXIT_TEXT_BYTES];
    uint64_t start_ns = clock_now_ns();

    (void)state;
    assert_false(process_wait(p, start_ns + 20 * NS_PER_MS));
    assert_true(clock_now_ns() - start_ns >= 20 * NS_PER_MS);
    assert_string_equal(process_exit_text(p, text), "still running");
    process_kill(p);
    assert_string_equal(process_exit_text(p, text), "killed by signal 9 (SIGKILL)");
}

static void reports_what_cannot_run(void **state)
{
    const char *argv[] = {"/nonexistent/vmm", NULL};
    struct process_options o = {.argv = argv, .log_path = log_path};
    struct thaw_error e = THAW_ERROR_INIT;
    struct process *p = NULL;

    (void)state;
    assert_int_equal(process_start(&o, &p, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/vmm"));
    o.log_path = "/nonexistent/log";
    assert_int_equal(process_start(&o, &p, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/log"));
    assert_null(p);
}

static void sees_only_its_own_descriptors(void **state)
{
    char path[] = "/tmp/thaw-test-fdXXXXXX";
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int file = mkostemp(path, O_CLOEXEC);
    char tail[PROCESS_LOG_TAIL_BYTES], expected[300];
    struct stat st;

    (void)state;
    assert_true(zero >= 0 && file >= 0);
    /* The numbers are exchanged: 3 must become what is 4 here, and the reverse. What lies behind
     * them is not close-on-exec and must be closed all the same. */
    zero = fcntl(zero, F_DUPFD, 10);
    file = fcntl(file, F_DUPFD, 10);
    assert_int_equal(dup3(zero, 3, O_CLOEXEC), 3);
    assert_int_equal(dup2(file, 4), 4);
    int fds[] = {4, 3};
    unlink(log_path); /* a new one, for its mode */
    struct process *p CLEANUP_PROCESS =
        start("cd /proc/self/fd; for f in 0 1 3 4 5 6 7 8 9 10 11 12; do [ -e $f ] && "
              "echo $f $(readlink /proc/$$/fd/$f); done",
              fds, ARRAY_SIZE(fds));
    assert_true(process_wait(p, LONG_WAIT));
    snprintf(expected, sizeof(expected), "0 /dev/null|1 %s|3 %s|4 /dev/zero", log_path, path);
    assert_string_equal(process_log_tail(p, tail), expected);
    assert_int_equal(stat(log_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    for (int fd = 3; fd <= 4; fd++)
        close(fd);
    close(zero);
    close(file);
    unlink(path);
}

static void is_a_session_with_a_clean_slate(void **state)
{
    char tail[PROCESS_LOG_TAIL_BYTES];
    sigset_t usr1;

    (void)state;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    assert_int_equal(sigprocmask(SIG_BLOCK, &usr1, NULL), 0);
    assert_true(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
    assert_int_equal(setenv("PROCESS_TEST", "old", 1), 0);
    assert_int_equal(setenv("PROCESS_TESTS", "kept", 1), 0);
    assert_string_equal(
        output_of("set -- $(cat /proc/$$/stat); echo $(($5 == $$)) $(($6 == $$))", tail), "1 1");
    /* glibc's posix_spawn() leaves its internal signals, 32 and 33, ignored. */
    assert_string_equal(output_of("while read -r name mask; do case $name in SigBlk:|SigIgn:) "
                                  "echo $name $((0x$mask & 0x7fffffff));; esac; done "
                                  "</proc/$$/status",
                                  tail),
                        "SigBlk: 0|SigIgn: 0");
    assert_string_equal(output_of("env | grep ^PROCESS_TEST | sort", tail),
                        "PROCESS_TEST=new|PROCESS_TESTS=kept");
    assert_true(signal(SIGUSR2, SIG_DFL) != SIG_ERR);
}

static void takes_its_children_along(void **state)
{
    struct process *p CLEANUP_PROCESS = start("sleep 600 & echo $!; exit 0", NULL, 0);
    struct pollfd child = {.events = POLLIN};
    char tail[PROCESS_LOG_TAIL_BYTES];

    (void)state;
    assert_true(process_wait(p, LONG_WAIT));
    child.fd = pidfd_open_pid((pid_t)strtol(process_log_tail(p, tail), NULL, 10));
    if (child.fd < 0) { /* gone, and reaped by whoever inherited it */
        assert_int_equal(child.fd, -ESRCH);
        return;
    }
    assert_int_equal(poll(&child, 1, 5000), 1);
    close(child.fd);
}

static void shows_the_end_of_a_long_log(void **state)
{
    char tail[PROCESS_LOG_TAIL_BYTES];

    (void)state;
    output_of("i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i + 1)); done", tail);
    assert_int_equal(strncmp(tail, "line ", 5), 0); /* starts with a whole line */
    assert_string_equal(tail + strlen(tail) - strlen("|line 98|line 99"), "|line 98|line 99");
    assert_true(strlen(tail) > 200);
    assert_string_equal(output_of("printf 'a\\033[31mb\\n\\n'", tail), "a [31mb");
    assert_string_equal(output_of("true", tail), "");
    assert_int_equal(strlen(output_of("printf '%0500d' 7", tail)), PROCESS_LOG_TAIL_BYTES - 1);
}

static char folder[] = "/tmp/thaw-test-processXXXXXX";

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(log_path, sizeof(log_path), "%s/log", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(log_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_how_it_ended),
        cmocka_unit_test(waits_no_longer_than_asked),
        cmocka_unit_test(reports_what_cannot_run),
        cmocka_unit_test(sees_only_its_own_descriptors),
        cmocka_unit_test(is_a_session_with_a_clean_slate),
        cmocka_unit_test(takes_its_children_along),
        cmocka_unit_test(shows_the_end_of_a_long_log),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
