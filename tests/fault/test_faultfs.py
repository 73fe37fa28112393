#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The faulty file system itself: a good one until told otherwise, then exactly as bad as told."""

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from faultfs import OPS, fault_main, on_faulty_disk
from thawtest import check, check_equal, fail

PAGE = 4096
GRANULE = 65536
PUNCH_HOLE = 1 | 2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
DIRECT = os.O_RDWR | os.O_DIRECT


def aligned(data):
    """@data at the start of a page, as O_DIRECT wants it."""
    buf = mmap.mmap(-1, max(len(data), PAGE))
    buf[:len(data)] = data
    return buf


def fallocate(fd, mode, offset, length):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def error_of(function, *args, **kwargs):
    """The errno of what must fail."""
    try:
        function(*args, **kwargs)
    except OSError as e:
        return e.errno
    return fail(f"{function} did not fail")


def read_direct(fd, length, offset):
    buf = mmap.mmap(-1, length)
    n = os.preadv(fd, [buf], offset)
    return buf[:n]


@on_faulty_disk
def a_good_file_system(_case, disk):
    path = os.path.join(disk.path, "file")
    fd = os.open(path, DIRECT | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(fd, 16 * GRANULE)
    data = os.urandom(GRANULE)
    check_equal(os.pwritev(fd, [aligned(data)], 4 * GRANULE), GRANULE, "bytes written")
    check_equal(read_direct(fd, GRANULE, 4 * GRANULE), data, "bytes that come back")
    with open(os.path.join(disk.folder, "file"), "rb") as f:
        check_equal(f.read()[4 * GRANULE:5 * GRANULE], data, "bytes of the file behind it")
    check_equal([os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 4 * GRANULE, os.SEEK_HOLE)],
                [4 * GRANULE, 5 * GRANULE], "where the data are")
    check_equal(os.fstat(fd).st_blocks * 512, GRANULE, "bytes it takes")
    fallocate(fd, PUNCH_HOLE, 4 * GRANULE, GRANULE)
    check_equal(read_direct(fd, GRANULE, 4 * GRANULE), bytes(GRANULE), "a hole")
    check_equal(error_of(os.lseek, fd, 0, os.SEEK_DATA), errno.ENXIO, "data of a file of holes")
    os.utime(path, ns=(10**18, 2 * 10**18))
    check_equal((os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns, os.stat(path).st_mode),
                (10**18, 2 * 10**18, 0o100600), "times and mode")
    os.rename(path, path + "2")
    check_equal(os.listdir(disk.path), ["file2"], "names")
    check_equal(os.statvfs(disk.path).f_blocks, os.statvfs(disk.folder).f_blocks, "blocks of all")
    os.unlink(path + "2")
    check_equal((os.fstat(fd).st_nlink, os.pread(fd, 0, 0)), (0, b""), "links of what is open yet")
    check_equal(os.pwritev(fd, [aligned(data)], 0), GRANULE, "written to it")
    check_equal(read_direct(fd, GRANULE, 0), data, "read from it")
    os.close(fd)
    check_equal(os.listdir(disk.folder), [], "files behind it")


@on_faulty_disk
def folders_and_nameless_files(_case, disk):
    os.mkdir(os.path.join(disk.path, "folder"), 0o700)
    for i in range(300):
        with open(os.path.join(disk.path, "folder", f"{i:03}" + "x" * 60), "wb"):
            pass
    names = sorted(os.listdir(os.path.join(disk.path, "folder")))
    check_equal((len(names), names[-1][:4]), (300, "299x"), "names of a large folder")
    fd = os.open(disk.path, os.O_TMPFILE | DIRECT, 0o600)
    check_equal(os.pwritev(fd, [aligned(b"x" * PAGE)], 0), PAGE, "written to a nameless file")
    check_equal(read_direct(fd, PAGE, 0), b"x" * PAGE, "read from it")
    check_equal(os.listdir(disk.path), ["folder"], "names")
    os.close(fd)


@on_faulty_disk
def mapped_files(_case, disk):
    path = os.path.join(disk.path, "file")
    with open(path, "w+b") as f:
        f.truncate(GRANULE)
        with mmap.mmap(f.fileno(), GRANULE) as m:
            m[PAGE:PAGE + 5] = b"hello"
            m.flush()
    with open(os.path.join(disk.folder, "file"), "rb") as f:
        check_equal(f.read()[PAGE:PAGE + 5], b"hello", "what was stored")


@on_faulty_disk
def locks(_case, disk):
    path = os.path.join(disk.path, "lock")
    first = os.open(path, os.O_RDWR | os.O_CREAT)
    second = os.open(path, os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    check_equal(error_of(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB), errno.EAGAIN,
                "a second lock")
    fcntl.flock(first, fcntl.LOCK_UN)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    os.close(second)


def operations(disk):
    """One call for each kind of operation, that makes no other of that kind."""
    path = os.path.join(disk.path, "file")
    with open(path, "wb") as f:
        f.write(bytes(GRANULE))
    fd = os.open(path, DIRECT)
    return fd, {
        "read": lambda: read_direct(fd, PAGE, 0),
        "write": lambda: os.pwritev(fd, [aligned(b"y" * PAGE)], 0),
        "open": lambda: os.close(os.open(path, os.O_RDONLY)),
        "create": lambda: os.close(os.open(disk.path, os.O_TMPFILE | os.O_RDWR)),
        "fallocate": lambda: fallocate(fd, PUNCH_HOLE, 0, PAGE),
        "statfs": lambda: os.statvfs(disk.path),
        "lseek": lambda: os.lseek(fd, 0, os.SEEK_HOLE),
        "unlink": lambda: os.unlink(os.path.join(disk.path, "none")),
        "flock": lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
        "rename": lambda: os.rename(path, path),
        "setattr": lambda: os.utime(path),
        "readdir": lambda: os.listdir(disk.path),
        "fsync": lambda: os.fsync(fd),
    }


@on_faulty_disk
def every_operation_fails_as_told(_case, disk):
    fd, calls = operations(disk)
    for op in ("unlink", "rename", "readdir"):  # below: they do something, or more than once
        del calls[op]
    for op, call in calls.items():
        disk.fail(op, errno.EIO, after=2, times=3)
        call()
        call()
        for _ in range(3):
            check_equal(error_of(call), errno.EIO, f"the error of {op}")
        call()
        seen, hit = disk.count(op)
        check(seen >= 6 and hit == 3, f"{op}: {hit} of {seen} were hit")
        disk.clear(op)
    path = os.path.join(disk.path, "file")
    for op, call in (("unlink", lambda: os.unlink(path)),
                     ("rename", lambda: os.rename(path, path + "2"))):
        disk.fail(op, errno.EROFS)
        check_equal(error_of(call), errno.EROFS, f"the error of {op}")
        check_equal(os.listdir(disk.folder), ["file"], "files after it")
        check_equal(disk.count(op), (1, 1), f"counts of {op}")
    disk.fail("readdir", errno.EIO, times=1)
    check_equal(error_of(os.listdir, disk.path), errno.EIO, "the error of readdir")
    check_equal(os.listdir(disk.path), ["file"], "names")
    os.close(fd)


@on_faulty_disk
def short_and_wrong(_case, disk):
    fd, _ = operations(disk)
    disk.cut("write", times=1)
    check_equal(os.pwritev(fd, [aligned(b"a" * GRANULE)], 0), GRANULE // 2, "a short write")
    data = b"a" * (GRANULE // 2) + bytes(GRANULE // 2)
    disk.cut("read", after=1, times=1)
    check_equal(read_direct(fd, GRANULE, 0), data, "what the short write has written")
    check_equal(read_direct(fd, GRANULE, 0), data[:GRANULE // 2], "a short read")
    disk.flip(times=1)
    wrong = read_direct(fd, GRANULE, 0)
    check_equal([i for i in range(GRANULE) if wrong[i] != data[i]], list(range(0, GRANULE, PAGE)),
                "bytes that are wrong")
    check_equal(read_direct(fd, GRANULE, 0), data, "the next read")
    os.close(fd)


@on_faulty_disk
def what_hangs_goes_on_when_told(_case, disk):
    fd, _ = operations(disk)
    got = []
    disk.hang("read", times=50)
    threads = [threading.Thread(target=lambda: got.append(read_direct(fd, PAGE, 0)))
               for _ in range(50)]
    for t in threads:
        t.start()
    disk.wait("read", 50)
    check_equal((got, read_direct(fd, PAGE, 0)), ([], bytes(PAGE)), "all hang; one more does not")
    disk.go()
    for t in threads:
        t.join()
    check_equal(got, [bytes(PAGE)] * 50, "what was read in the end")
    os.close(fd)


@on_faulty_disk
def the_disk_is_taken_away(_case, disk):
    fd, _ = operations(disk)
    disk.end()
    check_equal(error_of(read_direct, fd, PAGE, 0), errno.ENOTCONN, "a read after the end")
    check_equal(error_of(os.close, fd), errno.ENOTCONN, "a close")


@on_faulty_disk
def orders_that_are_none(_case, disk):
    for order in ("", "read", "read ", "reed fail 5 0 1", "read fail=0 0 1", "read fail=5 0",
                  "read hang", "read flip 1 1 1", "go on", "read fail=-5 0 1", "read fail=5x 0 1"):
        try:
            disk._order(order)  # pylint: disable=protected-access
        except AssertionError:
            continue
        fail(f"{order!r} was taken for an order")
    check_equal(sorted(OPS), sorted(operations(disk)[1]), "kinds of operations")


if __name__ == "__main__":
    fault_main({"faultfs-self": (
        a_good_file_system, folders_and_nameless_files, mapped_files, locks,
        every_operation_fails_as_told, short_and_wrong, what_hangs_goes_on_when_told,
        the_disk_is_taken_away, orders_that_are_none)})
