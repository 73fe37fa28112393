#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests that write more to their disk than `--memory-budget`: with other people's NBD clients."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from test_metrics_live import THROTTLED, counted, scrape
from thawtest import check, check_between, check_equal, main, require_program

MIB = 1 << 20
BUDGET = 16 * MIB
DISK = 256 * MIB


def resume(case, kind, *args):
    """A build with a disk of 256 MiB, which has a budget of 16 MiB."""
    image, disk = case.image("memory", "4M"), case.image("disk", DISK, kind, 5)
    build = case.create(image, args=["--rootfs", disk])
    return case.resume(build, "--memory-budget", str(BUDGET), "--cache-backing", "tiered",
                       "--metrics", "127.0.0.1:0", *args)


def uri(thaw):
    return f"nbd+unix:///?socket={thaw.info['disk_socket']}"


def memory_peak(thaw):
    """The most that the process ever had, file pages of its program among it."""
    with open(f"/proc/{thaw.pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM:"))


def check_spilled(thaw, least):
    samples = scrape(thaw)
    check(counted(samples, "thaw_cache_spilled_bytes_total") >= least, "too little was spilled")
    check(counted(samples, "thaw_cache_spill_read_bytes_total") >= least, "too little came back")
    check_equal(counted(samples, "thaw_cache_refused_total"), 0, "writes that were refused")
    check_equal(counted(samples, "thaw_cache_bytes", backing="pool", holds="overlay")
                <= BUDGET, True, "changes in memory within the budget")
    check_equal(counted(samples, THROTTLED), 0, "threads seen in the dirty-page throttle")
    return samples


def a_copy_of_sixteen_budgets(case):
    require_program("nbdcopy", "install libnbd-bin")
    thaw = resume(case, "holes")
    other, copy = case.image("other", DISK, "random", 6), case.path("copy")
    case.run("nbdcopy", "--flush", other, uri(thaw), deadline=240)
    case.run("nbdcopy", uri(thaw), copy, deadline=240)
    case.run("cmp", other, copy)
    samples = check_spilled(thaw, DISK - 2 * BUDGET)
    check_between(counted(samples, "thaw_cache_bytes", backing="disk", holds="overlay"),
                  DISK - BUDGET, DISK, "on the disk")
    if os.environ.get("THAW_SANITIZE", "none") == "none":  # what those take is theirs
        check(memory_peak(thaw) < BUDGET + 64 * MIB, f"memory: {memory_peak(thaw)}")
    result = thaw.stop().result()
    check_equal(result["disk"]["failed"], 0, "requests that failed")
    check(result["disk"]["spilled_bytes"] >= DISK - BUDGET, f"spilled: {result['disk']}")
    left = sum(os.path.getsize(os.path.join(folder, name))
               for folder, _, names in os.walk(case.path("cache")) for name in names
               if not name.endswith((".data", ".sums")))
    check(left < MIB, "files are left of what was spilled")


def random_writes_verify(case):
    require_program("fio", "install fio")
    thaw = resume(case, "holes")
    case.run("fio", "--name=t", "--ioengine=nbd", f"--uri={uri(thaw)}", "--rw=randwrite",
             "--bsrange=512-200k", "--iodepth=32", f"--size={DISK}", "--verify=crc32c",
             "--do_verify=1", "--randseed=3", deadline=280)
    check_spilled(thaw, 4 * BUDGET)
    result = thaw.stop().result()
    check_equal(result["disk"]["failed"], 0, "requests that failed")


if __name__ == "__main__":
    sys.argv.pop(1)
    main(a_copy_of_sixteen_budgets, random_writes_verify)
