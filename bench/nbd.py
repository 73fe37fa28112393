#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures thaw's NBD server beside other people's: fio and nbdcopy on a disk that is in memory.

  nbd.py --build BUILD [--rounds N] [--seconds N] [--size MIB] [--rows WORD] [--old BUILD] [--json]

BUILD is a build folder of thaw. All servers run at once and hold the same bytes, in memory: thaw a
build of which everything is in the cache, nbdkit's memory plugin, nbdkit with the filter cow over a
file, and qemu-nbd over a file of its own; the files are in /dev/shm where that is. What is not
installed is left out, and the report says so. In each row they take turns, as often as there are
rounds; a figure is the median of these. Each row's ratio is thaw's over the best peer's:

"nbdcopy first write" is of servers that have just been started: what it writes takes memory; in the
other rows that write, almost all is written over.

  geomean_of_best_peer   of all rows; should be at least 1.0
  worst_row              should be at least 0.85

With --old the server of another build of thaw contends, too; it is not a peer. "cpu" is processor
time of the server per GiB: other programs on the machine disturb it less than they do the speed.
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
GEOMEAN_BAR, WORST_BAR = 1.0, 0.85
TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE_S = 60
FIRST = "nbdcopy first write"


def fio_rows():
    """Name, --rw, --bs, requests under way, connections."""
    for pattern, block, depth in (("sequential", "128k", 8), ("random", "4k", 32)):
        for direction in ("read", "write"):
            for jobs in (1, 4):
                rw = ("rand" if pattern == "random" else "") + direction
                yield f"{pattern} {block} {direction} x{jobs}", rw, block, depth, jobs


class Server:
    """A contender: a process that serves a disk on a socket of its own."""

    def __init__(self, name, folder, peer=True):
        self.name = name
        self.peer = peer
        self.folder = folder
        self.socket = os.path.join(folder, name.replace(" ", "-"))
        self.process = None
        self.args = ()
        self.file = None  # where it keeps what is written, if that outlives it

    def start(self, *args):
        self.args = [str(a) for a in args]
        with open(self.socket + ".log", "wb") as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(self.args, stdout=log, stderr=log,
                                            env=dict(os.environ, TMPDIR=self.folder))
        until = time.monotonic() + DEADLINE_S
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > until:
                with open(self.socket + ".log", encoding="utf-8", errors="replace") as f:
                    sys.exit(f"nbd.py: {self.name} does not serve: {f.read().strip()}")
            time.sleep(0.01)
        return self

    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"

    def cpu_s(self):
        """Processor time of all its threads, those that have ended, too."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)

    def restart(self):
        """With nothing written."""
        self.stop()
        if self.file:
            size = os.path.getsize(self.file)
            os.truncate(self.file, 0)
            os.truncate(self.file, size)
        self.start(*self.args)


def thaw_server(name, build, folder, image):
    store = os.path.join(folder, name + "-store")
    os.mkdir(store)
    create = [os.path.join(build, "thaw"), "create", "--rootfs", image, "--store", store]
    out = subprocess.run(create, check=True, stdout=subprocess.PIPE, text=True)
    program = os.path.join(build, "tests", "integration", "nbd_server")
    server = Server(name, folder, peer=False)
    return server.start(program, store, server.socket, "=" + out.stdout.strip())


def start_all(args, folder, image, skipped):
    """Yields each server once it serves."""
    yield thaw_server("thaw", args.build, folder, image)
    if args.old:
        yield thaw_server("old", args.old, folder, image)
    if shutil.which("nbdkit"):
        s = Server("nbdkit memory", folder)
        yield s.start("nbdkit", "-f", "-U", s.socket, "memory", f"{args.size}M")
        s = Server("nbdkit cow", folder)
        yield s.start("nbdkit", "-f", "-U", s.socket, "--filter=cow", "file", image)
    else:
        skipped.append("nbdkit is not installed (Debian: nbdkit)")
    if shutil.which("qemu-nbd"):
        s = Server("qemu-nbd", folder)
        own = os.path.join(folder, "qemu.raw")
        shutil.copyfile(image, own)
        s.file = own
        yield s.start("qemu-nbd", "-f", "raw", "-k", s.socket, "-t", "-e", "8", own)
    else:
        skipped.append("qemu-nbd is not installed (Debian: qemu-utils)")


# ---- one run: bytes and seconds ----

def run_fio(args, server, row):
    _, rw, block, depth, jobs = row
    share = args.size // jobs
    p = subprocess.run(
        ["fio", "--name=nbd", "--ioengine=nbd", f"--uri={server.uri()}", f"--rw={rw}",
         f"--bs={block}", f"--iodepth={depth}", f"--numjobs={jobs}", "--group_reporting",
         f"--size={share}M", f"--offset_increment={share}M", "--time_based",
         f"--runtime={args.seconds}", "--randrepeat=0", "--norandommap",
         "--output-format=json"],
        check=True, stdout=subprocess.PIPE, text=True, cwd=server.folder)
    out = json.loads(p.stdout[p.stdout.index("{"):])["jobs"][0]
    side = out["write" if "write" in rw else "read"]
    if out["error"] or side["io_bytes"] == 0:
        sys.exit(f"nbd.py: fio failed on {server.name}: error {out['error']}")
    return side["io_bytes"], side["runtime"] / 1000


def run_copy(args, server, image, write):
    """nbdcopy goes over the disk until the time is used up."""
    ends = [image, server.uri()] if write else [server.uri(), "null:"]
    start, done = time.monotonic(), 0
    while done == 0 or time.monotonic() < start + args.seconds:
        subprocess.run(["nbdcopy", "--connections=4", *ends], check=True)
        done += args.size * MIB
    return done, time.monotonic() - start


def run_first_copy(args, server, image):
    start = time.monotonic()
    subprocess.run(["nbdcopy", "--connections=4", image, server.uri()], check=True)
    return args.size * MIB, time.monotonic() - start


def rows_of(args, image):
    """Name and a function that runs it on a server."""
    if shutil.which("fio"):
        for row in fio_rows():
            yield row[0], lambda server, row=row: run_fio(args, server, row)
    for write in (False, True):
        name = "nbdcopy " + ("write" if write else "read")
        yield name, lambda server, write=write: run_copy(args, server, image, write)
    yield FIRST, lambda server: run_first_copy(args, server, image)


def measure(rows, servers, rounds):
    """Samples by row and server: MiB/s, and seconds of processor time per GiB."""
    samples = {}
    for name, run in rows:
        row = samples[name] = {s.name: {"mib_per_s": [], "cpu_s_per_gib": []} for s in servers}
        for number in range(rounds + 1):
            for s in random.sample(servers, len(servers)):
                if name == FIRST:
                    s.restart()
                before = s.cpu_s()
                done, seconds = run(s)
                if number == 0:
                    continue  # to warm up
                row[s.name]["mib_per_s"].append(done / MIB / seconds)
                row[s.name]["cpu_s_per_gib"].append((s.cpu_s() - before) * 1024 * MIB / done)
    return samples


# ---- the report ----

def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def summarize(samples, servers, skipped):
    peers = [s.name for s in servers if s.peer]
    rows, ratios = [], {}
    for name, by_server in samples.items():
        row = {"name": name}
        for server, figures in by_server.items():
            row[server] = {figure: spread(values) for figure, values in figures.items()}
        if peers:
            best = max(peers, key=lambda p: row[p]["mib_per_s"]["median"])
            row["best_peer"] = best
            row["of_best_peer"] = (row["thaw"]["mib_per_s"]["median"] /
                                   row[best]["mib_per_s"]["median"])
        if "old" in row:
            row["of_old"] = row["thaw"]["mib_per_s"]["median"] / row["old"]["mib_per_s"]["median"]
        rows.append(row)
    of_best = [r["of_best_peer"] for r in rows if "of_best_peer" in r]
    if of_best:
        ratios["geomean_of_best_peer"] = math.exp(statistics.mean(map(math.log, of_best)))
        ratios["worst_row"] = min(of_best)
    u = os.uname()
    return {"bench": "nbd", "rows": rows, "ratios": ratios, "skipped": skipped,
            "environment": {"kernel": u.release, "machine": u.machine,
                            "processors": os.cpu_count()}}


def print_table(report, servers):
    print(f"{'MiB/s, median (cpu s/GiB)':<28}" + "".join(f"{s.name:>18}" for s in servers) +
          "   thaw/best")
    for row in report["rows"]:
        line = f"{row['name']:<28}"
        for s in servers:
            f = row[s.name]
            speed, cpu = f["mib_per_s"]["median"], f["cpu_s_per_gib"]["median"]
            line += f"{speed:>10.0f} ({cpu:5.2f})"
        if "of_best_peer" in row:
            line += f"{row['of_best_peer']:>12.2f} {row['best_peer']}"
        if "of_old" in row:
            line += f", {row['of_old']:.2f} of old"
        print(line)
    print()
    for reason in report["skipped"]:
        print(f"  skipped: {reason}")
    for name, bar in (("geomean_of_best_peer", GEOMEAN_BAR), ("worst_row", WORST_BAR)):
        if name in report["ratios"]:
            v = report["ratios"][name]
            print(f"  {name:<22}{v:6.2f}   at least {bar:.2f}{'' if v >= bar else '   NOT MET'}")


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--build", default="build", help="build folder of thaw")
    p.add_argument("--old", help="another one, to compare with")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=1, help="of each run")
    p.add_argument("--size", type=int, default=256, help="MiB of the disk")
    p.add_argument("--rows", default="", help="a regular expression: rows to run")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def main():
    args = parse_args()
    skipped = [f"{p} is not installed (Debian: {d})"
               for p, d in (("fio", "fio"), ("nbdcopy", "libnbd-bin")) if not shutil.which(p)]
    if not shutil.which("nbdcopy"):
        sys.exit("nbd.py: nbdcopy is needed: install libnbd-bin")
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    servers = []
    with tempfile.TemporaryDirectory(prefix="thaw-nbd-", dir=where) as folder:
        try:
            image = os.path.join(folder, "image")
            with open(image, "wb") as f:
                for _ in range(args.size):
                    f.write(random.randbytes(MIB))
            for s in start_all(args, folder, image, skipped):
                servers.append(s)
                run_copy(args, s, image, s.name == "nbdkit memory")  # holds nothing by itself
            rows = [r for r in rows_of(args, image) if re.search(args.rows, r[0])]
            report = summarize(measure(rows, servers, args.rounds), servers, skipped)
        finally:
            for s in servers:
                s.stop()
    if args.json:
        print(json.dumps(report))
    else:
        print_table(report, servers)


if __name__ == "__main__":
    main()
