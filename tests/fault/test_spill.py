#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest's disk that has spilled to a disk that fails: errors, where there is nothing else.

What was acknowledged is never wrong, and is there again when the disk is.
"""

import errno
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from disks import resume, warnings
from faultfs import OPS, fault_main, on_faulty_disk
from thawtest import check, check_equal, require_program

CLIENT = os.path.join(HERE, "disk_client.py")
WRITTEN_MIB = 40  # the memory budget is 16


class Guest:
    """A resumed build whose root disk is written and read by clients."""

    def __init__(self, case, disk):
        self._case = case
        self._python = require_program("/usr/bin/python3", "it has libnbd's module")
        self._seed = 0
        self.model = case.image("disk", "64M", "random", seed=3)
        build = case.create(case.image("memory", "1M"), args=["--rootfs", self.model])
        self.thaw = resume(case, build, disk.path, "tiered", "--metrics", "127.0.0.1:0")

    def start(self, what, *args):
        info = self.thaw.info
        uri = f"nbd+unix:///{info['disk_exports'][0]}?socket={info['disk_socket']}"
        return self._case.start(self._python, CLIENT, what, uri, self.model, *args)

    def start_writing(self, what="write", mib=WRITTEN_MIB):
        self._seed += 1
        return self.start(what, self._seed, mib)

    def write(self, what="write", mib=WRITTEN_MIB):
        """(calls that succeeded, {name of an errno: how often})"""
        return outcome_of(self.start_writing(what, mib))

    def read(self):
        return outcome_of(self.start("read"))

    def all_there(self, what):
        check_equal(self.read()[1], {}, f"errors of reads {what}")

    def end(self):
        self.thaw.stop()
        return warnings(self.thaw)


def outcome_of(client):
    result = client.expect_exit(0).result()
    return result["calls"], result["errors"]


def nothing_fails(case, disk):
    guest = Guest(case, disk)
    check_equal(guest.write()[1], {}, "errors of writes")
    check(disk.count("write")[0] > 10, "nothing was spilled")
    guest.all_there("of a good disk")
    check_equal(guest.write("zero", 10)[1], {}, "errors of zeroing")
    disk.cut("read")
    disk.cut("write")
    check_equal(guest.write()[1], {}, "errors when writes come in pieces")
    guest.all_there("when reads come in pieces")
    check_equal(guest.end(), [], "lines of log")


def reads_fail(case, disk):
    """EIO, of what has been spilled only; nothing is lost by it."""
    guest = Guest(case, disk)
    check_equal(guest.write()[1], {}, "errors of writes")
    for fault in (lambda: disk.fail("read", errno.EIO), disk.flip,
                  lambda: disk.fail("read", errno.ENODATA, after=50, times=20)):
        fault()
        calls, errors = guest.read()
        check(calls > 0, "nothing could be read")
        check(set(errors) == {"EIO"}, f"what the guest got: {errors}")
        disk.clear()
        guest.all_there("when the disk is in order again")
    check(len(lines := guest.end()) <= 2, f"lines of log: {lines}")


def writes_fail(case, disk):
    """What does not fit in memory is refused; what was acknowledged is there."""
    for op, error in (("write", errno.EIO), ("write", errno.ENOSPC)):
        guest = Guest(case, disk)
        disk.fail(op, error, after=5)
        _, errors = guest.write()
        check(errors and set(errors) <= {"EIO", "ENOSPC"}, f"what the guest got: {errors}")
        guest.all_there(f"while {op} fails")
        disk.clear()
        guest.all_there(f"after {op} has failed")
        check(len(lines := guest.end()) <= 1, f"lines of log: {lines}")


def room_comes_back(case, disk):
    """A disk that was full is written to again."""
    guest = Guest(case, disk)
    disk.fail("write", errno.ENOSPC)
    _, errors = guest.write()
    check_equal(list(errors), ["ENOSPC"], "errors of a full disk")
    disk.clear()
    check_equal(guest.write()[1], {}, "errors when there is room again")
    guest.all_there("in the end")
    guest.end()


def one_write_fails(case, disk):
    guest = Guest(case, disk)
    disk.fail("write", errno.EIO, after=5, times=1)
    calls, errors = guest.write()
    check(sum(errors.values()) < calls // 10, f"what the guest got: {errors} and {calls} successes")
    guest.all_there("after one failure")
    check_equal(guest.end(), [], "lines of log")


def it_hangs(case, disk):
    """Who needs memory waits for the disk, and for nothing else; then all goes on."""
    guest = Guest(case, disk)
    disk.hang("write", after=5)
    writer = guest.start_writing()
    disk.wait("write", 1)
    disk.clear()
    check_equal(outcome_of(writer)[1], {}, "errors after writes have hung")
    disk.hang("read", after=5, times=3)
    reader = guest.start("read")
    disk.wait("read", 1)
    check_equal(guest.write(mib=1)[1], {}, "errors of writes while a read hangs")
    disk.clear()
    reader.wait()  # what was written meanwhile, it may have seen, or not
    guest.all_there("after all that")
    check_equal(guest.end(), [], "lines of log")


def there_is_no_file(case, disk):
    """Nothing can be spilled: the budget is all there is."""
    guest = Guest(case, disk)
    disk.fail("create", errno.ENOSPC)
    disk.fail("fallocate", errno.EIO)
    _, errors = guest.write()
    check(set(errors) <= {"ENOSPC"}, f"what the guest got: {errors}")
    guest.all_there("without a file")
    guest.end()


def everything_fails(case, disk):
    guest = Guest(case, disk)
    guest.write()
    for op in OPS:
        disk.fail(op, errno.EIO)
    check(set(guest.write()[1]) <= {"EIO", "ENOSPC"}, "what the guest got")
    check_equal(list(guest.read()[1]), ["EIO"], "errors of reads")
    disk.clear()
    guest.all_there("when the disk is back")
    guest.end()


def the_file_system_goes_away(case, disk):
    guest = Guest(case, disk)
    check_equal(guest.write()[1], {}, "errors of writes")
    disk.end()
    calls, errors = guest.read()
    check(calls > 0 and list(errors) == ["EIO"], f"what the guest got: {errors}")
    check(set(guest.write()[1]) <= {"EIO", "ENOSPC"}, "what the guest got")
    check(len(lines := guest.end()) <= 2, f"lines of log: {lines}")


if __name__ == "__main__":
    fault_main({"spill-faults": [on_faulty_disk(test) for test in (
        nothing_fails, reads_fail, writes_fail, room_comes_back, one_write_fails, it_hangs,
        there_is_no_file, everything_fails, the_file_system_goes_away)]})
