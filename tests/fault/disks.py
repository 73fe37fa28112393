# SPDX-License-Identifier: Apache-2.0
"""What tests of failing disks share: a resume whose caches are on one, and a client that judges it."""

import ctypes
import os
import subprocess

from thawtest import check, check_equal, skip

MIB = 1 << 20
_PROCESS_MADVISE, _MADV_PAGEOUT = 440, 21  # asm-generic: unistd.h, mman-common.h


def resume(case, build, folder, backing, *args):
    return case.resume(build, "--cache", folder, "--cache-backing", backing,
                       "--memory-budget", "16M", *args)


def client_of(case, thaw, image, *args):
    """Starts one that touches all pages at random, by four threads, and compares them."""
    return case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                      "--threads", "4", "--json", *args)


def touch(case, thaw, image, *args):
    """All that is touched is there and right."""
    client = client_of(case, thaw, image, *args).expect_exit(0).result()
    check_equal((client["errors"], client["wrong"]), (0, 0), "pages in error, and wrong ones")


def touch_with_errors(case, thaw, image, *args):
    """Some pages may not be readable, all others are right. How many were not."""
    client = client_of(case, thaw, image, "--expect-errors", "--hang-seconds", "60", *args)
    client.wait()
    result = client.result()
    check_equal((client.returncode(), result["wrong"]), (0 if result["errors"] else 1, 0),
                f"exit status of the client, and wrong pages, of {result}")
    return result["errors"]


def warnings(thaw):
    """What thaw has logged, in lines."""
    return [line for line in thaw.stderr().splitlines() if line.startswith("thaw: ")]


class _Range(ctypes.Structure):
    _fields_ = [("base", ctypes.c_size_t), ("bytes", ctypes.c_size_t)]


def page_out(pid, path):
    """Take the memory that process @pid maps of the file away from it, to the disk."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        areas = [line.split(" ")[0].split("-") for line in f if line.rstrip().endswith(path)]
    check(areas, f"{path} is not mapped")
    ranges = (_Range * len(areas))()
    for r, (start, end) in zip(ranges, areas):
        r.base, r.bytes = int(start, 16), int(end, 16) - int(start, 16)
    pid_fd = os.pidfd_open(pid)
    done = ctypes.CDLL(None, use_errno=True).syscall(_PROCESS_MADVISE, pid_fd, ranges, len(areas),
                                                     _MADV_PAGEOUT, 0)
    os.close(pid_fd)
    if done < 0:
        skip(f"process_madvise: {os.strerror(ctypes.get_errno())}")


class LoopDisk:
    """A file system on a loop device over a file. tear() takes the device away under it."""

    def __init__(self, case, name="disk", size_bytes=128 * MIB, mkfs=("mkfs.ext4", "-q", "-F")):
        self.path = case.path(name)
        self._image = case.path(name + ".image")
        with open(self._image, "wb") as f:
            f.truncate(size_bytes)
        os.mkdir(self.path)
        path = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        for command in ((*mkfs, self._image), ("mount", "-o", "loop", self._image, self.path)):
            p = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
            if p.returncode != 0:
                skip(f"{command[0]} does not do: {p.stderr.strip()}")
        case.on_end(self._unmount)

    def tear(self):
        """Nothing that is not in memory comes back, and nothing can be written."""
        os.truncate(self._image, 0)

    def _unmount(self):
        subprocess.run(["umount", "-l", self.path], check=False)
