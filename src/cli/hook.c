/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/hook.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"

#define STOP_MS 3000

struct variable {
    const char *name;
    const char *value; /* NULL: the command does not have it */
};

static void free_environment(char **env, size_t own)
{
    for (size_t i = 0; i < own; i++)
        free(env[i]);
    free(env);
}

static bool is_one_of(const struct variable *v, size_t n, const char *setting)
{
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(v[i].name);

        if (strncmp(setting, v[i].name, len) == 0 && setting[len] == '=')
            return true;
    }
    return false;
}

/* These variables, then what we inherited but for those; the first @*ret_own are ours to free. */
static char **make_environment(const struct variable *v, size_t n, size_t *ret_own)
{
    size_t inherited = 0, used = 0;
    char **env;

    while (environ[inherited])
        inherited++;
    env = calloc(n + inherited + 1, sizeof(*env));
    if (!env)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (v[i].value && asprintf(&env[used], "%s=%s", v[i].name, v[i].value) < 0) {
            free_environment(env, used);
            return NULL;
        }
        used += v[i].value != NULL;
    }
    *ret_own = used;
    for (char **e = environ; *e; e++) {
        if (!is_one_of(v, n, *e))
            env[used++] = *e;
    }
    return env;
}

static int spawn(pid_t *ret, char *command, char **env, bool quiet)
{
    char shell[] = "sh", option[] = "-c", *argv[] = {shell, option, command, NULL};
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t none, all;
    int r = 0;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    if (quiet)
        r = -posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    if (r == 0)
        r = -posix_spawn(ret, "/bin/sh", &actions, &attributes, argv, env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return r;
}

int hook_start(struct hook *h, const struct thaw_sandbox_info *info, bool quiet)
{
    char vmm_pid[16];
    const struct variable variables[] = {
        {"THAW_BUILD", info->build},
        {"THAW_MEMORY_SOCKET", info->memory_socket},
        {"THAW_DISK_SOCKET", info->disk_socket},
        {"THAW_SNAPFILE", info->snapfile},
        {"THAW_VMM_PID", info->vmm_pid ? vmm_pid : NULL},
    };
    char *command CLEANUP_FREE = NULL;
    size_t own;
    char **env;
    int r;

    if (!h->command)
        return 0;
    snprintf(vmm_pid, sizeof(vmm_pid), "%d", info->vmm_pid);
    command = strdup(h->command);
    env = command ? make_environment(variables, ARRAY_SIZE(variables), &own) : NULL;
    if (!env)
        return -ENOMEM;
    r = spawn(&h->pid, command, env, quiet);
    free_environment(env, own);
    if (r < 0)
        return r;
    h->pidfd = (int)syscall(SYS_pidfd_open, h->pid, 0);
    if (h->pidfd >= 0)
        return 0;
    r = -errno;
    hook_stop(h);
    return r;
}

int hook_reap(struct hook *h)
{
    int status = 0;

    while (waitpid(h->pid, &status, 0) < 0 && errno == EINTR)
        ;
    h->pid = 0;
    close_fd(&h->pidfd);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void hook_stop(struct hook *h)
{
    struct pollfd p = {.fd = h->pidfd, .events = POLLIN};

    if (h->pid == 0)
        return;
    kill(h->pid, SIGTERM);
    if (h->pidfd < 0 || poll(&p, 1, STOP_MS) <= 0)
        kill(h->pid, SIGKILL);
    hook_reap(h);
}
