/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resume_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"

static json_t *stages_json(const struct thaw_sandbox_stats *st)
{
    json_t *list = json_array();

    for (size_t i = 0; i < st->stage_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:f}", "name", st->stages[i].name, "ms",
                                              st->stages[i].ms, "at_ms", st->stages[i].at_ms));
    return list;
}

static json_t *faults_json(const struct thaw_sandbox_stats *st)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)st->faults.total, "ram",
                     (json_int_t)st->faults.ram, "disk", (json_int_t)st->faults.disk, "store",
                     (json_int_t)st->faults.store, "zero", (json_int_t)st->faults.zero, "removed",
                     (json_int_t)st->faults.removed);
}

static json_t *jail_json(const struct thaw_sandbox_info *info)
{
    if (!info->jail_memory_socket)
        return json_null();
    return json_pack("{s:s, s:s?}", "memory_socket", info->jail_memory_socket, "snapfile",
                     info->jail_snapfile);
}

static void show_stages(const struct thaw_sandbox_stats *st)
{
    printf("\n  %10s %10s   stage\n", "at ms", "took ms");
    for (size_t i = 0; i < st->stage_count; i++)
        printf("  %10.2f %10.2f   %s\n", st->stages[i].at_ms, st->stages[i].ms, st->stages[i].name);
}

int report_ready(struct thaw_sandbox *s, bool json)
{
    struct thaw_sandbox_info info;
    struct thaw_sandbox_stats st;
    char memory[SIZE_TEXT_BYTES], stored[SIZE_TEXT_BYTES];

    thaw_sandbox_info(s, &info);
    if (json)
        return print_json(json_pack(
            "{s:s, s:s, s:i, s:s, s:s?, s:o, s:I}", "build", info.build, "vmm", info.vmm, "vmm_pid",
            info.vmm_pid, "memory_socket", info.memory_socket, "snapfile", info.snapfile, "jail",
            jail_json(&info), "memory_bytes", (json_int_t)info.memory_bytes));
    printf("build %s: %s of guest memory, %s of it stored\n", info.build,
           size_format(info.memory_bytes, memory), size_format(info.memory_stored_bytes, stored));
    if (info.vmm_pid) {
        thaw_sandbox_stats(s, &st);
        show_stages(&st);
        printf("\nrunning: %s, process %d; ^C ends it\n", info.vmm, info.vmm_pid);
    } else {
        printf("\nready for a VMM; ^C ends it\n  memory socket  %s\n", info.memory_socket);
        if (info.snapfile)
            printf("  snapfile       %s\n", info.snapfile);
        if (info.jail_memory_socket)
            printf("  in the jail    %s\n", info.jail_memory_socket);
    }
    return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}

static void show_end(const struct thaw_sandbox_stats *st)
{
    char fetched[SIZE_TEXT_BYTES], installed[SIZE_TEXT_BYTES], cached[SIZE_TEXT_BYTES];
    double percent =
        st->pages.total ? 100.0 * (double)st->pages.installed / (double)st->pages.total : 0;

    show_stages(st);
    printf("\n  served for    %.2f s\n", st->seconds);
    printf("  pages         %" PRIu64 " of %" PRIu64 " touched (%.1f %%)\n", st->pages.installed,
           st->pages.total, percent);
    printf("  page faults   %" PRIu64 ": %" PRIu64 " from memory, %" PRIu64 " from the store, "
           "%" PRIu64 " zero, %" PRIu64 " discarded\n",
           st->faults.total, st->faults.ram + st->faults.disk, st->faults.store, st->faults.zero,
           st->faults.removed);
    printf("  bytes         %s fetched, %s installed, %s cached\n",
           size_format(st->bytes.fetched, fetched), size_format(st->bytes.installed, installed),
           size_format(st->bytes.cached, cached));
    if (st->bytes.unverified)
        printf("  unverified    %s: the build has no sums to check them by\n",
               size_format(st->bytes.unverified, fetched));
    if (st->pages.failed)
        printf("  FAILED        %" PRIu64 " pages could not be served\n", st->pages.failed);
}

int report_end(struct thaw_sandbox *s, bool json)
{
    struct thaw_sandbox_stats st;

    thaw_sandbox_stats(s, &st);
    if (json)
        return print_json(json_pack(
            "{s:o, s:o, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:f}", "stages",
            stages_json(&st), "faults", faults_json(&st), "bytes", "fetched",
            (json_int_t)st.bytes.fetched, "installed", (json_int_t)st.bytes.installed, "cached",
            (json_int_t)st.bytes.cached, "unverified", (json_int_t)st.bytes.unverified, "pages",
            "total", (json_int_t)st.pages.total, "installed", (json_int_t)st.pages.installed,
            "failed", (json_int_t)st.pages.failed, "seconds", st.seconds));
    show_end(&st);
    return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}
