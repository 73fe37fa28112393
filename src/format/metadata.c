/* SPDX-License-Identifier: Apache-2.0 */
#include "format/metadata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format/metadata_json.h"

/* The structure itself; reading and writing its text is in metadata_decode.c, metadata_encode.c. */

static const char *const kind_names[] = {
    [VMM_NONE] = "none",
    [VMM_QEMU] = "qemu",
    [VMM_FIRECRACKER] = "firecracker",
};

const char *vmm_kind_name(enum vmm_kind kind)
{
    return kind_names[kind];
}

int vmm_kind_parse(const char *name, enum vmm_kind *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++) {
        if (strcmp(name, kind_names[i]) == 0) {
            *ret = (enum vmm_kind)i;
            return 0;
        }
    }
    return -EINVAL;
}

int metadata_create(struct metadata **ret)
{
    struct metadata *m = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    m->version = METADATA_VERSION;
    *ret = m;
    return 0;
}

int metadata_add_arg(struct metadata *m, const char *arg)
{
    char *copy CLEANUP_FREE = NULL;
    char **grown;

    if (m->vmm.arg_count == METADATA_MAX_ARGS)
        return -E2BIG;
    copy = strdup(arg);
    if (!copy)
        return -ENOMEM;
    grown = reallocarray(m->vmm.args, m->vmm.arg_count + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    m->vmm.args = grown;
    m->vmm.args[m->vmm.arg_count++] = TAKE_PTR(copy);
    return 0;
}

void metadata_destroy(struct metadata *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->vmm.arg_count; i++)
        free(m->vmm.args[i]);
    free(m->vmm.args);
    free(m->vmm.version);
    free(m->prefetch.indices);
    free(m->prefetch.access);
    json_decref(m->foreign);
    free(m);
}

bool metadata_block_bytes_valid(uint64_t block_bytes)
{
    return block_bytes >= PAGE_BYTES && block_bytes <= 2 * MIB &&
           (block_bytes & (block_bytes - 1)) == 0;
}

bool metadata_index_valid(const struct metadata *m, uint64_t index, uint64_t block_bytes)
{
    uint64_t end = m->memory_bytes > 0 ? m->memory_bytes : METADATA_IMAGE_MAX_BYTES;

    return index < div_round_up(end, block_bytes);
}

bool metadata_access_valid(char access)
{
    return access == 'r' || access == 'w' || access == 'p';
}
