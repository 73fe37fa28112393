/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/sandbox.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "fetch/fetch.h"
#include "sandbox/internal.h"

static_assert(THAW_STAGES_MAX >= TIMELINE_MAX, "every event of the timeline can be told");

void sandbox_refresh(struct sandbox *s)
{
    struct memory_status *st = &s->status;
    bool connected = st->connected_ns != 0, faulted = st->first_fault_ns != 0;
    bool populated = st->populated_ns != 0;

    if (!s->server)
        return;
    memory_server_status(s->server, st);
    root_disk_counters(&s->disk, &s->disk_status);
    if (!connected && st->connected_ns)
        timeline_add(&s->timeline, "memory handed over", st->connected_ns);
    if (!faulted && st->first_fault_ns)
        timeline_add(&s->timeline, "first fault served", st->first_fault_ns);
    if (!populated && st->populated_ns)
        timeline_add(&s->timeline, "all memory installed", st->populated_ns);
}

void sandbox_stop(struct sandbox *s)
{
    if (s->stopped)
        return;
    s->stopped = true;
    if (s->vmm)
        s->driver->stop(s->vmm);
    sandbox_refresh(s);
    root_disk_stop(&s->disk);
    memory_server_destroy(TAKE_PTR(s->server));
}

void sandbox_destroy(struct sandbox *s)
{
    if (!s)
        return;
    sandbox_stop(s);
    vmm_destroy(s->vmm);
    close_fd(&s->snapfile_fd);
    janitor_finish(&s->janitor); /* removes the folder */
    root_disk_finish(&s->disk);
    image_close(s->memory);
    metadata_destroy(s->metadata);
    manifest_destroy(s->manifest);
    free(s->run_dir);
    free(s->memory_socket);
    free(s->snapfile);
    free(s->log);
    free(s);
}

/* The same path as a jailed VMM sees it. */
static const char *in_jail(const struct sandbox *s, const char *path)
{
    return path && s->jail_root_len ? path + s->jail_root_len : NULL;
}

static uint64_t stored_bytes(const struct sandbox *s, const char *image)
{
    const struct manifest_object *data = manifest_find(s->manifest, image);

    return data ? data->uncompressed_bytes : 0;
}

void sandbox_info(const struct sandbox *s, struct thaw_sandbox_info *ret)
{
    *ret = (struct thaw_sandbox_info){
        .build = s->build,
        .vmm = s->driver->name,
        .vmm_pid = vmm_pid(s->vmm),
        .memory_socket = s->memory_socket,
        .snapfile = s->snapfile,
        .disk_socket = s->disk.socket,
        .jail_memory_socket = in_jail(s, s->memory_socket),
        .jail_snapfile = in_jail(s, s->snapfile),
        .jail_disk_socket = in_jail(s, s->disk.socket),
        .disk_exports = (const char *const *)s->disk.exports,
        .memory_bytes = image_bytes(s->memory),
        .memory_stored_bytes = stored_bytes(s, IMAGE_MEMORY),
        .disk_bytes = s->disk.image ? image_bytes(s->disk.image) : 0,
        .disk_stored_bytes = stored_bytes(s, IMAGE_ROOTFS),
    };
}

void sandbox_mark(struct sandbox *s, const char *name)
{
    timeline_mark(&s->timeline, name);
}

static uint64_t cached_bytes(const struct sandbox *s)
{
    int64_t memory = image_allocated_bytes(s->memory);
    int64_t disk = s->disk.image ? image_allocated_bytes(s->disk.image) : 0;

    return (uint64_t)(MAX(memory, 0) + MAX(disk, 0));
}

static void disk_stats(const struct disk_counters *c, struct thaw_sandbox_stats *ret)
{
    ret->disk.reads = c->reads;
    ret->disk.writes = c->writes;
    ret->disk.zeroes = c->zeroes;
    ret->disk.trims = c->trims;
    ret->disk.flushes = c->flushes;
    ret->disk.failed = c->failed;
    ret->disk.waited = c->waited;
    ret->disk.read_bytes = c->read_bytes;
    ret->disk.written_bytes = c->written_bytes;
    ret->disk.dirty_bytes = c->dirty_bytes;
    ret->disk.spilled_bytes = c->spilled_bytes;
    ret->disk.paced = c->paced;
}

void sandbox_stats(struct sandbox *s, struct thaw_sandbox_stats *ret)
{
    struct fetch_counters fetched = fetch_counters(s->fetch);
    const struct memory_status *st = &s->status;
    double before_ms = 0;

    sandbox_refresh(s);
    *ret = (struct thaw_sandbox_stats){.stage_count = s->timeline.count};
    for (size_t i = 0; i < s->timeline.count; i++) {
        const struct timeline_event *event = &s->timeline.events[i];
        double at_ms = (double)event->at_ns / NS_PER_MS;

        ret->stages[i] = (struct thaw_stage){event->name, at_ms, at_ms - before_ms};
        before_ms = at_ms;
    }
    ret->faults.total = st->faults.total;
    ret->faults.ram = st->faults.ram;
    ret->faults.disk = st->faults.disk;
    ret->faults.store = st->faults.store;
    ret->faults.zero = st->faults.zero;
    ret->faults.removed = st->faults.removed;
    ret->bytes.fetched = fetched.read_bytes - s->before.read_bytes;
    ret->bytes.from_disk = fetched.disk_bytes - s->before.disk_bytes;
    ret->bytes.installed = st->installed_bytes;
    ret->bytes.unverified = fetched.unverified_bytes - s->before.unverified_bytes;
    ret->bytes.cached = cached_bytes(s);
    ret->pages.total = st->pages_total;
    ret->pages.installed = st->pages_installed;
    ret->pages.failed = st->failed_pages;
    disk_stats(&s->disk_status, ret);
    ret->seconds = (double)(clock_now_ns() - s->timeline.start_ns) / NS_PER_SEC;
}
