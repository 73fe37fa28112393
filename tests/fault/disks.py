# SPDX-License-Identifier: Apache-2.0
"""What tests of failing disks share: a resume whose caches are on one, and a client that judges it."""

import ctypes
import errno
import fcntl
import http.client
import os
import struct
import subprocess
import time

from prometheus import parse_text
from thawtest import DEADLINE, check, check_equal, fail, skip

MIB = 1 << 20
_LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82  # linux/loop.h
_LO_FLAGS_AUTOCLEAR, _LO_FLAGS_DIRECT_IO = 4, 16
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


def scrape(thaw):
    """{(name, labels): number} of one that was started with --metrics"""
    host, _, port = thaw.info["metrics"].rpartition(":")
    c = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    try:
        c.request("GET", "/metrics")
        return parse_text(c.getresponse().read().decode())[0]
    finally:
        c.close()


def disk_errors(samples):
    """What went wrong with the disk tier, by kind, but for what did not."""
    name = "thaw_cache_disk_errors_total"
    return {dict(labels)["kind"]: n for (key, labels), n in samples.items() if key == name and n}


class Outcome:
    """What came of a resume with the disk tier in @folder whose client has touched all of @image.

    @under_way(thaw) is called when it serves, @at_end(thaw) when all has been touched. All bytes
    must be right, and thaw must end in good order.
    """

    def __init__(self, case, build, image, folder, *args, under_way=None, at_end=None, client=()):
        self.thaw = resume(case, build, folder, "tiered", "--metrics", "127.0.0.1:0", *args)
        if under_way:
            under_way(self.thaw)
        touching = client_of(case, self.thaw, image, "--hold", *client)
        seen = touching.json_line(0)
        check_equal((seen["errors"], seen["wrong"]), (0, 0), f"errors, and wrong pages, of {seen}")
        if at_end:
            at_end(self.thaw)
        samples = self._at_rest()
        self.errors = disk_errors(samples)
        self.writable = samples["thaw_cache_disk_writable", ()] == 1
        self.written = samples["thaw_cache_disk_written_bytes_total", ()]
        touching.stop()
        self.result = self.thaw.expect_exit(0).result()
        self.lines = warnings(self.thaw)

    def _at_rest(self):
        """The samples when nothing waits to be written any more, or nothing can be written."""
        until = time.monotonic() + DEADLINE
        while True:
            samples = scrape(self.thaw)
            writable = samples["thaw_cache_disk_writable", ()] and \
                "no_room" not in disk_errors(samples)
            if not (samples["thaw_cache_disk_behind", ()] and writable):
                return samples
            check(time.monotonic() < until, "granules wait to be written to the disk")
            time.sleep(0.01)  # nobody tells when


def fill(case, build, image, folder, *args):
    """Resume until all of the build is in the folder: what is not written in time waits for the
    next one.
    """
    for _ in range(20):
        o = Outcome(case, build, image, folder, *args)
        if o.result["bytes"]["fetched"] == 0:
            return
    fail(f"it is never all there: {o.result}")


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


def _attach(image):
    """A loop device over @image, which goes with its last user: (its descriptor, its path)."""
    with open("/dev/loop-control", "rb") as control:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            fd, backing = os.open(path, os.O_RDWR), os.open(image, os.O_RDWR)
            # struct loop_config: fd, block_size, struct loop_info64 with lo_flags, reserved
            config = struct.pack("=II52xI240x", backing, 4096,
                                 _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
                return fd, path
            except OSError as e:
                os.close(fd)
                if e.errno != errno.EBUSY:  # somebody else was quicker
                    raise
            finally:
                os.close(backing)


class LoopDisk:
    """A file system on a loop device over a file in @folder; nothing is kept of the file's pages."""

    def __init__(self, case, folder=None, size_bytes=128 * MIB, mkfs=("mkfs.ext4", "-q", "-F", "-b", "4096")):
        self.path = case.path("disk")
        self._image = os.path.join(folder or case.dir, "disk.image")
        with open(self._image, "wb") as f:
            f.truncate(size_bytes)
        os.mkdir(self.path)
        self._run(*mkfs, self._image)
        try:
            fd, device = _attach(self._image)
        except OSError as e:
            skip(f"no loop device can be had: {e}")
        try:
            self._run("mount", device, self.path)
        finally:
            os.close(fd)
        case.on_end(self.unmount)

    @staticmethod
    def _run(*command):
        path = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        p = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
        if p.returncode != 0:
            skip(f"{command[0]} does not do: {p.stderr.strip()}")

    def tear(self):
        """What is not in memory does not come back."""
        os.truncate(self._image, 0)

    def unmount(self):
        if os.path.ismount(self.path):
            subprocess.run(["umount", "-l", self.path], check=False)
