/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libthaw-shim.so is preloaded into by test_shim.c: a process that maps "guest memory" and
 * checks what it finds there. The server fills page n with n, as bytes. The exit status tells which
 * expectation failed. With an argument the memory is a shared file, as QEMU's. Built without
 * sanitizers: their run-time wants to be the first library.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/units.h"
#include "shim_client.h"

static unsigned char *map_file(size_t len, int prot, int flags, int fd)
{
    void *memory = mmap(NULL, len, prot, flags, fd, 0);

    if (memory == MAP_FAILED)
        _exit(90);
    return memory;
}

static unsigned char *map(size_t len, int prot)
{
    return map_file(len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void expect(bool good, int status)
{
    if (!good)
        _exit(status);
}

/* As QEMU discards memory: a hole in the file, of which nobody is told, and the mapping dropped. In
 * between somebody touches the page, and gets its old bytes. Afterwards it must be absent. */
static void discard_shared(unsigned char *guest, int file)
{
    unsigned char *page = guest + 5 * PAGE_BYTES;

    expect(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * PAGE_BYTES,
                     PAGE_BYTES) == 0,
           101);
    expect(page[0] == 5, 102);
    expect(madvise(page, PAGE_BYTES, MADV_DONTNEED) == 0, 103);
    expect(lseek(file, 5 * PAGE_BYTES, SEEK_DATA) == 7 * PAGE_BYTES, 104);
}

/* Descriptors that lead to what @wanted begins with. */
static int find_fd(const char *wanted)
{
    for (int fd = 3; fd < 64; fd++) {
        char path[32], link[64] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (readlink(path, link, sizeof(link) - 1) > 0 &&
            strncmp(link, wanted, strlen(wanted)) == 0)
            return fd;
    }
    _exit(100);
}

static int main_shared(void)
{
    int file = memfd_create("guest", MFD_CLOEXEC);
    unsigned char *guest;
    int uffd;

    expect(ftruncate(file, SHIM_CLIENT_BYTES) == 0, 99);
    guest = map_file(SHIM_CLIENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    expect(guest[5 * PAGE_BYTES] == 5 && guest[7 * PAGE_BYTES] == 7, 93);
    discard_shared(guest, file);
    uffd = find_fd("anon_inode:[userfaultfd]");
    expect(close(uffd) == 0 && close(find_fd("socket:")) == 0, 105);
    expect(fcntl(uffd, F_GETFD) >= 0, 106);
    expect(close(file) == 0 && fcntl(file, F_GETFD) < 0, 107);
    return 0;
}

static int main_private(void)
{
    unsigned char *small = map(PAGE_BYTES, PROT_READ | PROT_WRITE);
    unsigned char *constant = map(SHIM_CLIENT_BYTES, PROT_READ);
    unsigned char *guest = map(SHIM_CLIENT_BYTES, PROT_READ | PROT_WRITE);
    unsigned char *second = map(SHIM_CLIENT_BYTES, PROT_READ | PROT_WRITE);

    expect(small[0] == 0 && constant[5 * PAGE_BYTES] == 0, 91);
    expect(second[5 * PAGE_BYTES] == 0, 92);
    expect(guest[5 * PAGE_BYTES] == 5 && guest[6 * PAGE_BYTES - 1] == 5, 93);
    guest[7 * PAGE_BYTES]++;
    expect(guest[7 * PAGE_BYTES] == 8 && guest[7 * PAGE_BYTES + 1] == 7, 94);
    expect(guest[SHIM_CLIENT_BYTES - 1] == (SHIM_CLIENT_BYTES / PAGE_BYTES - 1) % 256, 95);
    expect(madvise(guest + 5 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED) == 0, 96);
    /* What a child would get. The other entry of LD_PRELOAD is not ours to remove. */
    return system("env | grep -E '^(LD_PRELOAD|THAW_SHIM_[A-Z_]*)='") == 0 ? 0 : 97;
}

int main(int argc, char **argv)
{
    (void)argv;
    return argc > 1 ? main_shared() : main_private();
}
