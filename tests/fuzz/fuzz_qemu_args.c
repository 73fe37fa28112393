/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "vmm/arg_list.h"
#include "vmm/qemu_args.h"

/* What is recorded of @l, as a command line again; the caller's to free. */
static char *join(const struct arg_list *l, size_t *ret_len)
{
    size_t len = 1, at = 1;
    char *line;

    for (size_t i = 0; i < l->n; i++)
        len += strlen(l->v[i]) + 1;
    line = malloc(len);
    FUZZ_REQUIRE(line != NULL);
    line[0] = '\0'; /* a program without a name */
    for (size_t i = 0; i < l->n; i++) {
        size_t n = strlen(l->v[i]) + 1;

        memcpy(line + at, l->v[i], n);
        at += n;
    }
    *ret_len = len;
    return line;
}

/* Nothing of the host may be left that would not be left out of the record, too. */
static void require_stable(const struct arg_list *l)
{
    struct arg_list again CLEANUP_ARG_LIST = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    size_t len;
    char *line CLEANUP_FREE = join(l, &len);

    FUZZ_REQUIRE(qemu_args_record(line, len, "pc-1.0", &again, &e) == 0);
    FUZZ_REQUIRE(again.n <= l->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct arg_list l CLEANUP_ARG_LIST = {0};
    int r = qemu_args_record(data, size, "pc-1.0", &l, &e);

    FUZZ_REQUIRE(r == 0 || ((r == -EBADMSG || r == -E2BIG) && e.code == r && e.text[0] != '\0'));
    if (r < 0 || l.n == 0)
        return 0;
    FUZZ_REQUIRE(l.n <= QEMU_ARGS_MAX && l.v[l.n] == NULL);
    qemu_args_name_disk((const char *const *)l.v);
    require_stable(&l);
    return 0;
}
