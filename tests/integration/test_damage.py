#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds that are damaged, missing or out of reach: a clear error, never a wrong byte or a hang."""

import json
import os
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte
from thawtest import DEADLINE, check, check_equal, check_in, main

SERVED_WITH_ERRORS = ("--expect-errors", "--hang-seconds", "10", "--json")


def damaged_resume(case, build, image):
    """Touch everything; the client sees SIGBUS where bytes are missing, right bytes elsewhere."""
    thaw = case.resume(build)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        *SERVED_WITH_ERRORS)
    client.expect_exit(0)
    thaw.expect_exit(1)
    check_in("cannot be served", thaw.stderr(), "what thaw says")
    return client.result(), thaw


def path_of(case, build, name):
    return os.path.join(case.store, build, name)


def flipped_byte_of_data(case):
    image = case.image("memory", "8M", "random")
    build = case.create(image)
    flip_byte(path_of(case, build, "memfile"), 5 * 65536 + 77)
    touched, thaw = damaged_resume(case, build, image)
    check_equal(touched["errors"], 16, "pages that raised SIGBUS: one granule")
    check_in("granule 5", thaw.stderr(), "what thaw says")
    check_in("checksum", thaw.stderr(), "what thaw says")


def a_vm_that_lacks_a_page_runs_on(case):
    """Whatever else happens to thaw, such as the end of a hook: that page fails, and no other."""
    image = case.image("memory", "8M", "random")
    build = case.create(image)
    flip_byte(path_of(case, build, "memfile"), 5 * 65536 + 77)
    fifo = case.path("fifo")
    os.mkfifo(fifo)
    thaw = case.resume(build, "--on-resumed", f"cat {fifo}; exit 9")
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        *SERVED_WITH_ERRORS, "--hold")
    client.ready()
    with open(fifo, "w", encoding="utf-8"):
        pass  # lets the hook end
    until = time.monotonic() + DEADLINE
    while "ended with status 9" not in thaw.stderr():
        check(thaw.returncode() is None, f"thaw ended, and its VM with it: {thaw.stderr()}")
        check(time.monotonic() < until, "thaw says nothing of the hook's end")
        time.sleep(0.01)
    check(thaw.returncode() is None, "thaw ended, and its VM with it")
    thaw.signal(signal.SIGTERM)
    thaw.expect_exit(1)
    check_equal(thaw.stderr().count("cannot be served"), 1, "how often the failure was told")
    check_in("16 pages", thaw.stderr(), "what thaw says")
    client.stop()


def flipped_byte_of_sums(case):
    image = case.image("memory", "8M", "random")
    build = case.create(image)
    flip_byte(path_of(case, build, "memfile.sums"), 100)
    touched, _ = damaged_resume(case, build, image)
    check_equal(touched["errors"], 2048, "pages that raised SIGBUS: all that the page covers")


def missing_data(case):
    image = case.image("memory", "8M")
    build = case.create(image)
    os.unlink(path_of(case, build, "memfile"))
    _, thaw = damaged_resume(case, build, image)
    check_in("missing from the store", thaw.stderr(), "what thaw says")


def data_cut_short(case):
    image = case.image("memory", "8M", "random")
    build = case.create(image)
    os.truncate(path_of(case, build, "memfile"), 4 * 65536 + 1234)
    touched, _ = damaged_resume(case, build, image)
    check_equal(touched["errors"], 2048 - 64, "pages that raised SIGBUS: from granule 4 on")


def missing_ancestor(case):
    """An ancestor is opened when its bytes are wanted: what does not need it is served."""
    base_image = case.image("base", "8M", "random")
    base = case.create(base_image)
    image = case.path("memory")
    shutil.copy(base_image, image)
    with open(image, "r+b") as f:
        f.write(os.urandom(1 << 20))
    child = case.create(image, args=["--base", base])
    shutil.move(os.path.join(case.store, base), case.path("away"))
    touched, thaw = damaged_resume(case, child, image)
    check_equal(touched["errors"], 2048 - 256, "pages that raised SIGBUS: those of the base")
    check_in(base, thaw.stderr(), "what thaw says")
    shutil.move(case.path("away"), os.path.join(case.store, base))
    thaw = case.resume(child)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image)
    client.expect_exit(0)
    thaw.expect_exit(0)


def data_vanishes_under_way(case):
    """Half of the memory is touched, then the object goes: the rest may fail, no byte is wrong."""
    image = case.image("memory", "32M", "random")
    build = case.create(image)
    thaw = case.resume(build)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--pages", "100", "--hold", "--json")
    client.ready()
    # The file is open by now; cutting it takes away what has not been read.
    os.truncate(path_of(case, build, "memfile"), 65536)
    client.stop()
    thaw.expect_exit(0)


def refused(case, build, *words):
    """Resume must fail at once, and say each of @words."""
    for verb in (["resume", build, "--store", case.store, "--vmm", "none", "--json"],
                 ["inspect", build, "--store", case.store]):
        p = case.thaw(*verb, status=1)
        for word in words:
            check_in(word, p.stderr(), f"what thaw {verb[0]} says")
        check_equal(p.stdout(), "", f"output of a failing thaw {verb[0]}")


def header_cut_at_any_length(case):
    build = case.create(case.image("memory", "1M"))
    path = path_of(case, build, "memfile.header")
    with open(path, "rb") as f:
        whole = f.read()
    for length in (0, 1, 63, 64, 65, len(whole) // 2, len(whole) - 1):
        with open(path, "wb") as f:
            f.write(whole[:length])
        refused(case, build, "memfile.header", f"{length} bytes stored")
    with open(path, "wb") as f:
        f.write(whole)
    flip_byte(path, 70)
    refused(case, build, "memfile.header", "SHA-256")


def header_that_lies(case):
    """Damage that every checksum covers up for: the map must still fit the object."""
    image = case.image("memory", "1M", "random")
    build = case.create(image)
    manifest_path = path_of(case, build, "manifest.json")
    with open(manifest_path, encoding="utf-8") as f:
        manifest = json.load(f)
    for o in manifest["objects"]:
        if o["name"] == "memfile":
            o["size"] = o["uncompressed_size"] = 4096
    with open(manifest_path, "w", encoding="utf-8") as f:
        json.dump(manifest, f)
    p = case.thaw("resume", build, "--store", case.store, "--vmm", "none", status=1)
    check_in("4096", p.stderr(), "what thaw says")


def no_manifest_no_build(case):
    build = case.create(case.image("memory", "1M"))
    path = path_of(case, build, "manifest.json")
    shutil.copy(path, path + ".kept")
    os.unlink(path)
    refused(case, build, "no build " + build)
    for text in ("", "{", "[]", "null", '{"format":1}', "\0" * 100):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        refused(case, build, "manifest.json")


def another_builds_manifest(case):
    build = case.create(case.image("memory", "1M"))
    other = case.create(case.image("other", "1M", seed=2))
    shutil.copy(path_of(case, build, "manifest.json"), path_of(case, other, "manifest.json"))
    refused(case, other, "is of build " + build)


def bad_command_lines(case):
    build = case.create(case.image("memory", "1M"))
    for args, status, word in (
            (["resume", "nonsense", "--store", case.store], 1, "not a build id"),
            (["resume", build], 2, "--store"),
            (["resume", "--store", case.store], 2, "which build"),
            (["resume", build, "--store", "/nowhere"], 1, "/nowhere"),
            (["resume", build, "--store", "s3://bucket"], 1, "s3://bucket"),
            (["resume", build, "--store", case.store, "--vmm", "bochs"], 1, "bochs"),
            (["resume", build, "--store", case.store, "--vmm", "qemu"], 1, "qemu"),
            (["resume", build, "--store", case.store, "--run-dir", "/nowhere"], 1, "/nowhere"),
            (["resume", build, "--store", case.store, "--frobnicate"], 2, "--frobnicate"),
            (["frobnicate"], 2, "frobnicate"),
            ([], 2, "usage"),
            (["create", "--store", case.store], 2, "--memory"),
            (["create", "--memory", "/nowhere", "--store", case.store], 1, "/nowhere"),
            (["create", "--memory", case.dir, "--store", case.store], 1, "neither a file"),
            (["create", "--memory", case.path("memory"), "--store"], 2, "--store"),
            (["create", "--memory", case.path("memory"), "--store", case.store, "--vmm", "x"], 1,
             "'x'")):
        p = case.thaw(*args, status=status)
        check_in(word, p.stderr(), f"complaint about {args}")


def files_that_are_none(case):
    """A FIFO nobody writes to must not be waited for."""
    os.mkfifo(case.path("fifo"))
    memory = case.image("memory", "1M")
    p = case.thaw("create", "--memory", memory, "--snapfile", case.path("fifo"), "--store",
                  case.store, status=1, deadline=10)
    check_in("fifo", p.stderr(), "complaint about a FIFO")
    p = case.thaw("bench", "fault", status=1, env={"TMPDIR": "/tmp/" + "x" * 100})
    check_in("TMPDIR is too long", p.stderr(), "complaint about a long TMPDIR")


def odd_images(case):
    for size in (0, 1, 4095, 4097):
        path = case.path(f"odd-{size}")
        with open(path, "wb") as f:
            f.write(b"x" * size)
        p = case.thaw("create", "--memory", path, "--store", case.store, status=1)
        check_in("multiple of 4096", p.stderr(), f"complaint about {size} bytes")
    check(not os.listdir(case.store) or
          all("manifest.json" not in os.listdir(os.path.join(case.store, d))
              for d in os.listdir(case.store)), "a build was made of an odd image")


GROUPS = {
    "damage": (flipped_byte_of_data, a_vm_that_lacks_a_page_runs_on, flipped_byte_of_sums,
               missing_data, data_cut_short, missing_ancestor, data_vanishes_under_way),
    "bad-input": (header_cut_at_any_length, header_that_lies, no_manifest_no_build,
                  another_builds_manifest, bad_command_lines, files_that_are_none, odd_images),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])
