/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/process.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

static void cleanup_file(FILE **f)
{
    if (*f)
        fclose(*f);
}

/* Field 22 of proc(5)'s stat: clock ticks from the start of the machine to that of the process. */
static unsigned long long start_ticks(void)
{
    FILE *f CLEANUP(cleanup_file) = fopen("/proc/self/stat", "re");
    unsigned long long ticks = 0;
    char line[1024];
    const char *after_name;

    if (!f || !fgets(line, sizeof(line), f))
        return 0;
    after_name = strrchr(line, ')'); /* the name of the program may have any other character */
    if (!after_name ||
        sscanf(after_name + 1, " %*c%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%llu",
               &ticks) != 1)
        return 0;
    return ticks;
}

/* Seconds from 1970 to the start of the machine. */
static unsigned long long boot_time(void)
{
    FILE *f CLEANUP(cleanup_file) = fopen("/proc/stat", "re");
    unsigned long long seconds = 0;
    char line[256];

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "btime %llu", &seconds) == 1)
            break;
    }
    return seconds;
}

double process_start_time(void)
{
    unsigned long long boot = boot_time(), ticks = start_ticks();
    long per_second = sysconf(_SC_CLK_TCK);

    return boot && ticks && per_second > 0 ? (double)boot + (double)ticks / (double)per_second : 0;
}
