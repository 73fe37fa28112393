#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Backing `tiered` when the disk under its disk tier fails: the resume goes on from the store.

Whatever happens to the disk, all bytes are right, nobody who serves a guest waits for it, metrics
and at most one line say what happened, thaw ends in good order, and what is left in the folder does
no harm to the next one.
"""

import errno
import functools
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from disks import MIB, LoopDisk, Outcome, client_of, fill, resume, scrape, touch, warnings
from faultfs import OPS, FaultFs, fault_main, on_faulty_disk
from thawtest import check, check_equal, check_in

IMAGE = "24M"  # of which the budget holds two thirds
FAILED = {"read": "cannot read", "write": "cannot write"}


def build_of(case, size=IMAGE):
    image = case.image("memory", size, "random")
    return image, case.create(image)


def files_of(folder):
    """What the tier keeps there: paths."""
    top = os.path.join(folder, "tier")
    return [os.path.join(top, name) for name in sorted(os.listdir(top))]


def empty(folder):
    for path in files_of(folder):
        os.unlink(path)


def unharmed(outcome, what):
    check_equal((outcome.errors, outcome.lines, outcome.result["cache"]["disk_tier"]),
                ({}, [], "written"), f"errors, lines of log, and the disk tier, {what}")


def given_up(outcome):
    """Writing, reading or both, each with a line."""
    kinds = [kind for kind, text in FAILED.items() if any(text in line for line in outcome.lines)]
    check_equal((len(outcome.lines), outcome.writable), (max(len(kinds), 1), False),
                f"lines of log, and whether the tier is written: {outcome.lines}")


class Trouble:
    """A build, and a disk that is in order until told otherwise."""

    def __init__(self, case, disk):
        self.disk = disk
        self.image, build = build_of(case)
        self.resume = functools.partial(Outcome, case, build, self.image, disk.path)

    def under_way(self, cause, what, cold=False):
        """@cause() happens to the disk when all files are open. The next resume is a good one."""
        if cold:
            empty(self.disk.folder)
        outcome = self.resume(under_way=lambda _: cause())
        self.disk.clear()
        unharmed(self.resume(), f"after {what}")
        return outcome


def the_disk_fails(case, disk):
    """For good: after some attempts it is let alone, and one line says so."""
    trouble = Trouble(case, disk)
    unharmed(trouble.resume(), "at first")
    for kind in ("read", "write"):
        for error in (errno.EIO, errno.EROFS):
            if kind == "write":
                empty(disk.folder)
            what = f"{kind} fails: {errno.errorcode[error]}"
            o = trouble.under_way(functools.partial(disk.fail, kind, error, after=3), what)
            check_equal((len(o.lines), o.result["cache"]["disk_tier"], o.writable),
                        (1, "failed", False), f"lines of log and the disk tier when {what}")
            check_in(FAILED[kind], o.lines[0], "the line")
            check_in(os.strerror(error), o.lines[0], "the line")
            check(0 < o.errors[kind] < 50, f"{what}: {o.errors}, so it is tried again for ever")


def something_fails_once(case, disk):
    """The tier goes on, without a line."""
    trouble = Trouble(case, disk)
    unharmed(trouble.resume(), "at first")
    for kind in ("read", "write"):
        if kind == "write":
            empty(disk.folder)
        o = trouble.under_way(functools.partial(disk.fail, kind, errno.EIO, after=3, times=1),
                              f"{kind} fails once")
        check_equal((o.errors.get(kind), o.lines, o.writable), (1, [], True),
                    f"errors, lines of log, and whether the tier is written, after one of {kind}")
        check(o.result["bytes"]["from_disk"] > 0, f"nothing came from the disk: {o.result}")


def bytes_that_are_wrong(case, disk):
    """They never get to the guest; they are written anew."""
    trouble = Trouble(case, disk)
    unharmed(trouble.resume(), "at first")
    o = trouble.under_way(functools.partial(disk.flip, after=20, times=100), "wrong bytes")
    check_equal(list(o.errors), ["damaged"], "kinds of errors with wrong bytes")
    check(o.errors["damaged"] >= 50, f"wrong bytes were not noticed: {o.errors}")
    # What comes, or is taken, in pieces is none of this.
    o = trouble.under_way(functools.partial(disk.cut, "read", times=1000), "short reads")
    unharmed(o, "with short reads")
    o = trouble.under_way(functools.partial(disk.cut, "write"), "short writes", cold=True)
    unharmed(o, "with short writes")


def a_disk_that_is_full(case, disk):
    """It is not the disk's fault, and there may be room again: nothing is given up."""
    trouble = Trouble(case, disk)
    for error in (errno.ENOSPC, errno.EDQUOT):
        o = trouble.resume(under_way=lambda _, e=error: disk.fail("write", e, after=5))
        check_equal((list(o.errors), o.writable), (["no_room"], True), "errors, and if it goes on")
        check(len(o.lines) <= 1, f"more than one line: {o.lines}")
        disk.clear()
        unharmed(trouble.resume(), "after the disk was full")
        empty(disk.folder)
    # Room cannot be made, either.
    disk.fail("write", errno.ENOSPC, after=5)
    o = trouble.resume(under_way=lambda _: disk.fail("fallocate", errno.EIO))
    check_in("no_room", o.errors, "errors when holes cannot be punched")
    disk.clear()
    unharmed(trouble.resume(), "after that")


def a_quota(case):
    """There seems to be room, and there is none: it is not tried again until there is more."""
    folder = case.path("tmpfs")
    os.mkdir(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], check=True)
    disk = FaultFs(case, folder=folder)
    image, build = build_of(case)
    for error in (errno.EDQUOT, errno.ENOSPC):
        o = Outcome(case, build, image, disk.path, "--disk-budget", "1G",
                    under_way=lambda _, e=error: disk.fail("write", e, after=5))
        check_equal((list(o.errors), o.writable), (["no_room"], True), "errors, and if it goes on")
        check(disk.count("write")[1] < 20, f"tried in vain for {disk.count('write')[1]} times")
        disk.clear()
        empty(disk.folder)
    fill(case, build, image, disk.path, "--disk-budget", "1G")
    disk.end()
    subprocess.run(["umount", folder], check=True)


def what_is_asked_in_passing(case, disk):
    """Nothing depends on these."""
    trouble = Trouble(case, disk)
    trouble.resume()
    for op in ("statfs", "readdir", "unlink", "fallocate"):
        o = trouble.under_way(functools.partial(disk.fail, op, errno.EIO), f"{op} fails", cold=True)
        unharmed(o, f"while {op} fails")


def everything_fails(case, disk):
    trouble = Trouble(case, disk)

    def end_of_all():
        for op in OPS:
            disk.fail(op, errno.EIO)

    given_up(trouble.under_way(end_of_all, "everything has failed"))


def the_file_system_goes_away(case, disk):
    trouble = Trouble(case, disk)
    trouble.resume()
    o = trouble.resume(under_way=lambda _: disk.end())
    given_up(o)


def a_disk_that_fails_from_the_start(case, disk):
    """A folder that was named is refused with a reason, or done without; never half used."""
    image, build = build_of(case, "4M")
    base = ("resume", build, "--store", case.store, "--vmm", "none", "--cache-backing", "tiered",
            "--cache", disk.path)
    for op, error in (("create", errno.ENOSPC), ("create", errno.EROFS), ("flock", errno.ENOLCK),
                      ("setattr", errno.EIO)):
        disk.fail(op, error)
        p = case.thaw(*base, status=1)
        check_in(disk.path, p.stderr(), f"what thaw says when {op} fails")
        check_in(os.strerror(error), p.stderr(), f"what thaw says when {op} fails")
        disk.clear()
        thaw = resume(case, build, disk.path, "tiered")
        touch(case, thaw, image)
        thaw.expect_exit(0)


# ---- hanging ----

def writes_that_hang(case, disk):
    """Nobody who serves waits for a write; the end does, as memory is being written from."""
    trouble = Trouble(case, disk)
    held = []

    def release(_thaw):
        disk.wait("write", 1)
        held.append(disk.count("write")[1])
        disk.clear()

    o = trouble.resume(under_way=lambda _: disk.hang("write"), at_end=release)
    check_equal(held, [1], "writes that hung when all had been served: they are one at a time")
    unharmed(o, "after writes that hung")
    empty(disk.folder)
    o = trouble.resume(under_way=lambda _: (disk.fail("write", errno.ENOSPC, after=9),
                                            disk.hang("fallocate"), disk.hang("statfs")),
                       at_end=lambda _: disk.clear())
    check(set(o.errors) <= {"no_room"}, f"while holes were punched for ever: {o.errors}")


def faults_served(thaw):
    return sum(n for (name, _), n in scrape(thaw).items()
               if name == "thaw_fault_service_milliseconds_count")


def reads_that_hang(case, disk):
    """Who needs that granule waits for it, and goes on when it comes; all else is served."""
    image, build = build_of(case)
    fill(case, build, image, disk.path)
    thaw = resume(case, build, disk.path, "tiered", "--metrics", "127.0.0.1:0")
    # Not one of the first, which all threads of the client want.
    disk.hang("read", after=200, times=1)
    client = client_of(case, thaw, image, "--hang-seconds", "100")
    disk.wait("read", 1)
    at_first = faults_served(thaw)
    while faults_served(thaw) < at_first + 20:
        check(client.returncode() is None, f"the client has ended: {client.stderr()}")
    disk.clear()
    client.expect_exit(0)
    thaw.expect_exit(0)
    check_equal((client.result()["errors"], client.result()["wrong"]), (0, 0), "errors, wrong")
    # Nothing else may have moved for a second, on a machine that is busy.
    check_equal([line for line in warnings(thaw) if "hang" not in line], [], "lines of log")


# ---- one after the other ----

def kth(seen):
    """Which of @seen to fail: the first ones, then some, and the last."""
    some, step = [], 1
    k = 0
    while k < seen:
        some.append(k)
        step = 1 if k < 4 else k
        k += step
    return some


def each_in_its_turn(case, disk):
    """The k-th operation of a cold and of a warm resume fails, from the very start."""
    image, build = build_of(case, "20M")
    served = refused = 0
    for warm in (False, True):
        for op in OPS:
            seen = 1000
            for k in kth(1000):
                if k >= seen:
                    break
                if os.path.isdir(os.path.join(disk.folder, "tier")) and not warm:
                    empty(disk.folder)
                disk.fail(op, errno.EIO, after=k, times=1)
                p = case.start("thaw", "resume", build, "--store", case.store, "--vmm", "none",
                               "--json", "--cache", disk.path, "--cache-backing", "tiered",
                               "--memory-budget", "16M")
                try:
                    p.ready()
                except AssertionError:
                    refused += 1
                    p.expect_exit(1)
                    check_in(os.strerror(errno.EIO), p.stderr(), f"what thaw says of {op} {k}")
                else:
                    served += 1
                    touch(case, p, image, "--pages", "1500")
                    p.expect_exit(0)
                    check(len(warnings(p)) <= 1, f"lines of log: {p.stderr()}")
                seen, _ = disk.count(op)
                disk.clear(op)
    thaw = resume(case, build, disk.path, "tiered")
    touch(case, thaw, image)
    thaw.expect_exit(0)
    print(f"    {served} served, {refused} refused at the start")


# ---- devices ----

@on_faulty_disk
def the_device_is_torn_away(case, disk):
    """Not the file system fails but what is under it."""
    loop = LoopDisk(case, disk.path)
    image, build = build_of(case)

    def tear(_thaw):
        disk.fail("read", errno.EIO)
        disk.fail("write", errno.EIO)

    o = Outcome(case, build, image, loop.path, under_way=tear)
    given_up(o)
    check(o.errors.get("read", 0) + o.errors.get("write", 0) > 0, f"errors: {o.errors}")
    loop.unmount()


def what_was_on_the_device_is_gone(case):
    """It gives back zeros, or nothing."""
    disk = LoopDisk(case)
    image, build = build_of(case)
    Outcome(case, build, image, disk.path)
    o = Outcome(case, build, image, disk.path, under_way=lambda _: disk.tear())
    check(o.errors, "nothing went wrong")
    check(len(o.lines) <= 2, f"lines of log: {o.lines}")


def a_full_device(case):
    """Smaller than the image: the tier keeps to what there is, and a tenth of it stays free."""
    disk = LoopDisk(case, size_bytes=24 * MIB)
    image, build = build_of(case, "40M")
    for _ in range(2):
        o = Outcome(case, build, image, disk.path, "--disk-budget", "1G")
        v = os.statvfs(disk.path)
        check(v.f_bavail >= v.f_blocks // 11, f"{v.f_bavail} of {v.f_blocks} blocks are free")
        check_equal(o.lines, [], "lines of log")
        check(o.result["bytes"]["from_disk"] > 0, f"nothing came from the disk: {o.result}")


def a_device_full_of_other_things(case):
    """Nothing is kept there, until there is room again. What the tier had gave way."""
    disk = LoopDisk(case, size_bytes=64 * MIB)
    image, build = build_of(case)
    budget = ("--disk-budget", "1G")  # the disk itself is the bound
    Outcome(case, build, image, disk.path, *budget)
    ballast = os.path.join(disk.path, "ballast")
    with open(ballast, "wb", buffering=0) as f:
        try:
            while f.write(bytes(MIB)):
                pass
        except OSError as e:
            check_equal(e.errno, errno.ENOSPC, "the end of the disk")
    for _ in range(2):
        o = Outcome(case, build, image, disk.path, *budget)
        check(set(o.errors) <= {"no_room"} and len(o.lines) <= 1 and o.writable,
              f"on a full disk: {o.errors} {o.lines}")
    os.unlink(ballast)
    unharmed(Outcome(case, build, image, disk.path, *budget), "when there is room again")
    fill(case, build, image, disk.path, *budget)


if __name__ == "__main__":
    fault_main({
        "tier-faults": [a_quota] + [on_faulty_disk(test) for test in (
            the_disk_fails, something_fails_once, bytes_that_are_wrong, a_disk_that_is_full,
            what_is_asked_in_passing, everything_fails, the_file_system_goes_away,
            a_disk_that_fails_from_the_start, writes_that_hang, reads_that_hang)],
        "tier-torture": (on_faulty_disk(each_in_its_turn),),
        "tier-devices": (the_device_is_torn_away, what_was_on_the_device_is_gone, a_full_device,
                         a_device_full_of_other_things),
    })
