/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_METRIC_ATTRIBUTES_H
#define THAW_OBSERVE_METRIC_ATTRIBUTES_H

/*
 * The attributes of metrics, one enum each; their names and values as text are in registry.c.
 * The last enumerator counts the values; macros find it by the name of the attribute.
 */

enum metric_result { METRIC_SUCCESS, METRIC_FAILURE, METRIC_COUNT_result };

/* By which of the kernel's accounts the throttle is known, the best one first. */
enum metric_throttle_source {
    METRIC_THROTTLE_BPF,       /* BPF on the raw tracepoint */
    METRIC_THROTTLE_PERF,      /* perf events of the tracepoint */
    METRIC_THROTTLE_DELAYACCT, /* delay accounting */
    METRIC_THROTTLE_WCHAN,     /* voluntary context switches, and where a thread sleeps */
    METRIC_COUNT_throttle_source
};

/* Where a page was when the guest touched it. */
enum metric_where {
    METRIC_FROM_RAM,
    METRIC_FROM_DISK,
    METRIC_FROM_STORE,
    METRIC_FROM_ZERO,
    METRIC_COUNT_where
};

/* What holds a cache's bytes: its backing, of which `tiered` has two parts. */
enum metric_backing {
    METRIC_BACKING_FILE,
    METRIC_BACKING_MEMFD,
    METRIC_BACKING_POOL, /* tiered, in memory */
    METRIC_BACKING_DISK, /* tiered, on disk */
    METRIC_COUNT_backing
};

/* What a cache is of: a stored object, or what one guest has changed. */
enum metric_holds { METRIC_HOLDS_OBJECT, METRIC_HOLDS_OVERLAY, METRIC_COUNT_holds };

enum metric_source { METRIC_SOURCE_DISK, METRIC_SOURCE_STORE, METRIC_COUNT_source };

/* The parts of fetching one batch. */
enum metric_step {
    METRIC_STEP_READ,   /* from asking the source to the last byte; opening the object, too */
    METRIC_STEP_VERIFY, /* checking the sums, and publishing */
    METRIC_COUNT_step
};

/* Why a granule was dropped from memory. */
enum metric_eviction {
    METRIC_EVICTION_NOT_KEPT, /* it was served, but the budget had no room to keep it */
    METRIC_EVICTION_COLD,     /* tiered: of all in the pool it was needed least */
    METRIC_COUNT_eviction
};

/* What can go wrong with the disk tier. */
enum metric_disk_error {
    METRIC_DISK_READ,    /* the disk failed to give something back */
    METRIC_DISK_WRITE,   /* or to take something */
    METRIC_DISK_NO_ROOM, /* it was full, or the tier's budget spent, and nothing could go */
    METRIC_DISK_DAMAGED, /* what it gave back was not what had been written */
    METRIC_DISK_STALL,   /* no read was over for a second */
    METRIC_COUNT_disk_error
};

enum metric_nbd_op {
    METRIC_NBD_READ,
    METRIC_NBD_WRITE,
    METRIC_NBD_FLUSH,
    METRIC_NBD_TRIM,
    METRIC_NBD_CACHE,
    METRIC_NBD_WRITE_ZEROES,
    METRIC_NBD_BLOCK_STATUS,
    METRIC_NBD_UNKNOWN, /* what no client may ask for, and is answered with an error */
    METRIC_COUNT_nbd_op
};

/* Which way the data of a disk goes, from the guest's point of view. */
enum metric_direction { METRIC_DIRECTION_READ, METRIC_DIRECTION_WRITTEN, METRIC_COUNT_direction };

enum metric_stage {
    METRIC_STAGE_BUILD_OPENED,
    METRIC_STAGE_MEMORY_LISTENING,
    METRIC_STAGE_DISK_LISTENING,
    METRIC_STAGE_VMM_STARTED,
    METRIC_STAGE_STATE_FETCHED,
    METRIC_STAGE_MEMORY_HANDED_OVER,
    METRIC_STAGE_FIRST_FAULT,
    METRIC_STAGE_STATE_LOADED,
    METRIC_STAGE_VCPUS_RUNNING,
    METRIC_STAGE_MEMORY_INSTALLED,
    METRIC_COUNT_stage
};

/* Kinds of errors; metric_error_of() tells that of an errno value. */
enum metric_error {
    METRIC_ERROR_DAMAGED, /* a checksum or a format does not hold */
    METRIC_ERROR_MISSING,
    METRIC_ERROR_IO,
    METRIC_ERROR_TIMEOUT,
    METRIC_ERROR_PROTOCOL,
    METRIC_ERROR_NO_MEMORY,
    METRIC_ERROR_NO_SPACE,
    METRIC_ERROR_OTHER,
    METRIC_COUNT_error
};

enum metric_loss {
    METRIC_LOSS_NOT_FINITE, /* a duration that is not a number, or infinite */
    METRIC_LOSS_NO_MEMORY,  /* the thread's counters could not be allocated */
    METRIC_LOSS_TOO_MANY,   /* faults that waited for their pages at once: PAGER_OPEN_FAULTS */
    METRIC_COUNT_loss
};

enum metric_version { METRIC_VERSION_THIS, METRIC_COUNT_version };

#endif
