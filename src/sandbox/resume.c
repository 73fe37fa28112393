/* SPDX-License-Identifier: Apache-2.0 */

/* From a build id to running vCPUs. */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "image/create.h"
#include "sandbox/internal.h"
#include "sandbox/run_dir.h"
#include "store/store.h"

static int make_folder(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    int r = run_dir_create(o->jail ? o->jail->root : o->run_dir, &s->run_dir, e);

    if (r < 0)
        return r;
    if (o->jail)
        s->jail_root_len = (size_t)(strrchr(s->run_dir, '/') - s->run_dir);
    r = janitor_start(&s->janitor, s->run_dir, e);
    if (r < 0) {
        rmdir(s->run_dir); /* which the janitor would have done */
        return r;
    }
    s->memory_socket = run_dir_path(s->run_dir, "memory.sock");
    s->log = run_dir_path(s->run_dir, "vmm.log");
    return s->memory_socket && s->log ? 0 : err_set(e, -ENOMEM, "no memory for a path");
}

static int load_metadata(struct sandbox *s, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = build_object_load(s->store, s->manifest, METADATA_NAME, METADATA_MAX_BYTES, &text, e);

    if (r == 0) {
        r = metadata_decode(text.data, text.len, &s->metadata, e);
        if (r < 0)
            err_wrap(e, "build %s: %s", s->build, METADATA_NAME);
    }
    return r;
}

static int choose_driver(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    const char *recorded = vmm_kind_name(s->metadata->vmm.kind);
    const char *name = o->vmm ? o->vmm : recorded;

    s->driver = vmm_driver_find(name);
    if (!s->driver)
        return err_set(e, -EINVAL, "no driver for VMM '%s'; there are: %s", name, VMM_DRIVER_NAMES);
    /* A build that records no VMM, as E2B's do, is for whoever resumes it to know. */
    if (s->metadata->vmm.kind != VMM_NONE && strcmp(name, "none") != 0 &&
        strcmp(name, recorded) != 0)
        return err_set(e, -EINVAL, "build %s is a snapshot of '%s', not of '%s'", s->build,
                       recorded, name);
    return 0;
}

/* Each VM gets a disk of its own, which takes a thread. */
static int check_disks(const struct sandbox *s, const struct sandbox_options *o,
                       struct thaw_error *e)
{
    if (!s->disk.image || o->accept <= NBD_EXPORTS_MAX)
        return 0;
    return err_set(e, -EINVAL,
                   "build %s has a root disk, of which at most %u VMs can be served, not %u; "
                   "resume it several times",
                   s->build, NBD_EXPORTS_MAX, o->accept);
}

/* A VMM that we start is one, and is not jailed by us. */
static int check_options(const struct sandbox *s, const struct sandbox_options *o,
                         struct thaw_error *e)
{
    bool none = strcmp(s->driver->name, "none") == 0;

    if (!none && (o->jail || o->accept > 1))
        return err_set(e, -EINVAL, "a jail or several VMs go with driver none, not with %s",
                       s->driver->name);
    if (o->jail && o->run_dir)
        return err_set(e, -EINVAL, "a jail has its sockets in its root, not in %s", o->run_dir);
    return 0;
}

static int open_build(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    int r = build_manifest_load(s->store, &o->build, &s->manifest, e);

    if (r == 0)
        r = load_metadata(s, e);
    if (r == 0)
        r = choose_driver(s, o, e);
    if (r == 0)
        r = check_options(s, o, e);
    if (r == 0)
        r = image_open(s->fetch, s->store, s->manifest, IMAGE_MEMORY, &s->memory, e);
    if (r == 0)
        r = root_disk_open(&s->disk, s->fetch, s->store, s->manifest, e);
    if (r == 0)
        r = check_disks(s, o, e);
    if (r < 0)
        return r;
    if (s->metadata->memory_bytes != 0 && s->metadata->memory_bytes != image_bytes(s->memory))
        return err_set(e, -EBADMSG,
                       "build %s: %llu bytes of memory by its metadata, %llu by its "
                       "header",
                       s->build, (unsigned long long)s->metadata->memory_bytes,
                       (unsigned long long)image_bytes(s->memory));
    timeline_mark(&s->timeline, "build opened");
    return 0;
}

/* A VMM that we start reads the state from a descriptor; any other gets the path of the file. */
static int make_snapfile(struct sandbox *s, struct thaw_error *e)
{
    if (!manifest_find(s->manifest, SNAPFILE_NAME))
        return 0;
    s->snapfile = run_dir_path(s->run_dir, SNAPFILE_NAME);
    if (!s->snapfile)
        return err_set(e, -ENOMEM, "no memory for a path");
    s->snapfile_fd = open(s->snapfile, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return s->snapfile_fd < 0 ? err_errno(e, -errno, "making %s", s->snapfile) : 0;
}

static int fill_snapfile(struct sandbox *s, struct thaw_error *e)
{
    struct buf bytes CLEANUP_BUF = {0};
    int r;

    if (s->snapfile_fd < 0)
        return 0;
    r = build_object_load(s->store, s->manifest, SNAPFILE_NAME, SNAPFILE_MAX_BYTES, &bytes, e);
    if (r < 0)
        return r;
    r = file_write_at(s->snapfile_fd, bytes.data, bytes.len, 0);
    return r < 0 ? err_errno(e, r, "writing %s", s->snapfile) : 0;
}

static int start_vmm(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    const struct metadata_vmm *vmm = &s->metadata->vmm;
    const char **args CLEANUP_FREE = calloc(vmm->arg_count + 1, sizeof(*args));
    int r;

    if (!args)
        return err_set(e, -ENOMEM, "no memory for a command line");
    for (size_t i = 0; i < vmm->arg_count; i++)
        args[i] = vmm->args[i];
    r = s->driver->start(
        &(struct vmm_options){
            .memory_socket = s->memory_socket,
            .memory_bytes = image_bytes(s->memory),
            .page_bytes = PAGE_BYTES,
            .snapfile_fd = s->snapfile_fd,
            .snapfile = s->snapfile,
            .memory = s->server,
            .disk_socket = s->disk.socket,
            .disk_export = s->disk.exports ? s->disk.exports[0] : NULL,
            .version = vmm->version,
            .args = args,
            .extra_options = o->vmm_options,
            .program = o->vmm_program,
            .log_path = s->log,
        },
        &s->vmm, e);
    if (r < 0 || vmm_pidfd(s->vmm) < 0)
        return r;
    timeline_mark(&s->timeline, "VMM started");
    r = janitor_watch(&s->janitor, vmm_pidfd(s->vmm));
    return r < 0 ? err_errno(e, r, "telling the janitor of the VMM") : 0;
}

/*
 * Gives the folder to the jailed VMM's user, last of all: until then it is ours alone, so that
 * nobody can put another file in the place of one whose owner we change.
 */
static int open_jail(struct sandbox *s, const struct thaw_jail *jail, struct thaw_error *e)
{
    if (!jail)
        return 0;
    if (s->snapfile_fd >= 0 && fchown(s->snapfile_fd, jail->uid, jail->gid) < 0)
        return err_errno(e, -errno, "giving %s to user %u", s->snapfile, jail->uid);
    if (lchown(s->run_dir, jail->uid, jail->gid) < 0)
        return err_errno(e, -errno, "giving %s to user %u", s->run_dir, jail->uid);
    return 0;
}

static int start_servers(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    unsigned vms = o->accept ? o->accept : 1;
    uid_t uid = o->jail ? o->jail->uid : (uid_t)-1;
    gid_t gid = o->jail ? o->jail->gid : (gid_t)-1;
    int r = memory_server_create(
        &(struct memory_server_options){
            .socket_path = s->memory_socket,
            .image = s->memory,
            .vms = vms,
            .owner_uid = uid,
            .owner_gid = gid,
            .populate = o->populate,
        },
        &s->server, e);

    if (r < 0)
        return r;
    timeline_mark(&s->timeline, "memory server listening");
    if (!s->disk.image)
        return 0;
    r = root_disk_serve(&s->disk, s->manifest, s->run_dir, vms, uid, gid, e);
    if (r == 0)
        timeline_mark(&s->timeline, "disk listening");
    return r;
}

/* The VMM starts while its state is fetched; faults are served from the moment it connects. */
static int bring_up(struct sandbox *s, const struct sandbox_options *o, struct thaw_error *e)
{
    int r = make_snapfile(s, e);

    if (r == 0)
        r = start_servers(s, o, e);
    if (r == 0)
        r = start_vmm(s, o, e);
    if (r == 0)
        r = fill_snapfile(s, e);
    if (r < 0)
        return r;
    if (s->snapfile)
        timeline_mark(&s->timeline, "VMM state fetched");
    if (vmm_pidfd(s->vmm) < 0)
        return open_jail(s, o->jail, e);
    r = s->driver->load(s->vmm, e);
    if (r < 0)
        return r;
    timeline_mark(&s->timeline, "VMM state loaded");
    r = s->driver->run(s->vmm, e);
    if (r < 0)
        return r;
    timeline_mark(&s->timeline, "vCPUs running");
    return 0;
}

/* A VMM that dies of memory that could not be served knows only that it died. */
static int explain_failure(struct sandbox *s, int code, struct thaw_error *e)
{
    char text[300];

    sandbox_refresh(s);
    if (s->status.failed_pages == 0)
        return code;
    sandbox_failure_text(s, text, sizeof(text));
    return err_set(e, -EIO, "%s", text);
}

int sandbox_resume(const struct sandbox_options *options, struct sandbox **ret,
                   struct thaw_error *e)
{
    struct sandbox *s CLEANUP_SANDBOX = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return err_set(e, -ENOMEM, "no memory for a sandbox");
    timeline_start(&s->timeline);
    s->fetch = options->fetch;
    s->before = fetch_counters(s->fetch);
    s->store = options->store;
    s->snapfile_fd = -1;
    s->janitor = (struct janitor)JANITOR_INIT;
    uuid_format(&options->build, s->build);
    r = open_build(s, options, e);
    if (r == 0)
        r = make_folder(s, options, e);
    if (r == 0)
        r = bring_up(s, options, e);
    if (r < 0)
        return explain_failure(s, r, e);
    *ret = TAKE_PTR(s);
    return 0;
}
