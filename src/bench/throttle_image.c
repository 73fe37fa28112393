/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/throttle_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "bench/throttle_run.h"
#include "thaw/create.h"

#define PIECE_BYTES MIB

void throttle_image_page(uint64_t *words, uint64_t page)
{
    uint64_t word = run_page_word(page);

    for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++) {
        words[i] = word;
        word = word * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    }
}

static int write_memory(int fd, uint64_t bytes)
{
    static uint64_t piece[PIECE_BYTES / sizeof(uint64_t)];
    int r = 0;

    for (uint64_t at = 0; at < bytes && r == 0; at += PIECE_BYTES) {
        for (uint64_t off = 0; off < PIECE_BYTES; off += PAGE_BYTES)
            throttle_image_page(piece + off / sizeof(*piece), (at + off) / PAGE_BYTES);
        r = file_write_at(fd, piece, PIECE_BYTES, at);
    }
    return r;
}

static int make_raw(const char *path, uint64_t bytes, bool filled, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return err_errno(e, -errno, "writing %s", path);
    if (filled)
        r = write_memory(fd, bytes);
    else
        r = ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
    return r < 0 ? err_errno(e, r, "writing %s", path) : 0;
}

int throttle_image_create(const char *scratch, const char *store, uint64_t memory_bytes,
                          uint64_t disk_bytes, char ret_build[THAW_BUILD_ID_BYTES],
                          struct thaw_error *e)
{
    struct thaw_create_options o = {.opts_size = sizeof(o), .store = store};
    char memory[200], disk[200];
    int r;

    snprintf(memory, sizeof(memory), "%s/memory", scratch);
    snprintf(disk, sizeof(disk), "%s/disk", scratch);
    o.memory_path = memory;
    o.rootfs_path = disk;
    r = make_raw(memory, memory_bytes, true, e);
    if (r == 0)
        r = make_raw(disk, disk_bytes, false, e);
    if (r == 0)
        r = thaw_create(&o, ret_build, e);
    unlink(memory);
    unlink(disk);
    return r < 0 ? r : 0;
}
