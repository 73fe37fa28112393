/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_METRIC_LIST_H
#define THAW_OBSERVE_METRIC_LIST_H

/*
 * Every metric of thaw: an entry here, and a row in docs/man/thaw-metrics.7.scd, which a test
 * compares with this. Names and units are OpenTelemetry's and part of what users rely on; how
 * Prometheus calls them follows from that (registry.h).
 *
 *     METRIC_N(kind, id, N attributes, unit, name, help)
 *
 * kind: counter (of uint64_t), counter_ms (of milliseconds as double), gauge (of int64_t), or
 * histogram (of milliseconds as double). For an attribute `a` there is `enum metric_a` in
 * metric_attributes.h; all its values are known, so that each series exists, at 0, from the start.
 *
 * An entry makes these functions, to be called from any thread:
 *
 *     metric_ID_add(n, attributes...)      counter, counter_ms, gauge
 *     metric_ID_set(n, attributes...)      gauge
 *     metric_ID_record(ms, attributes...)  histogram
 *     metric_ID_record_many(ms, n, attributes...)  histogram: the same n times
 */
#define METRIC_LIST(METRIC_0, METRIC_1, METRIC_2)                                                  \
    METRIC_1(histogram, chunks_store, result, "ms", "orchestrator.blocks.chunks.store",            \
             "From the start of a batch's read from its source until its bytes are in the cache.") \
    METRIC_1(counter, chunks_store_bytes, result, "By", "orchestrator.blocks.chunks.store.bytes",  \
             "Bytes of these batches.")                                                            \
    METRIC_0(counter, dirty_page_threads, "{thread}",                                              \
             "orchestrator.host.balance_dirty_pages.threads",                                      \
             "Threads of this process seen in the kernel's dirty-page throttle, once a second.")   \
    METRIC_1(counter, throttle_pauses, throttle_source, "{pause}", "thaw.throttle.pauses",         \
             "Times that the kernel made a thread wait for dirty pages.")                          \
    METRIC_1(counter_ms, throttle_time, throttle_source, "ms", "thaw.throttle.time",               \
             "How long it made them wait.")                                                        \
    METRIC_1(histogram, fault_service, where, "ms", "thaw.fault.service",                          \
             "From reading a page fault until its page was installed.")                            \
    METRIC_2(gauge, cache_bytes, backing, holds, "By", "thaw.cache.bytes",                         \
             "What the caches hold.")                                                              \
    METRIC_0(gauge, cache_budget, "By", "thaw.cache.budget",                                       \
             "How much memory the caches may take.")                                               \
    METRIC_0(counter, cache_not_kept, "{granule}", "thaw.cache.not_kept",                          \
             "Granules of 64 KiB that were served, but not kept: the budget was spent.")           \
    METRIC_1(counter, cache_evictions, eviction, "{granule}", "thaw.cache.evictions",              \
             "Granules that were dropped from memory for another one.")                            \
    METRIC_0(counter, cache_given_back, "By", "thaw.cache.given_back",                             \
             "Memory that the caches gave back because the host was short of it.")                 \
    METRIC_0(counter, cache_refused, "{write}", "thaw.cache.refused",                              \
             "Writes to disks that got ENOSPC: the budget was spent.")                             \
    METRIC_0(counter, cache_paced, "{write}", "thaw.cache.paced",                                  \
             "Times that a write to a disk waited for room: its changes were being spilled.")      \
    METRIC_0(counter, cache_spilled, "By", "thaw.cache.spilled",                                   \
             "Changes of disks that were written to the disk tier.")                               \
    METRIC_0(counter, cache_spill_read, "By", "thaw.cache.spill_read",                             \
             "What was read back of these.")                                                       \
    METRIC_0(counter, disk_written, "By", "thaw.cache.disk.written",                               \
             "What was written to the disk tier of the caches.")                                   \
    METRIC_0(counter, disk_evicted, "By", "thaw.cache.disk.evicted",                               \
             "What was removed from it to make room.")                                             \
    METRIC_1(counter, disk_errors, disk_error, "{error}", "thaw.cache.disk.errors",                \
             "What went wrong with it; the store was asked instead.")                              \
    METRIC_0(gauge, disk_behind, "{granule}", "thaw.cache.disk.behind",                            \
             "Granules of 64 KiB that wait to be written to it.")                                  \
    METRIC_0(counter, disk_not_written, "{granule}", "thaw.cache.disk.not_written",                \
             "Granules that were not: memory was needed first, or there was no room.")             \
    METRIC_0(                                                                                      \
        gauge, disk_writable, "", "thaw.cache.disk.writable",                                      \
        "1 while it is written; 0 if another process does, the disk failed, or there is none.")    \
    METRIC_1(counter, fetch_bytes, source, "By", "thaw.fetch.bytes",                               \
             "Bytes that were read for guests, as they are stored.")                               \
    METRIC_1(counter, fetch_failures, source, "{fetch}", "thaw.fetch.failures",                    \
             "Reads that failed for good.")                                                        \
    METRIC_1(histogram, fetch_step, step, "ms", "thaw.fetch.step",                                 \
             "How long the parts of fetching a batch took.")                                       \
    METRIC_2(counter, nbd_requests, nbd_op, result, "{request}", "thaw.nbd.requests",              \
             "Requests of NBD clients that were answered.")                                        \
    METRIC_1(counter, nbd_bytes, direction, "By", "thaw.nbd.bytes",                                \
             "Data of their reads and writes that succeeded.")                                     \
    METRIC_1(histogram, resume_stage, stage, "ms", "thaw.resume.stage",                            \
             "From the start of a resume until this had happened.")                                \
    METRIC_1(counter, errors, error, "{error}", "thaw.errors",                                     \
             "Errors that a guest or an operator has seen.")                                       \
    METRIC_1(counter, metrics_lost, loss, "{value}", "thaw.metrics.lost",                          \
             "Values that no metric above has taken in.")                                          \
    METRIC_1(gauge, build_info, version, "", "thaw.build_info", "Always 1: which thaw this is.")   \
    METRIC_0(gauge, process_start_time, "s", "process.start_time",                                 \
             "When this process was started, since 1970.")

#endif
