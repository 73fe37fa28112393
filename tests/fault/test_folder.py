#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The folder of the disk tier, as others have left it: files that are damaged, cut, swapped or
something else, processes that were killed, and several processes at a time.
"""

import glob
import os
import random
import shutil
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from disks import MIB, Outcome, client_of, fill, resume, scrape, touch, warnings
from faultfs import fault_main, on_faulty_disk
from thawtest import DEADLINE, check, check_equal, check_in

GRANULE = 65536
WRITTEN = ("thaw_cache_disk_written_bytes_total", ())


def build_of(case, name="memory", seed=1, size="20M"):
    image = case.image(name, size, "random", seed)
    return image, case.create(image)


def pair_of(folder, build):
    """The file of data and the file of sums of a build's memory."""
    found = [glob.glob(os.path.join(folder, "tier", f"{build}.memfile.*.{kind}"))
             for kind in ("data", "sums")]
    check_equal([len(f) for f in found], [1, 1], f"files of {build}")
    return found[0][0], found[1][0]


# ---- what can be done to a file ----

def overwrite(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def flip_everywhere(path, step=GRANULE):
    """One bit every @step bytes."""
    with open(path, "r+b") as f:
        for at in range(step // 3, os.path.getsize(path), step):
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 1]))


def cut(path, size):
    os.truncate(path, size)


def make_zeros(path):
    overwrite(path, 0, bytes(os.path.getsize(path)))


def make_holes(path):
    size = os.path.getsize(path)
    os.truncate(path, 0)
    os.truncate(path, size)


def replace_by_fifo(path):
    os.unlink(path)
    os.mkfifo(path)


def replace_by_folder(path):
    os.unlink(path)
    os.mkdir(path)


def replace_by_link(path):
    """To a file of the same length that is none of thaw's; it is looked at at the end."""
    shutil.copy(path, path + ".elsewhere")
    os.unlink(path)
    os.symlink(path + ".elsewhere", path)


def remove_or_folder(path):
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


DAMAGE = (flip_everywhere, make_zeros, make_holes, os.unlink, lambda path: cut(path, 0),
          lambda path: cut(path, os.path.getsize(path) // 2),
          lambda path: cut(path, os.path.getsize(path) + 4096),
          lambda path: overwrite(path, 0, os.urandom(4096)),
          lambda path: overwrite(path, os.path.getsize(path) - 4096, os.urandom(4096)))
SOMETHING_ELSE = (replace_by_fifo, replace_by_folder, replace_by_link)


def mended(case, build, image, folder):
    """What was wrong with the files has been mended by the last resume."""
    o = Outcome(case, build, image, folder)
    check_equal((o.errors, o.lines), ({}, []), "errors and lines after the damage was mended")


def damaged_files(case):
    folder = case.path("cache")
    image, build = build_of(case)
    Outcome(case, build, image, folder)
    for which in (0, 1):
        for damage in DAMAGE:
            damage(pair_of(folder, build)[which])
            o = Outcome(case, build, image, folder)
            check(set(o.errors) <= {"damaged"} and len(o.lines) <= 1,
                  f"damage {DAMAGE.index(damage)} of file {which}: {o.errors} {o.lines}")
    mended(case, build, image, folder)


def files_that_are_something_else(case):
    """Nothing is waited for, nothing beyond the folder is written, and no error but that it is not
    kept there.
    """
    folder = case.path("cache")
    image, build = build_of(case)
    Outcome(case, build, image, folder)
    pair = pair_of(folder, build)
    for path in pair:
        for replace in SOMETHING_ELSE:
            replace(path)
            aside = path + ".elsewhere"
            before = os.path.exists(aside) and (os.stat(aside).st_mtime_ns,
                                                open(aside, "rb").read())
            o = Outcome(case, build, image, folder)
            check(len(o.lines) <= 1, f"{replace}: {o.lines}")
            if before:
                check_equal((os.stat(aside).st_mtime_ns, open(aside, "rb").read()) == before, True,
                            "whether the file that a link leads to is as it was")
                os.unlink(aside)
            for other in pair:
                remove_or_folder(other)
            Outcome(case, build, image, folder)
    mended(case, build, image, folder)


def files_of_another_build(case):
    """Same length, same name of the object, other bytes: told apart by what is in them."""
    folder = case.path("cache")
    image, build = build_of(case)
    other_image, other = build_of(case, "other", seed=2)
    for which in ((0,), (1,), (0, 1)):
        Outcome(case, build, image, folder)
        Outcome(case, other, other_image, folder)
        for i in which:
            shutil.copy(pair_of(folder, other)[i], pair_of(folder, build)[i])
        for b, i in ((build, image), (other, other_image)):
            o = Outcome(case, b, i, folder)
            check(set(o.errors) <= {"damaged"}, f"files {which} of another build: {o.errors}")
    mended(case, build, image, folder)


def changes_under_way(case):
    """Somebody cuts, overwrites or removes the files that are open."""
    folder = case.path("cache")
    image, build = build_of(case)
    for change in (lambda path: cut(path, 0), lambda path: cut(path, 5 * GRANULE), make_zeros,
                   flip_everywhere, os.unlink):
        Outcome(case, build, image, folder)
        o = Outcome(case, build, image, folder,
                    under_way=lambda _, c=change: c(pair_of(folder, build)[0]))
        check(set(o.errors) <= {"damaged"} and o.lines == [], f"{o.errors} {o.lines}")


def a_folder_that_is_none(case):
    _, build = build_of(case, size="1M")
    folder = case.path("cache")
    base = ("resume", build, "--store", case.store, "--vmm", "none", "--cache-backing", "tiered",
            "--cache", folder)
    os.mkdir(folder)
    for name in ("tier", "lock"):
        path = os.path.join(folder, name)
        os.symlink(case.path("elsewhere"), path)
        check_in(path, case.thaw(*base, status=1).stderr(), "what thaw says of a link")
        os.unlink(path)
    os.mkdir(os.path.join(folder, "lock"))
    check_in("lock", case.thaw(*base, status=1).stderr(), "what thaw says of a folder")
    os.rmdir(os.path.join(folder, "lock"))
    with open(case.path("file"), "wb"):
        pass
    p = case.thaw(*base[:-1], case.path("file"), status=1)
    check_in(case.path("file"), p.stderr(), "what thaw says of a file")
    check(not os.path.exists(case.path("elsewhere")), "something was made where a link leads to")


# ---- kill -9 ----

@on_faulty_disk
def killed_at_the_nth_write(case, disk):
    """That write comes after the end of who wanted it; sums of the last batches are missing."""
    image, build = build_of(case)
    for n in (0, 1, 2, 7, 31, 32, 33, 34, 40):
        shutil.rmtree(os.path.join(disk.folder, "tier"), ignore_errors=True)
        thaw = resume(case, build, disk.path, "tiered")
        disk.hang("write", after=n)
        client = client_of(case, thaw, image, "--hang-seconds", "100", "--hold")
        while not (disk.count("write")[1] or client.stdout()):
            time.sleep(0.01)  # there may be fewer than n: it is killed all the same
        thaw.signal(signal.SIGKILL)  # it cannot die before its write is over
        disk.clear()
        thaw.expect_exit(-signal.SIGKILL)
        client.kill()
        o = Outcome(case, build, image, disk.path)
        check_equal((o.lines, o.writable), ([], True), f"lines of log, and the lock, after {n}")
        check(set(o.errors) <= {"damaged"}, f"errors after a kill at write {n}: {o.errors}")


# ---- several processes ----

def written_bytes(thaw):
    return scrape(thaw)[WRITTEN]


def wait_for_writes(thaw, wanted, client):
    until = time.monotonic() + DEADLINE
    while written_bytes(thaw) < wanted:
        check(time.monotonic() < until, f"{written_bytes(thaw)} bytes are written, not {wanted}")
        check(client.returncode() is None, f"the client has ended early: {client.stderr()}")


def a_second_one_reads(case):
    """What the first one has written; it writes nothing, and says that it only reads."""
    folder = case.path("cache")
    image, build = build_of(case)
    seconds = []

    def second(_thaw):
        seconds.append(Outcome(case, build, image, folder))

    fill(case, build, image, folder)
    first = Outcome(case, build, image, folder, at_end=second)
    check_equal((first.result["cache"]["disk_tier"], first.lines), ("written", []), "the first one")
    o = seconds[0]
    check_equal((o.result["cache"]["disk_tier"], o.errors, o.lines, o.writable),
                ("read", {}, [], False), "the second one")
    check_equal(o.result["bytes"]["fetched"], 0, "fetched by the second one")
    check_equal(o.written, 0, "written by the second one")
    check_equal(Outcome(case, build, image, folder).result["cache"]["disk_tier"], "written",
                "the disk tier of the next one")


def the_first_one_ends(case):
    """The second one reads on, and says so."""
    folder = case.path("cache")
    image, build = build_of(case)
    fill(case, build, image, folder)
    first, second = (resume(case, build, folder, "tiered") for _ in range(2))
    touch(case, first, image)
    first.expect_exit(0)
    touch(case, second, image)
    result = second.expect_exit(0).result()
    check_equal((result["cache"]["disk_tier"], result["bytes"]["fetched"], warnings(second)),
                ("read", 0, []), "the disk tier, what was fetched, and lines of log")


def a_second_one_of_another_build(case):
    """There is nothing for it, and it may not write: it does without."""
    folder = case.path("cache")
    image, build = build_of(case)
    other_image, other = build_of(case, "other", seed=2)
    seconds = []
    Outcome(case, build, image, folder,
            at_end=lambda _: seconds.append(Outcome(case, other, other_image, folder)))
    check_equal((seconds[0].errors, seconds[0].lines, seconds[0].written), ({}, [], 0),
                "errors, lines of log, bytes written of the second one")
    check_equal(sorted(name.partition(".")[0] for name in os.listdir(os.path.join(folder, "tier"))),
                [build, build], "whose files are there")


def the_first_one_is_killed(case):
    """While the second one reads; a third one takes the lock over, and the second one reads on."""
    folder = case.path("cache")
    image, build = build_of(case)
    rng = random.Random(5)
    for _ in range(4):
        shutil.rmtree(folder, ignore_errors=True)
        first = resume(case, build, folder, "tiered", "--metrics", "127.0.0.1:0")
        writing = client_of(case, first, image, "--hang-seconds", "100", "--hold")
        wait_for_writes(first, 1, writing)
        second = resume(case, build, folder, "tiered")
        reading = client_of(case, second, image, "--hang-seconds", "100", "--removes", "50")
        wait_for_writes(first, rng.randrange(8 * MIB), writing)
        first.kill()
        writing.kill()
        third = Outcome(case, build, image, folder)
        check_equal((third.result["cache"]["disk_tier"], third.lines), ("written", []),
                    "the third one's disk tier, and lines of log")
        check(set(third.errors) <= {"damaged"}, f"errors of the third one: {third.errors}")
        reading.expect_exit(0)
        result = second.expect_exit(0).result()
        check_equal((result["cache"]["disk_tier"], warnings(second)), ("read", []),
                    "the second one's disk tier, and lines of log")
    touch(case, last := resume(case, build, folder, "tiered"), image)
    last.expect_exit(0)


if __name__ == "__main__":
    fault_main({
        "tier-folder": (damaged_files, files_that_are_something_else, files_of_another_build,
                        changes_under_way, a_folder_that_is_none),
        "tier-processes": (killed_at_the_nth_write, a_second_one_reads, the_first_one_ends,
                           a_second_one_of_another_build, the_first_one_is_killed),
    })
