/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_ARGS_H
#define THAW_VMM_QEMU_ARGS_H

/*
 * What QEMU's command line says: pure functions on strings. A command line consists of options,
 * "-name" or "--name", most of them followed by a value "key=value,key=value" in which a doubled
 * comma stands for one; the first key may be left out; or the value is a JSON object.
 *
 * The command line of a running QEMU divides into the guest, which a resume must bring back, and
 * its host, which it must not: where memory and disk came from, monitors, how the process lives,
 * what it booted. qemu_args_record() keeps the former.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct arg_list;

#define QEMU_ARGS_MAX 1024 /* words of one command line; a real one has some 50 */

/* Names that guest and driver agree on. */
#define QEMU_MEMORY_ID "mem"    /* of the memory backend: -machine TYPE,memory-backend=mem */
#define QEMU_DISK_ID   "rootfs" /* of the root disk's node: -device virtio-blk-pci,drive=rootfs */

/* One option; borrowed from the list that it was found in. */
struct qemu_option {
    const char *name;  /* without dashes; "" for a word that belongs to no option */
    const char *value; /* NULL: it has none */
    size_t at;         /* where its first word is in the list */
    size_t words;      /* 1 or 2 */
};

/** qemu_option_next() - the option that begins at @at of the NULL-terminated @args, *@ret; false at
 *  the end. The next one begins at ret->at + ret->words. */
bool qemu_option_next(const char *const *args, size_t at, struct qemu_option *ret);

/**
 * qemu_option_get() - what @value, of any option, says of @key
 * @first_key: what the first word of the value is when it has no '=' in it; NULL: nothing
 *
 * Returns: the caller's to free, or NULL: it is not there, is no text, or there is no memory.
 */
char *qemu_option_get(const char *value, const char *first_key, const char *key);

/** qemu_option_same_object() - whether both make an object, a device, a drive of the same id */
bool qemu_option_same_object(const struct qemu_option *a, const struct qemu_option *b);

/** qemu_args_name_disk() - whether a device of @args is on the drive QEMU_DISK_ID */
bool qemu_args_name_disk(const char *const *args);

/** qemu_args_find() - whether option @name is among @args */
bool qemu_args_find(const char *const *args, const char *name);

/**
 * qemu_args_record() - append the part of a running QEMU's command line that belongs to its guest
 * @cmdline: as in /proc/PID/cmdline: words that each end with a NUL, the program's name first
 * @machine: the full, versioned name of its machine type, "pc-q35-7.2"; put in place of an alias
 *           that means another machine in another QEMU
 *
 * Left out are the memory backend and the root disk (by their ids), monitors with their character
 * devices, kernel and initrd, and what is for the process only: see thaw-create(1), which lists
 * them all. Returns: 0, -ENOMEM, -EBADMSG when it is no such command line, or -E2BIG.
 */
[[gnu::warn_unused_result]] int qemu_args_record(const void *cmdline, size_t len_bytes,
                                                 const char *machine, struct arg_list *ret,
                                                 struct thaw_error *e);

#endif
