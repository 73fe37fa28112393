/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/firecracker_command.h"

#include <errno.h>
#include <string.h>

#include "vmm/arg_list.h"
#include "vmm/vmm.h"

#define DEFAULT_PROGRAM "firecracker"
#define ARGUMENTS_MAX   1024 /* recorded and extra ones, each */
#define ID_MAX_BYTES    64   /* of an instance id, which has letters, digits and '-' */
#define ID_CHARACTERS   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

static size_t count(const char *const *list)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    return n;
}

/* The folder of @path by its name, if Firecracker takes that for an id. */
static void add_id(struct arg_list *l, const char *path)
{
    const char *end = strrchr(path, '/'), *start = end;
    size_t len;

    while (start > path && start[-1] != '/')
        start--;
    len = (size_t)(end - start);
    if (len < 1 || len > ID_MAX_BYTES || strspn(start, ID_CHARACTERS) < len)
        return;
    arg_list_add(l, "--id");
    arg_list_add_owned(l, strndup(start, len));
}

/* "--level Debug" is two arguments, "--no-seccomp" is one. */
static void add_option(struct arg_list *l, const char *option)
{
    size_t word_len = strcspn(option, " ");

    arg_list_add_owned(l, strndup(option, word_len));
    option += word_len;
    option += strspn(option, " ");
    if (*option)
        arg_list_add(l, option);
}

int firecracker_command_build(const struct vmm_options *o, const char *api_socket,
                              struct arg_list *ret, struct thaw_error *e)
{
    if (count(o->args) > ARGUMENTS_MAX || count(o->extra_options) > ARGUMENTS_MAX)
        return err_set(e, -E2BIG, "Firecracker's command line has more than %d arguments",
                       ARGUMENTS_MAX);
    arg_list_add(ret, o->program ? o->program : DEFAULT_PROGRAM);
    arg_list_add(ret, "--api-sock");
    arg_list_add(ret, api_socket);
    add_id(ret, api_socket);
    for (size_t i = 0; o->args && o->args[i]; i++)
        arg_list_add(ret, o->args[i]);
    for (size_t i = 0; o->extra_options && o->extra_options[i]; i++)
        add_option(ret, o->extra_options[i]);
    return ret->failed ? err_set(e, -ENOMEM, "no memory for Firecracker's command line") : 0;
}
