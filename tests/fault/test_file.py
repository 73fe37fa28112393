#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Backing `file` on a disk that fails: errors of those whom it concerns, and no other harm."""

import errno
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from disks import MIB, LoopDisk, page_out, resume, touch, touch_with_errors, warnings
from faultfs import fault_main, on_faulty_disk
from thawtest import check, check_equal, check_in

PAGES = 24 * MIB // 4096
GRANULE_PAGES = 16


def build_of(case, size="24M"):
    image = case.image("memory", size, "random")
    return image, case.create(image)


@on_faulty_disk
def nothing_can_be_made(case, disk):
    image, build = build_of(case)
    for op, error in (("create", errno.ENOSPC), ("create", errno.EIO), ("setattr", errno.ENOSPC)):
        disk.fail(op, error)
        p = case.thaw("resume", build, "--store", case.store, "--vmm", "none", "--cache", disk.path,
                      "--cache-backing", "file", status=1)
        check_in(os.strerror(error), p.stderr(), f"what thaw says when {op} fails")
        check_in("memfile", p.stderr(), f"what thaw says when {op} fails")
        disk.clear(op)
        check_equal(os.listdir(disk.folder), [], f"files after {op} has failed")
    thaw = resume(case, build, disk.path, "file")
    touch(case, thaw, image)
    thaw.expect_exit(0)


@on_faulty_disk
def a_page_that_does_not_come(case, disk):
    """One read fails, and later all do: at most those granules are lost, and told."""
    image, build = build_of(case)
    for times, least, most in ((1, 0, GRANULE_PAGES), (-1, 1, PAGES - GRANULE_PAGES)):
        thaw = resume(case, build, disk.path, "file")
        disk.fail("read", errno.EIO, after=20, times=times)
        errors = touch_with_errors(case, thaw, image)
        check(least <= errors <= most, f"{errors} pages are lost, for {times} reads")
        thaw.expect_exit(1 if errors else 0)
        check_equal(["cannot be served" in line for line in warnings(thaw)],
                    [True, True] if errors else [],
                    "lines for the first page, and for all at the end")
        disk.clear()
    check_equal(os.listdir(disk.folder), [], "files that are left")


@on_faulty_disk
def what_cannot_be_written_or_removed(case, disk):
    """The kernel writes such files when it likes to; as long as it has the pages, all is right."""
    image, build = build_of(case)
    disk.fail("write", errno.EIO)
    disk.fail("unlink", errno.EIO)
    thaw = resume(case, build, disk.path, "file")
    touch(case, thaw, image)
    thaw.expect_exit(0)
    check_equal(warnings(thaw), [], "lines of log")
    check(disk.count("unlink")[1] > 0 and disk.count("write")[1] > 0, "nothing has failed")
    disk.clear()
    thaw = resume(case, build, disk.path, "file")
    touch(case, thaw, image)
    thaw.expect_exit(0)
    check_equal(len(os.listdir(disk.folder)), 1, "files that are left: the one of the first")


@on_faulty_disk
def writes_that_hang(case, disk):
    image, build = build_of(case)
    disk.hang("write")
    thaw = resume(case, build, disk.path, "file")
    touch(case, thaw, image)
    disk.wait("write", 1)
    disk.clear()
    thaw.expect_exit(0)


@on_faulty_disk
def the_disk_goes_away(case, disk):
    image, build = build_of(case)
    thaw = resume(case, build, disk.path, "file", "--accept", "2")
    touch(case, thaw, image, "--pages", "500")
    disk.end()
    check(touch_with_errors(case, thaw, image, "--seed", "2") > 0, "no error without a disk")
    thaw.expect_exit(1)


def the_device_is_torn_away(case):
    disk = LoopDisk(case, mkfs=("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal"))
    image, build = build_of(case)
    thaw = resume(case, build, disk.path, "file", "--accept", "2")
    touch(case, thaw, image, "--pages", "1000")
    files = [name for name in os.listdir(disk.path) if name.startswith("thaw-")]
    check_equal(len(files), 1, "files of caches")
    page_out(thaw.pid, os.path.join(disk.path, files[0]))
    disk.tear()
    check(touch_with_errors(case, thaw, image, "--seed", "2") > 0, "no error without a disk")
    thaw.expect_exit(1)
    check_in("cannot be served", thaw.stderr(), "what thaw says")


def a_full_disk(case):
    disk = LoopDisk(case, size_bytes=16 * MIB)
    image, build = build_of(case, "48M")
    thaw = resume(case, build, disk.path, "file")
    check(touch_with_errors(case, thaw, image) > 0, "no error on a full disk")
    thaw.expect_exit(1)
    check_in(os.strerror(errno.ENOSPC), thaw.stderr(), "what thaw says")


if __name__ == "__main__":
    fault_main({"file-faults": (
        nothing_can_be_made, a_page_that_does_not_come, what_cannot_be_written_or_removed,
        writes_that_hang, the_disk_goes_away, the_device_is_torn_away, a_full_disk)})
