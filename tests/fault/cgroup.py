# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup for one test, by version 1 or 2 of cgroups; needs root."""

import contextlib
import errno
import glob
import os
import select
import signal
import tempfile
import time

from thawtest import DEADLINE, fail, skip

ROOT = "/sys/fs/cgroup"
PREFIX = "thaw-fault-"


def _read(path):
    with open(path, encoding="ascii") as f:
        return f.read()


def _write(path, value):
    with open(path, "w", encoding="ascii") as f:
        f.write(str(value))


def _parent():
    """The folder to make cgroups of memory in, and whether it is version 2."""
    if os.geteuid() != 0:
        skip("only root makes cgroups")
    v1 = os.path.join(ROOT, "memory")
    if os.path.exists(os.path.join(v1, "memory.limit_in_bytes")):
        return v1, False
    try:
        _write(os.path.join(ROOT, "cgroup.subtree_control"), "+memory")
    except OSError as e:
        skip(f"no memory cgroup can be made here: {e}")
    return ROOT, True


def _fields(path):
    return {key: int(value) for key, value in
            (line.split() for line in _read(path).splitlines())}


class MemoryCgroup:
    """Limits what runs in it to @limit bytes; gone at the end of the case."""

    def __init__(self, case, limit):
        parent, self.v2 = _parent()
        _remove_old(parent)
        try:
            self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        except OSError as e:
            skip(f"no memory cgroup can be made here: {e}")
        case.on_end(self._kill_and_remove)
        _write(self._file("memory.max", "memory.limit_in_bytes"), limit)
        if self.v2:  # nothing gets out of the way to a swap file
            with contextlib.suppress(OSError):
                _write(os.path.join(self.path, "memory.swap.max"), 0)

    def _file(self, v2, v1):
        return os.path.join(self.path, v2 if self.v2 else v1)

    def start(self, case, program, *args, **kwargs):
        """case.start() of a program that is in this cgroup from its first instruction."""
        return case.start("/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"',
                          os.path.join(self.path, "cgroup.procs"), program, *args, **kwargs)

    def usage(self):
        return int(_read(self._file("memory.current", "memory.usage_in_bytes")))

    def peak(self):
        """The most that was ever used, or None where the kernel does not tell (before 5.19)."""
        path = self._file("memory.peak", "memory.max_usage_in_bytes")
        return int(_read(path)) if os.path.exists(path) else None

    def oom_kills(self):
        return _fields(self._file("memory.events", "memory.oom_control")).get("oom_kill", 0)

    def reached(self):
        """How often the limit was hit, upon which the kernel reclaims."""
        if self.v2:
            return _fields(os.path.join(self.path, "memory.events"))["max"]
        return int(_read(os.path.join(self.path, "memory.failcnt")))

    def _kill_and_remove(self):
        if not _remove(self.path):
            fail(f"the cgroup {self.path} is left over")


def _end(pid):
    """Kill @pid and wait until it is dead, be it a child of ours or not."""
    with contextlib.suppress(ProcessLookupError):
        pid_fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([pid_fd], [], [], DEADLINE)
        os.close(pid_fd)


def _remove(path):
    """Kill what is in there, and remove the folder. Whether it is gone."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            for pid in _read(os.path.join(path, "cgroup.procs")).split():
                _end(int(pid))
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as e:
            if e.errno != errno.EBUSY:
                return False
        else:
            return True
    return False


def _remove_old(parent):
    """What a test has left that was killed before it could clean up."""
    for path in glob.glob(os.path.join(parent, PREFIX + "*")):
        maker = os.path.basename(path)[len(PREFIX):].partition("-")[0]
        if not os.path.exists(f"/proc/{maker}"):
            _remove(path)
