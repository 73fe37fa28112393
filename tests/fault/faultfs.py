# SPDX-License-Identifier: Apache-2.0
"""A folder whose file system fails when it is told to: starts and commands faultfs.c.

    @on_faulty_disk
    def a_full_disk(case, disk):
        disk.fail("write", errno.ENOSPC, after=3)     # all but the first three
        thaw = case.resume(build, "--cache", disk.path, ...)
        disk.wait("write", 1)                         # until one has failed

    fault_main("full-disk", a_full_disk)
"""

import contextlib
import ctypes
import functools
import os
import signal
import socket
import sys

from thawtest import DEADLINE, SKIP, Skip, check_equal, main, skip

ALL = -1
_CLONE_NEWNS = 0x00020000  # sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # sys/mount.h


def private_mounts():
    """From here on, what this process mounts is seen by its children alone, and gone with them.

    So nothing stays mounted, however a test ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(_CLONE_NEWNS) < 0 or \
            libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) < 0:
        skip("only root mounts file systems")


def fault_main(groups):
    """thawtest.main() for the group that the command line names, with mounts of its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        private_mounts()
    except Skip as e:
        print(e)
        sys.exit(SKIP)
    main(*groups[sys.argv.pop(1)])


def on_faulty_disk(test):
    """A test of a case and a disk, which is a FaultFs. Whatever hangs is let go at the end: nobody
    can be killed who waits for it.
    """
    @functools.wraps(test)
    def run(case):
        disk = FaultFs(case)
        try:
            test(case, disk)
        finally:
            disk.end()
    return run


class FaultFs:
    """@path shows @folder, which can be looked at as it is. Rules are for kinds of operations."""

    def __init__(self, case, name="faulty", folder=None):
        if not os.path.exists("/dev/fuse"):
            skip("there is no /dev/fuse")
        self.folder = folder or case.path(name + ".behind")
        self.path = case.path(name)
        os.makedirs(self.folder, exist_ok=True)
        os.mkdir(self.path)
        self._socket = case.path(name + ".orders")
        self.program = case.start("faultfs", self.folder, self.path, self._socket)
        self.program.ready()
        self._orders = self._connect()

    def _connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(DEADLINE)
        s.connect(self._socket)
        return s.makefile("rw", encoding="ascii")

    def _order(self, text, through=None):
        f = through or self._orders
        f.write(text + "\n")
        f.flush()
        answer = f.readline().rstrip("\n")
        check_equal(answer.startswith("error"), False, f"{answer!r} to the order {text!r}")
        return answer

    def fail(self, op, error, after=0, times=ALL):
        self._order(f"{op} fail={error} {after} {times}")

    def cut(self, op, after=0, times=ALL):
        self._order(f"{op} short {after} {times}")

    def flip(self, after=0, times=ALL):
        self._order(f"read flip {after} {times}")

    def hang(self, op, after=0, times=ALL):
        self._order(f"{op} hang {after} {times}")

    def clear(self, *ops):
        """No faults from here on, and what hangs goes on."""
        for op in ops or OPS:
            self._order(f"{op} pass")
        self._order("go")

    def go(self):
        """What hangs goes on; what comes next hangs again."""
        self._order("go")

    def count(self, op):
        """(seen, hit) since the last rule for @op."""
        seen, hit = self._order(f"{op} count").split()
        return int(seen), int(hit)

    def wait(self, op, hits):
        """Until @hits operations have been hit by the rule."""
        with self._connect() as f:
            self._order(f"{op} wait {hits}", f)

    def end(self):
        """The file system goes away under whoever uses it; all they do fails from here on."""
        with contextlib.suppress(OSError, AssertionError):
            self.clear()
        self.program.stop()


OPS = ("read", "write", "open", "create", "fallocate", "statfs", "lseek", "unlink", "flock",
       "rename", "setattr", "readdir", "fsync")
