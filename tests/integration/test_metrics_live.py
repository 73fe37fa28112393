#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `thaw resume --metrics` counts while it serves: beside what it reports itself, and as a real
Prometheus stores it.
"""

import http.client
import math
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte
from prometheus import Prometheus, parse_protobuf, parse_text, promtool_lint
from test_metrics import PROTOBUF, SUCCESS, number, registry
from test_nbd import Raw
from thawtest import DEADLINE, check, check_equal, main, require_program, thread_count

STORE = "orchestrator_blocks_chunks_store_milliseconds"
STORE_BYTES = "orchestrator_blocks_chunks_store_bytes_total"
THROTTLED = "orchestrator_host_balance_dirty_pages_threads_total"
FAULTS = "thaw_fault_service_milliseconds"
STEPS = "thaw_fetch_step_milliseconds"
STAGES = "thaw_resume_stage_milliseconds"
FAILURE = (("result", "failure"),)
PLACES = ("ram", "disk", "store", "zero")

# What thaw's report calls a stage, and what the metric does. Both are for others to rely on.
STAGE_OF = {
    "build opened": "build_opened",
    "memory server listening": "memory_listening",
    "disk listening": "disk_listening",
    "VMM started": "vmm_started",
    "VMM state fetched": "state_fetched",
    "memory handed over": "memory_handed_over",
    "first fault served": "first_fault",
    "VMM state loaded": "state_loaded",
    "vCPUs running": "vcpus_running",
    "all memory installed": "memory_installed",
}

# NBD: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES = 0, 1, 3, 4, 5, 6


# ---- scraping ----

def get(thaw, accept=None):
    host, _, port = thaw.info["metrics"].rpartition(":")
    c = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    try:
        c.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
        r = c.getresponse()
        check_equal(r.status, 200, "status of a scrape")
        return r.read()
    finally:
        c.close()


def scrape(thaw):
    """{(name, labels): number or native histogram}"""
    return parse_protobuf(get(thaw, PROTOBUF + ", text/plain;q=0.5"))[0]


def label(**labels):
    return tuple(sorted(labels.items()))


def counted(samples, name, **labels):
    """A counter's value, or the count of a histogram."""
    value = samples[name, label(**labels)]
    return value["count"] if isinstance(value, dict) else value


def counts_by_place(samples):
    return {place: counted(samples, FAULTS, where=place) for place in PLACES}


def places_of(faults):
    """The report's faults in the words of the metric: discarded memory is zero."""
    return {"ram": faults["ram"], "disk": faults["disk"], "store": faults["store"],
            "zero": faults["zero"] + faults["removed"]}


def wait_for(thaw, wanted):
    """Scrape until @wanted(samples): what a client has seen is counted a moment later."""
    until = time.monotonic() + DEADLINE
    while not wanted(samples := scrape(thaw)):
        check(time.monotonic() < until, f"not counted: {not_empty(samples)}")
        time.sleep(0.05)  # nobody tells when
    return samples


def not_empty(samples):
    return {key: v["count"] if isinstance(v, dict) else v for key, v in samples.items()
            if v and not (isinstance(v, dict) and v["count"] == 0)}


def quantile(histogram, q):
    """The bounds of the bucket of the native histogram that the quantile is in."""
    rank = max(1, math.ceil(q * histogram["count"])) - histogram["zero_count"]
    if rank <= 0:
        return 0.0, histogram["zero_threshold"]
    for index, n in sorted(histogram["buckets"].items()):
        rank -= n
        if rank <= 0:
            return tuple(2 ** (i / 2 ** histogram["schema"]) for i in (index - 1, index))
    raise AssertionError("fewer values in the buckets than there are")


# ---- running ----

def resume(case, build, *args):
    return case.resume(build, "--metrics", "127.0.0.1:0", *args)


def touching(case, thaw, image, *args):
    """A client that has touched everything, and keeps its memory; its result."""
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--hold", "--json", *args)
    return client, client.json_line(0)


def scrape_after(thaw, client, threads):
    """Ends the VM of @client; what is counted when its pager, which counts a fault a moment after
    it has been served, has ended. @threads: that thaw had before; it waits for another VM.
    """
    client.stop()
    until = time.monotonic() + DEADLINE
    while thread_count(thaw.pid) > threads:
        check(time.monotonic() < until, "the threads of a VM that has ended are left")
        time.sleep(0.05)  # nobody tells when
    return scrape(thaw)


def ended(thaw, client, status=0):
    client.stop()
    thaw.expect_exit(status)
    return thaw.result()


# ---- cases ----

def nothing_has_happened_yet(case):
    """Every series is there from the first scrape, with what is true before anything is done."""
    promtool = require_program("promtool", "install the package prometheus")
    image = case.image("memory", "8M")
    thaw = resume(case, case.create(image), "--memory-budget", "64M")
    text = get(thaw).decode()
    samples, types = parse_text(text)
    check_equal(types, {m["prometheus"]: m["type"] for m in registry()}, "families")
    not_zero = {"thaw_build_info": 1, "thaw_cache_budget_bytes": 64 << 20,
                "thaw_cache_disk_writable": 1}
    for (name, labels), value in samples.items():
        if name == "process_start_time_seconds":
            check(value > 1e9, "the process started long ago")
        elif not name.startswith(STAGES):
            check_equal(value, not_zero.get(name, 0), f"{name}{labels} at first")
    check_equal(samples[THROTTLED, ()], 0, "throttled threads")
    check_equal(samples[STORE + "_count", SUCCESS], 0, "batches")
    happened = {stage for stage in STAGE_OF.values()
                if samples[STAGES + "_count", label(stage=stage)] == 1}
    check_equal(happened, {"build_opened", "memory_listening"}, "stages at first")
    status, lines = promtool_lint(promtool, text)
    # It would have seconds; the names, and so their unit, are not for us to choose.
    check_equal((status, sorted(lines)),
                (3, sorted(f'{m["prometheus"]} use base unit "seconds" instead of "milliseconds"'
                           for m in registry() if m["unit"] == "ms")), "what promtool objects to")
    thaw.stop()


def counts_what_it_reports(case):
    """Every fault, byte and stage of the report is in the metrics, and nothing else."""
    image = case.image("memory", "64M")
    thaw = resume(case, case.create(image), "--accept", "2")
    threads = thread_count(thaw.pid)
    begin = time.monotonic()
    client, touched = touching(case, thaw, image, "--removes", "500", "--threads", "4")
    check(touched["removed"] > 0, "nothing was removed")
    samples = scrape_after(thaw, client, threads)
    elapsed_ms = (time.monotonic() - begin) * 1000
    result = thaw.stop().result()

    check_equal(counts_by_place(samples), places_of(result["faults"]), "faults by place")
    check_equal(sum(counts_by_place(samples).values()), result["faults"]["total"], "faults")
    for place in ("ram", "store", "zero"):
        h = samples[FAULTS, label(where=place)]
        check(h["count"] > 0, f"no fault from {place}")
        check(0 < h["sum"] < 4 * elapsed_ms, f"4 threads waited {h['sum']} ms in {elapsed_ms} ms")
    check_equal(counted(samples, STORE_BYTES, result="success"), result["bytes"]["fetched"],
                "bytes of batches")
    check_equal(counted(samples, "thaw_fetch_bytes_total", source="store"),
                result["bytes"]["fetched"], "bytes fetched")
    batches = samples[STORE, SUCCESS]
    check(result["bytes"]["fetched"] / (8 * 65536) <= batches["count"] <=
          result["bytes"]["fetched"] / 65536, f"{batches['count']} batches of {result['bytes']}")
    steps = [samples[STEPS, label(step=step)] for step in ("read", "verify")]
    check_equal([h["count"] for h in steps], [batches["count"]] * 2, "batches by step")
    check(abs(sum(h["sum"] for h in steps) / batches["sum"] - 1) < 1e-9, f"{steps} of {batches}")
    check_equal(samples["thaw_cache_bytes", label(backing="pool", holds="object")],
                result["bytes"]["cached"], "bytes in the cache")
    check_equal({name for name, labels in samples if name == "thaw_errors_total" and
                 samples[name, labels] != 0}, set(), "errors")
    stages_agree(samples, result)


def stages_agree(samples, result):
    reported = {STAGE_OF[s["name"]]: s["at_ms"] for s in result["stages"]}
    for stage in STAGE_OF.values():
        h = samples[STAGES, label(stage=stage)]
        check_equal(h["count"], int(stage in reported), f"times that there was {stage}")
        if stage in reported:
            check(abs(h["sum"] / reported[stage] - 1) < 1e-4, f"{stage}: {h}, {reported[stage]}")


def one_thread_waits_no_longer_than_it_runs(case):
    """Faults of one thread come one after the other: the sum of their times is time that passed."""
    image = case.image("memory", "16M", "random")
    thaw = resume(case, case.create(image))
    begin = time.monotonic()
    client, touched = touching(case, thaw, image, "--threads", "1")
    samples = wait_for(thaw, lambda s: sum(counts_by_place(s).values()) == touched["pages"])
    elapsed_ms = (time.monotonic() - begin) * 1000
    waited = {place: samples[FAULTS, label(where=place)]["sum"] for place in PLACES}
    check(0 < sum(waited.values()) <= elapsed_ms, f"{waited} ms in {elapsed_ms} ms")
    longest = quantile(samples[STORE, SUCCESS], 1)[0]
    check(longest <= elapsed_ms, f"a batch of at least {longest} ms in {elapsed_ms} ms")
    ended(thaw, client)


def what_a_population_installs_is_no_fault(case):
    """A population installs what no fault has asked for: it is no fault."""
    image = case.image("memory", "32M")
    thaw = resume(case, case.create(image), "--populate", "--accept", "2")
    threads = thread_count(thaw.pid)
    client, touched = touching(case, thaw, image)
    wait_for(thaw, lambda s: counted(s, STAGES, stage="memory_installed") == 1)
    samples = scrape_after(thaw, client, threads)
    result = thaw.stop().result()
    check(touched["pages"] > 0, "nothing was touched")
    check_equal(counts_by_place(samples), places_of(result["faults"]), "faults by place")
    stages_agree(samples, result)


def disks(case):
    """Requests by what they were and how they ended, and their bytes."""
    image, disk = case.image("memory", "8M"), case.image("disk", "8M", "random", 3)
    thaw = resume(case, case.create(image, args=["--rootfs", disk]))
    with Raw(thaw.info["disk_socket"]) as raw:
        raw.go()
        raw.read(0, 100000)
        raw.read(4096, 1 << 20)
        for command, off, length, payload, wrong in (
                (WRITE, 4096, 4096, b"x" * 4096, False), (WRITE, 8 << 20, 512, b"y" * 512, True),
                (FLUSH, 0, 0, b"", False), (TRIM, 65536, 65536, b"", False),
                (WRITE_ZEROES, 0, 4096, b"", False), (CACHE, 0, 65536, b"", False),
                (READ, 9 << 20, 512, b"", True), (77, 0, 0, b"", True)):
            raw.request(command, off, length, payload)
            check_equal(raw.answer()[0] != 0, wrong, f"whether {command} fails")
    expected = {("read", "success"): 2, ("read", "failure"): 1, ("write", "success"): 1,
                ("write", "failure"): 1, ("flush", "success"): 1, ("trim", "success"): 1,
                ("write_zeroes", "success"): 1, ("cache", "success"): 1, ("unknown", "failure"): 1}
    samples = wait_for(thaw, lambda s: sum(
        v for (name, _), v in s.items() if name == "thaw_nbd_requests_total") == 10)
    found = {(dict(labels)["op"], dict(labels)["result"]): value
             for (name, labels), value in samples.items()
             if name == "thaw_nbd_requests_total" and value != 0}
    check_equal(found, expected, "requests")
    check_equal({d: counted(samples, "thaw_nbd_bytes_total", direction=d)
                 for d in ("read", "written")}, {"read": 100000 + (1 << 20), "written": 4096},
                "bytes of the disk")
    check_equal(counted(samples, STAGES, stage="disk_listening"), 1, "disks that listen")
    check_equal(counted(samples, "thaw_errors_total", kind="other"), 0,
                "errors of which the client is to blame")
    thaw.stop()


def errors(case):
    """What cannot be served is counted: by what is wrong, as often as somebody saw it."""
    image, disk = case.image("memory", "8M", "random"), case.image("disk", "8M", "random", 3)
    build = case.create(image, args=["--rootfs", disk])
    flip_byte(os.path.join(case.store, build, "memfile"), 5 * 65536 + 77)
    flip_byte(os.path.join(case.store, build, "rootfs.ext4"), 7 * 65536)
    thaw = resume(case, build)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(thaw.info["memory_socket"])
        s.sendall(b"no hand-over")
        s.shutdown(socket.SHUT_WR)
        wait_for(thaw, lambda s: counted(s, "thaw_errors_total", kind="protocol") == 1)
    with Raw(thaw.info["disk_socket"]) as raw:
        raw.go()
        raw.read(0, 65536)
        raw.request(READ, 7 * 65536 + 512, 512)
        check(raw.answer()[0] != 0, "a damaged block was read")
    wait_for(thaw, lambda s: counted(s, "thaw_errors_total", kind="damaged") == 1)
    # One granule is damaged, and each of its pages is seen to be.
    client, touched = touching(case, thaw, image, "--expect-errors", "--hang-seconds", "10",
                               "--threads", "1")
    check_equal(touched["errors"], 16, "pages that raised SIGBUS")
    samples = wait_for(thaw, lambda s: counted(s, "thaw_errors_total", kind="damaged") >= 17 and
                       sum(counts_by_place(s).values()) >= 2048 - 16)
    check_equal({dict(labels)["kind"]: value for (name, labels), value in samples.items()
                 if name == "thaw_errors_total" and value != 0}, {"damaged": 17, "protocol": 1},
                "errors")
    failures = counted(samples, "thaw_fetch_failures_total", source="store")
    check(failures >= 2, f"{failures} failures of two damaged granules")
    check_equal(samples[STORE, FAILURE]["count"], failures, "batches that failed")
    check(counted(samples, STORE_BYTES, result="failure") >= 2 * 65536, "bytes that failed")
    check_equal(sum(counts_by_place(samples).values()), 2048 - 16, "faults that were served")
    ended(thaw, client, status=1)


def a_budget_that_is_spent(case):
    """What is served and not kept, and what is dropped for it."""
    image = case.image("memory", "64M", "random")
    thaw = resume(case, case.create(image), "--memory-budget", "16M", "--cache-backing", "memfd")
    client, touched = touching(case, thaw, image, "--threads", "2")
    check_equal(touched["wrong"], 0, "wrong pages")
    samples = scrape(thaw)
    not_kept = counted(samples, "thaw_cache_not_kept_total")
    evicted = counted(samples, "thaw_cache_evictions_total", reason="not_kept")
    check(not_kept * 65536 >= (64 - 16) << 20, f"{not_kept} granules not kept")
    check(0 < evicted <= not_kept, f"{evicted} of {not_kept} granules evicted")
    check(samples["thaw_cache_bytes", label(backing="memfd", holds="object")] <= 16 << 20,
          "more in memory than the budget")
    check_equal(counted(samples, "thaw_cache_budget_bytes"), 16 << 20, "budget")
    ended(thaw, client)


def prometheus(case):
    """A real server has the same numbers, and its quantiles are those of the histograms."""
    program = require_program("prometheus", "install the package prometheus")
    image = case.image("memory", "64M")
    thaw = resume(case, case.create(image), "--accept", "2")
    threads = thread_count(thaw.pid)
    server = Prometheus(case, program, thaw.info["metrics"])
    server.wait_for('up{job="thaw"}', lambda r: number(r) == 1)
    # Here from the first scrape on, with 0.
    check_equal(number(server.wait_for(THROTTLED, lambda r: True)), 0, "throttled threads")

    client, touched = touching(case, thaw, image, "--threads", "3")
    samples = scrape_after(thaw, client, threads)
    check(sum(counts_by_place(samples).values()) >= touched["pages"], "faults are not counted")
    total = sum(counts_by_place(samples).values())
    server.wait_for(f"sum(histogram_count({FAULTS}))", lambda r: number(r) == total)
    batches = samples[STORE, SUCCESS]["count"]
    server.wait_for(f'histogram_count({STORE}{{result="success"}})',
                    lambda r: number(r) == batches)
    for place in ("ram", "store", "zero"):
        check_quantiles(server, f'{FAULTS}{{where="{place}"}}',
                        samples[FAULTS, label(where=place)])
    check_quantiles(server, f'{STORE}{{result="success"}}', samples[STORE, SUCCESS])
    stored = {place: number(server.query(f'histogram_count({FAULTS}{{where="{place}"}})'))
              for place in PLACES if counted(samples, FAULTS, where=place) > 0}
    fetched = number(server.query(f'{STORE_BYTES}{{result="success"}}'))
    medians = {s: server.query(f'histogram_quantile(0.5, {STAGES}{{stage="{s}"}})')
               for s in STAGE_OF.values()}
    check_equal({r["metric"]["__name__"] for r in server.query('{job="thaw"}')} -
                {"up", "scrape_duration_seconds", "scrape_samples_scraped",
                 "scrape_samples_post_metric_relabeling", "scrape_series_added"},
                {m["prometheus"] for m in registry()}, "names that Prometheus knows")

    result = thaw.stop().result()
    check_equal(stored, {k: v for k, v in places_of(result["faults"]).items() if v > 0},
                "faults by place, as Prometheus has them")
    check_equal(fetched, result["bytes"]["fetched"] + result["bytes"]["from_disk"],
                "bytes, as Prometheus has them")
    for stage in result["stages"]:
        median = number(medians[STAGE_OF[stage["name"]]])
        # The one value that there is, in a bucket of schema 8.
        check(abs(median / stage["at_ms"] - 1) <= 2 ** 2 ** -8 - 1, f"{stage}: {median} ms")
    server.program.stop()


def check_quantiles(server, series, histogram):
    for q in (0.5, 0.99):
        estimate = number(server.query(f"histogram_quantile({q}, {series})"))
        low, high = quantile(histogram, q)
        check(low * (1 - 1e-9) <= estimate <= high * (1 + 1e-9),
              f"quantile {q} of {series}: {estimate} is not within {low} and {high}")


if __name__ == "__main__":
    GROUPS = {
        "metrics-live": [nothing_has_happened_yet, counts_what_it_reports,
                         one_thread_waits_no_longer_than_it_runs,
                         what_a_population_installs_is_no_fault, disks, errors,
                         a_budget_that_is_spent, prometheus],
    }
    tests = GROUPS[sys.argv.pop(1)]
    main(*tests)
