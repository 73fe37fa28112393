/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libthaw-shim.so is preloaded into by test_shim.c: a process that maps "guest memory" and
 * checks what it finds there. The server fills page n with n, as bytes. The exit status tells which
 * expectation failed. Built without sanitizers: their run-time wants to be the first library.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/units.h"
#include "shim_client.h"

static unsigned char *map(size_t len, int prot)
{
    void *memory = mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        _exit(90);
    return memory;
}

static void expect(bool good, int status)
{
    if (!good)
        _exit(status);
}

int main(void)
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
