/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resume_serve.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/hook.h"
#include "cli/resume_report.h"

/* What interrupts the wait for the VM's end. */
enum news { SIGNAL, FLAGS_CHANGED, CMD_ENDED, HOOK_ENDED };

struct server {
    struct thaw_host *host;       /* borrowed */
    struct thaw_sandbox *sandbox; /* borrowed */
    struct hook cmd, on_resumed;
    bool stopped;  /* by a signal */
    int signal_fd; /* owned, as below */
    int news_fd;   /* an epoll of all of them */
};

static void stop_signals(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGINT);
    sigaddset(ret, SIGHUP);
}

static int listen_to(const struct server *s, int fd, enum news news)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = news};

    return epoll_ctl(s->news_fd, EPOLL_CTL_ADD, fd, &event);
}

/*
 * While the sandbox runs, signals are something to poll for. Before and after, when a store that
 * does not answer may be waited for, they end the process, and the janitor cleans up.
 */
static int server_open(struct server *s)
{
    sigset_t set;

    stop_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->news_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->signal_fd < 0 || s->news_fd < 0 || listen_to(s, s->signal_fd, SIGNAL) < 0 ||
        (thaw_host_fd(s->host) >= 0 && listen_to(s, thaw_host_fd(s->host), FLAGS_CHANGED) < 0)) {
        perror("thaw: waiting for signals");
        return -1;
    }
    return 0;
}

/* The signals that stopped us are taken; the next one ends us. */
static void server_close(struct server *s)
{
    struct signalfd_siginfo taken;
    sigset_t set;

    while (s->signal_fd >= 0 && read(s->signal_fd, &taken, sizeof(taken)) > 0)
        ;
    close_fd(&s->signal_fd);
    close_fd(&s->news_fd);
    stop_signals(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int start_hook(struct server *s, struct hook *h, enum news ended, bool quiet)
{
    struct thaw_sandbox_info info;
    int r;

    if (!h->command)
        return 0;
    thaw_sandbox_info(s->sandbox, &info);
    r = hook_start(h, &info, quiet);
    if (r == 0 && listen_to(s, h->pidfd, ended) < 0)
        r = -errno;
    if (r < 0)
        fprintf(stderr, "thaw: running '%s': %s\n", h->command, strerror(-r));
    return r;
}

/* SIGHUP stands for new flags where there is a file of them; everything else ends us. */
static int take_signal(struct server *s)
{
    struct signalfd_siginfo info;

    if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
        return -1;
    if (info.ssi_signo != SIGHUP || thaw_host_fd(s->host) < 0) {
        s->stopped = true;
        return EXIT_OK;
    }
    thaw_host_reload(s->host);
    return -1;
}

/* -1: go on waiting; else the status to exit with. */
static int take_news(struct server *s)
{
    struct epoll_event event;
    int status;

    if (epoll_wait(s->news_fd, &event, 1, 0) != 1)
        return -1;
    switch ((enum news)event.data.u32) {
    case SIGNAL:
        return take_signal(s);
    case FLAGS_CHANGED:
        thaw_host_handle(s->host);
        return -1;
    case CMD_ENDED:
        status = hook_reap(&s->cmd);
        thaw_sandbox_mark(s->sandbox, "command ended");
        if (status != 0)
            fprintf(stderr, "thaw: '%s' ended with status %d\n", s->cmd.command, status);
        return status == 0 ? EXIT_OK : EXIT_FAILED;
    case HOOK_ENDED:
        status = hook_reap(&s->on_resumed);
        if (status != 0)
            fprintf(stderr, "thaw: '%s' ended with status %d; the VM runs on\n",
                    s->on_resumed.command, status);
        return -1;
    }
    return -1;
}

/* The VM was ended by us. It may have lacked memory until then, which it was not ended for. */
static int status_of_stopped(const struct server *s, int status)
{
    struct thaw_sandbox_stats st;

    thaw_sandbox_stats(s->sandbox, &st);
    if (status != EXIT_OK || st.pages.failed == 0)
        return status;
    fprintf(stderr, "thaw: %" PRIu64 " pages of guest memory could not be served\n",
            st.pages.failed);
    return EXIT_FAILED;
}

static int wait_for_end(struct server *s)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int status = -1;

    while (status < 0) {
        int r = thaw_sandbox_wait(s->sandbox, s->news_fd, warn, NULL, &e);

        if (r < 0)
            return fail(&e);
        if (r == 0)
            return EXIT_OK;
        status = take_news(s);
    }
    return status_of_stopped(s, status);
}

static int run(struct server *s, const struct serve_options *o)
{
    int status = o->quiet ? EXIT_OK : report_ready(s->host, s->sandbox, o->json);

    if (status != EXIT_OK)
        return status;
    if (start_hook(s, &s->on_resumed, HOOK_ENDED, o->json) < 0 ||
        start_hook(s, &s->cmd, CMD_ENDED, o->json) < 0)
        return EXIT_FAILED;
    return wait_for_end(s);
}

int serve(struct thaw_host *host, struct thaw_sandbox *sandbox, const struct serve_options *o,
          bool *ret_stopped)
{
    struct server s = {
        .host = host,
        .sandbox = sandbox,
        .cmd = HOOK_INIT,
        .on_resumed = HOOK_INIT,
        .signal_fd = -1,
        .news_fd = -1,
    };
    int status = EXIT_FAILED, told;

    s.cmd.command = o->cmd;
    s.on_resumed.command = o->on_resumed;
    if (server_open(&s) == 0)
        status = run(&s, o);
    server_close(&s);
    thaw_sandbox_stop(sandbox);
    hook_stop(&s.cmd);
    hook_stop(&s.on_resumed);
    told = o->quiet ? EXIT_OK : report_end(host, sandbox, o->json);
    if (ret_stopped)
        *ret_stopped = s.stopped;
    return status != EXIT_OK ? status : told;
}
