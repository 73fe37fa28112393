/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resume_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

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
    return json_pack("{s:s, s:s?, s:s?}", "memory_socket", info->jail_memory_socket, "snapfile",
                     info->jail_snapfile, "disk_socket", info->jail_disk_socket);
}

static json_t *exports_json(const struct thaw_sandbox_info *info)
{
    json_t *list = json_array();

    for (size_t i = 0; info->disk_exports && info->disk_exports[i]; i++)
        json_array_append_new(list, json_string(info->disk_exports[i]));
    return list;
}

static json_t *disk_json(const struct thaw_sandbox_stats *st)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "reads",
                     (json_int_t)st->disk.reads, "writes", (json_int_t)st->disk.writes, "zeroes",
                     (json_int_t)st->disk.zeroes, "trims", (json_int_t)st->disk.trims, "flushes",
                     (json_int_t)st->disk.flushes, "failed", (json_int_t)st->disk.failed, "waited",
                     (json_int_t)st->disk.waited, "read_bytes", (json_int_t)st->disk.read_bytes,
                     "written_bytes", (json_int_t)st->disk.written_bytes, "dirty_bytes",
                     (json_int_t)st->disk.dirty_bytes, "spilled_bytes",
                     (json_int_t)st->disk.spilled_bytes, "paced", (json_int_t)st->disk.paced);
}

#define CHART_COLUMNS 36

/* Until when the chart goes: what comes after the vCPUs run may be minutes later. */
static double chart_ms(const struct thaw_sandbox_stats *st)
{
    for (size_t i = 0; i < st->stage_count; i++) {
        if (strcmp(st->stages[i].name, "vCPUs running") == 0)
            return st->stages[i].at_ms;
    }
    return st->stage_count ? st->stages[st->stage_count - 1].at_ms : 0;
}

/* The stage's part of the time: "      ====        ". */
static void draw_bar(const struct thaw_stage *stage, double whole_ms, char ret[CHART_COLUMNS + 1])
{
    double scale = whole_ms > 0 ? CHART_COLUMNS / whole_ms : 0;
    int from = (int)((stage->at_ms - stage->ms) * scale), to = (int)(stage->at_ms * scale);

    for (int i = 0; i < CHART_COLUMNS; i++)
        ret[i] = i >= from && i <= to ? '=' : ' ';
    if (from >= CHART_COLUMNS)
        ret[CHART_COLUMNS - 1] = '>';
    ret[CHART_COLUMNS] = '\0';
}

static void show_stages(const struct thaw_sandbox_stats *st)
{
    double whole_ms = chart_ms(st);
    char bar[CHART_COLUMNS + 1];

    printf("\n  %-24s %9s %9s   0 %*.1f ms\n", "stage", "at ms", "took ms", CHART_COLUMNS - 4,
           whole_ms);
    for (size_t i = 0; i < st->stage_count; i++) {
        const struct thaw_stage *stage = &st->stages[i];

        draw_bar(stage, whole_ms, bar);
        printf("  %-24s %9.2f %9.2f  |%s|\n", stage->name, stage->at_ms, stage->ms, bar);
    }
}

static void show_ready(const struct thaw_sandbox_info *info, const struct thaw_sandbox_stats *st)
{
    char total[SIZE_TEXT_BYTES], stored[SIZE_TEXT_BYTES];

    printf("build %s: %s of guest memory, %s of it stored", info->build,
           size_format(info->memory_bytes, total), size_format(info->memory_stored_bytes, stored));
    if (info->disk_socket)
        printf("; root disk of %s, %s stored", size_format(info->disk_bytes, total),
               size_format(info->disk_stored_bytes, stored));
    printf("\n");
    if (info->vmm_pid) {
        show_stages(st);
        printf("\nrunning: %s, process %d; ^C ends it\n", info->vmm, info->vmm_pid);
        return;
    }
    printf("\nready for a VMM; ^C ends it\n  memory socket  %s\n", info->memory_socket);
    if (info->disk_socket)
        printf("  disk socket    %s, NBD export %s%s\n", info->disk_socket, info->disk_exports[0],
               info->disk_exports[1] ? " and following" : "");
    if (info->snapfile)
        printf("  snapfile       %s\n", info->snapfile);
    if (info->jail_memory_socket)
        printf("  in the jail    %s\n", info->jail_memory_socket);
}

static json_t *ready_json(const struct thaw_host_info *host, const struct thaw_sandbox_info *info)
{
    json_t *out =
        json_pack("{s:s, s:s, s:i, s:s, s:s?, s:s?, s:o, s:o, s:I, s:I}", "build", info->build,
                  "vmm", info->vmm, "vmm_pid", info->vmm_pid, "memory_socket", info->memory_socket,
                  "snapfile", info->snapfile, "disk_socket", info->disk_socket, "disk_exports",
                  exports_json(info), "jail", jail_json(info), "memory_bytes",
                  (json_int_t)info->memory_bytes, "disk_bytes", (json_int_t)info->disk_bytes);

    json_object_update_new(
        out, json_pack("{s:s, s:s, s:I, s:s?}", "cache_backing", host->cache_backing,
                       "cache_backing_source", host->cache_backing_source, "memory_budget",
                       (json_int_t)host->memory_budget, "metrics", host->metrics));
    return out;
}

int report_ready(struct thaw_host *host, struct thaw_sandbox *s, bool json)
{
    struct thaw_host_info host_info;
    struct thaw_sandbox_info info;
    struct thaw_sandbox_stats st;

    thaw_host_info(host, &host_info);
    thaw_sandbox_info(s, &info);
    thaw_sandbox_stats(s, &st);
    if (json)
        return print_json(ready_json(&host_info, &info));
    show_ready(&info, &st);
    printf("  cache          %s (%s)\n", host_info.cache_backing, host_info.cache_backing_source);
    if (host_info.metrics)
        printf("  metrics        %s\n", host_info.metrics);
    return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}

static void show_disk(const struct thaw_sandbox_stats *st)
{
    char read[SIZE_TEXT_BYTES], written[SIZE_TEXT_BYTES], dirty[SIZE_TEXT_BYTES];

    if (st->disk.reads + st->disk.writes == 0)
        return;
    printf("  disk          %" PRIu64 " reads of %s, %" PRIu64 " waited for the store; %" PRIu64
           " writes of %s, %s changed\n",
           st->disk.reads, size_format(st->disk.read_bytes, read), st->disk.waited, st->disk.writes,
           size_format(st->disk.written_bytes, written), size_format(st->disk.dirty_bytes, dirty));
    if (st->disk.failed)
        printf("  FAILED        %" PRIu64 " disk requests\n", st->disk.failed);
}

static void show_cache(const struct thaw_host_info *host)
{
    char charged[SIZE_TEXT_BYTES], budget[SIZE_TEXT_BYTES];

    printf("  cache         %s (%s)", host->cache_backing, host->cache_backing_source);
    if (strcmp(host->cache_backing, "file") != 0) /* whose pages the kernel takes when it likes */
        printf(", %s of a budget of %s", size_format(host->charged_bytes, charged),
               size_format(host->memory_budget, budget));
    if (host->huge_bytes > 0 || strcmp(host->huge_pages, "hugetlb") == 0)
        printf(", %s in huge pages (%s)", size_format(host->huge_bytes, charged), host->huge_pages);
    if (host->disk_tier)
        printf(", %s of %s on disk (%s)", size_format(host->disk_bytes, charged),
               size_format(host->disk_budget, budget), host->disk_tier);
    if (host->not_kept)
        printf("; %" PRIu64 " times 64 KiB served but not kept", host->not_kept);
    printf("\n");
}

static void show_end(const struct thaw_sandbox_stats *st)
{
    char fetched[SIZE_TEXT_BYTES], disk[SIZE_TEXT_BYTES], installed[SIZE_TEXT_BYTES],
        cached[SIZE_TEXT_BYTES];
    double percent =
        st->pages.total ? 100.0 * (double)st->pages.installed / (double)st->pages.total : 0;

    show_stages(st);
    printf("\n  served for    %.2f s\n", st->seconds);
    printf("  pages         %" PRIu64 " of %" PRIu64 " touched (%.1f %%)\n", st->pages.installed,
           st->pages.total, percent);
    printf("  page faults   %" PRIu64 ": %" PRIu64 " from memory, %" PRIu64
           " from the disk, %" PRIu64 " from the store, %" PRIu64 " zero, %" PRIu64 " discarded\n",
           st->faults.total, st->faults.ram, st->faults.disk, st->faults.store, st->faults.zero,
           st->faults.removed);
    printf("  bytes         %s fetched, %s read from the disk tier, %s installed, %s cached\n",
           size_format(st->bytes.fetched, fetched), size_format(st->bytes.from_disk, disk),
           size_format(st->bytes.installed, installed), size_format(st->bytes.cached, cached));
    show_disk(st);
    if (st->bytes.unverified)
        printf("  unverified    %s: the build has no sums to check them by\n",
               size_format(st->bytes.unverified, fetched));
    if (st->pages.failed)
        printf("  FAILED        %" PRIu64 " pages could not be served\n", st->pages.failed);
}

static json_t *end_json(const struct thaw_host_info *host, const struct thaw_sandbox_stats *st)
{
    json_t *bytes = json_pack(
        "{s:I, s:I, s:I, s:I, s:I}", "fetched", (json_int_t)st->bytes.fetched, "from_disk",
        (json_int_t)st->bytes.from_disk, "installed", (json_int_t)st->bytes.installed, "cached",
        (json_int_t)st->bytes.cached, "unverified", (json_int_t)st->bytes.unverified);
    json_t *pages =
        json_pack("{s:I, s:I, s:I}", "total", (json_int_t)st->pages.total, "installed",
                  (json_int_t)st->pages.installed, "failed", (json_int_t)st->pages.failed);
    json_t *cache =
        json_pack("{s:s, s:s, s:I, s:I, s:I}", "backing", host->cache_backing, "source",
                  host->cache_backing_source, "budget", (json_int_t)host->memory_budget, "charged",
                  (json_int_t)host->charged_bytes, "not_kept", (json_int_t)host->not_kept);

    json_object_update_new(cache,
                           json_pack("{s:s?, s:I, s:I, s:I, s:s, s:I}", "disk_tier",
                                     host->disk_tier, "disk_bytes", (json_int_t)host->disk_bytes,
                                     "disk_budget", (json_int_t)host->disk_budget, "disk_behind",
                                     (json_int_t)host->disk_behind, "huge_pages", host->huge_pages,
                                     "huge_bytes", (json_int_t)host->huge_bytes));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:f}", "stages", stages_json(st), "faults",
                     faults_json(st), "bytes", bytes, "pages", pages, "disk", disk_json(st),
                     "cache", cache, "seconds", st->seconds);
}

int report_end(struct thaw_host *host, struct thaw_sandbox *s, bool json)
{
    struct thaw_host_info host_info;
    struct thaw_sandbox_stats st;

    thaw_host_info(host, &host_info);
    thaw_sandbox_stats(s, &st);
    if (json)
        return print_json(end_json(&host_info, &st));
    show_end(&st);
    show_cache(&host_info);
    return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}
