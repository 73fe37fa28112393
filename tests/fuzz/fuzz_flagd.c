/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "format/flagd.h"
#include "fuzz.h"

static void require_sound(const struct flagd_file *file)
{
    for (size_t i = 0; i < file->count; i++) {
        const struct flagd_flag *f = &file->flags[i];

        FUZZ_REQUIRE(flagd_find(file, f->name) == f); /* which holds only when no name is twice */
        FUZZ_REQUIRE((f->type == FLAGD_INVALID) == (f->problem[0] != '\0'));
        FUZZ_REQUIRE(f->type != FLAGD_STRING || strlen(f->string) < FLAGD_MAX_BYTES);
        FUZZ_REQUIRE(f->type <= FLAGD_OTHER && flagd_type_name(f->type)[0] != '\0');
    }
}

/* A file that is half written never holds: without its last brace the text is refused. */
static void require_no_beginning(const uint8_t *data, size_t size)
{
    struct flagd_file *file CLEANUP_FLAGD = NULL;
    struct thaw_error e = THAW_ERROR_INIT;

    while (size > 0 && data[size - 1] != '}')
        size--;
    FUZZ_REQUIRE(size > 0);
    FUZZ_REQUIRE(flagd_decode(data, size - 1, &file, &e) == -EBADMSG);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct flagd_file *file CLEANUP_FLAGD = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    int r = flagd_decode(data, size, &file, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && !file && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return 0;
    require_sound(file);
    require_no_beginning(data, size);
    return 0;
}
