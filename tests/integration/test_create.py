#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds made of raw files: what lies in the store, what comes back, what is refused and how."""

import errno
import filecmp
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import PAGE, flip_byte, make_image
from thawtest import check, check_equal, check_in, main, skip

MIB = 1 << 20
E2B_OBJECTS = ["memfile", "memfile.header", "metadata.json", "rootfs.ext4", "rootfs.ext4.header",
               "snapfile"]


# ---- what lies in a store, read as the format's description says ----

def objects(case, build):
    return sorted(os.listdir(os.path.join(case.store, build)))


def manifest(case, build):
    with open(os.path.join(case.store, build, "manifest.json"), encoding="utf-8") as f:
        return json.load(f)


def stored(case, build, name="memfile"):
    """Bytes that the build itself has of an image, by its manifest and as they are."""
    size = next(o["size"] for o in manifest(case, build)["objects"] if o["name"] == name)
    check_equal(os.path.getsize(os.path.join(case.store, build, name)), size, f"size of {name}")
    return size


def parse_v3(data):
    """A header as its readers see it: the fields, and (offset, length, build, storage) each."""
    version, block, size, generation = struct.unpack_from("<4Q", data)
    build, base = (str(uuid.UUID(bytes=data[at:at + 16])) for at in (32, 48))
    check_equal(version, 3, "version of the header")
    check_equal((len(data) - 64) % 40, 0, "bytes behind the last mapping")
    mappings, expect = [], 0
    for at in range(64, len(data), 40):
        offset, length = struct.unpack_from("<2Q", data, at)
        of = uuid.UUID(bytes=data[at + 16:at + 32])
        storage, = struct.unpack_from("<Q", data, at + 32)
        check_equal(offset, expect, "offset of a mapping")
        check(length > 0 and length % PAGE == 0, f"a mapping of {length} bytes")
        mappings.append((offset, length, None if of.int == 0 else str(of), storage))
        expect += length
    check_equal(expect, size, "end of the last mapping")
    return {"block": block, "size": size, "generation": generation, "build": build, "base": base,
            "mappings": mappings}


def read_as_e2b(case, build, name):
    """The header of an image and its bytes, resolved over the objects of all builds."""
    with open(os.path.join(case.store, build, name + ".header"), "rb") as f:
        header = parse_v3(f.read())
    image = bytearray(header["size"])
    for offset, length, of, storage in header["mappings"]:
        if of is None:
            continue
        with open(os.path.join(case.store, of, name), "rb") as f:
            f.seek(storage)
            data = f.read(length)
        check_equal(len(data), length, "bytes of a mapping")
        image[offset:offset + length] = data
    return header, bytes(image)


def content(path):
    with open(path, "rb") as f:
        return f.read()


def create(case, *args, **kwargs):
    os.makedirs(case.store, exist_ok=True)
    lines = case.thaw("create", "--store", case.store, *args, **kwargs).stdout().splitlines()
    check_equal(len(lines), 1, f"lines that thaw create printed ({lines})")
    return str(uuid.UUID(lines[0]))


def check_export(case, build, **images):
    """thaw export brings every image back, byte by byte."""
    folder = case.path("export-" + build)
    case.thaw("export", build, folder, "--store", case.store)
    for name, path in images.items():
        name = {"memory": "memfile", "rootfs": "rootfs.ext4"}.get(name, name)
        check(filecmp.cmp(os.path.join(folder, name), path, shallow=False),
              f"{name} of {build} came back with other bytes")
    shutil.rmtree(folder)


# ---- images ----

def change(path, rng, times=8):
    """Overwrite stretches of a file by noise, text, zeros or a hole; flip single bytes."""
    pages = os.path.getsize(path) // PAGE
    with open(path, "r+b") as f:
        for _ in range(times):
            first = rng.randrange(pages)
            n = min(rng.randint(1, 40), pages - first) * PAGE
            kind = rng.choice(("noise", "text", "zeros", "hole", "byte"))
            f.seek(first * PAGE)
            if kind == "byte":
                f.seek(first * PAGE + rng.randrange(PAGE))
                f.write(bytes([rng.randrange(256)]))
            elif kind == "hole":
                f.flush()
                subprocess.run(["fallocate", "-p", "-o", str(first * PAGE), "-l", str(n), path],
                               check=True)
            else:
                f.write({"noise": rng.randbytes(n), "text": (b"words " * n)[:n],
                         "zeros": bytes(n)}[kind])


# ---- cases: layout ----

def layout_of_v3(case):
    """A V3 build and its child, read by a reader that knows only E2B's part of the format."""
    rng = random.Random(3)
    memory, rootfs = case.image("memory", "6M"), case.image("rootfs", "2M", seed=2)
    state = case.image("state", 12345, "random")
    args = ("--memory", memory, "--rootfs", rootfs, "--snapfile", state, "--header", "v3",
            "--vmm", "firecracker", "--vmm-version", "1.12.0")
    builds = [create(case, *args)]
    for generation in range(3):
        if generation > 0:
            change(memory, rng)
            change(rootfs, rng)
            builds.append(create(case, *args, "--base", builds[-1]))
        for name, path in (("memfile", memory), ("rootfs.ext4", rootfs)):
            header, image = read_as_e2b(case, builds[-1], name)
            check(image == content(path), f"{name} of generation {generation} differs")
            check_equal(header["build"], builds[-1], "build id in the header")
            check_equal(header["base"], builds[0], "base id in the header")
            check_equal(header["generation"], generation, "generation in the header")
            check_equal(header["block"], PAGE, "block size in the header")
            check_export(case, builds[-1], memory=memory, rootfs=rootfs, snapfile=state)
    for build in builds:
        check_equal(objects(case, build),
                    sorted(E2B_OBJECTS + ["manifest.json", "memfile.sums", "rootfs.ext4.sums"]),
                    "objects of the build")
        with open(os.path.join(case.store, build, "metadata.json"), encoding="utf-8") as f:
            metadata = json.load(f)
        check_equal(metadata["version"], 2, "version of metadata.json")
        check_equal(metadata["template"]["build_id"], build, "build id in metadata.json")
        check_equal(metadata["template"]["firecracker_version"], "1.12.0", "version of the VMM")
        check_equal(content(os.path.join(case.store, build, "snapfile")), content(state),
                    "the snapfile")


def golden_v3(case):
    """Five pages, one of them zeros: the header to the last byte."""
    rng = random.Random(5)
    path = case.path("memory")
    pages = [rng.randbytes(PAGE), bytes(PAGE), rng.randbytes(PAGE), rng.randbytes(PAGE)]
    with open(path, "wb") as f:
        f.write(b"".join(pages))
    base = create(case, "--memory", path, "--header", "v3")
    b = uuid.UUID(base).bytes
    check_equal(content(os.path.join(case.store, base, "memfile")),
                pages[0] + pages[2] + pages[3], "packed data")
    check_equal(content(os.path.join(case.store, base, "memfile.header")),
                struct.pack("<4Q", 3, PAGE, 4 * PAGE, 0) + b + b +
                struct.pack("<2Q16sQ", 0, PAGE, b, 0) +
                struct.pack("<2Q16sQ", PAGE, PAGE, bytes(16), 0) +
                struct.pack("<2Q16sQ", 2 * PAGE, 2 * PAGE, b, PAGE), "header of the base")
    pages[1], pages[2] = rng.randbytes(PAGE), bytes(PAGE)
    with open(path, "wb") as f:
        f.write(b"".join(pages))
    child = create(case, "--memory", path, "--header", "v3", "--base", base)
    c = uuid.UUID(child).bytes
    check_equal(content(os.path.join(case.store, child, "memfile")), pages[1], "packed data")
    check_equal(content(os.path.join(case.store, child, "memfile.header")),
                struct.pack("<4Q", 3, PAGE, 4 * PAGE, 1) + c + b +
                struct.pack("<2Q16sQ", 0, PAGE, b, 0) +
                struct.pack("<2Q16sQ", PAGE, PAGE, c, 0) +
                struct.pack("<2Q16sQ", 2 * PAGE, PAGE, bytes(16), 0) +
                struct.pack("<2Q16sQ", 3 * PAGE, PAGE, b, 2 * PAGE), "header of the child")
    check_equal(manifest(case, child)["parent"], base, "parent in the manifest")


# ---- cases: layers ----

def eight_generations(case):
    rng = random.Random(8)
    memory, rootfs = case.image("memory", "8M"), case.image("rootfs", "4M", seed=2)
    build = create(case, "--memory", memory, "--rootfs", rootfs)
    check_export(case, build, memory=memory, rootfs=rootfs)
    for _ in range(8):
        change(memory, rng)
        os.truncate(rootfs, rng.randrange(256, 1500) * PAGE)
        change(rootfs, rng)
        build = create(case, "--memory", memory, "--rootfs", rootfs, "--base", build)
        check(stored(case, build) <= 8 * 40 * PAGE, "more was stored than has changed")
        check_export(case, build, memory=memory, rootfs=rootfs)


def only_what_changed(case):
    memory = case.image("memory", "8M", "random")
    base = create(case, "--memory", memory)
    check_equal(stored(case, base), 8 * MIB, "bytes stored")
    check_equal(stored(case, create(case, "--memory", memory, "--base", base)), 0, "bytes stored")
    flip_byte(memory, 3 * MIB + 17)
    one = create(case, "--memory", memory, "--base", base)
    check_equal(stored(case, one), PAGE, "bytes stored")
    check_export(case, one, memory=memory)
    with open(memory, "r+b") as f:
        f.write(bytes(8 * MIB))
    zeros = create(case, "--memory", memory, "--base", one)
    check_equal(stored(case, zeros), 0, "bytes stored")
    check_export(case, zeros, memory=memory)


def blocks_of_2m(case):
    memory = case.image("memory", "8M", "holes")
    with open(memory, "r+b") as f:
        f.seek(2 * MIB + 5)
        f.write(b"x")
    base = create(case, "--memory", memory, "--block-size", "2M", "--header", "v3")
    header, image = read_as_e2b(case, base, "memfile")
    check_equal(header["block"], 2 * MIB, "block size")
    check_equal([m[:2] for m in header["mappings"]],
                [(0, 2 * MIB), (2 * MIB, 2 * MIB), (4 * MIB, 4 * MIB)], "mappings")
    check(image == content(memory), "the image differs")
    flip_byte(memory, 7 * MIB)
    child = create(case, "--memory", memory, "--base", base)
    check_equal(stored(case, child), 2 * MIB, "bytes stored")
    check_export(case, child, memory=memory)


def any_subset(case):
    memory, rootfs = case.image("memory", "1M"), case.image("rootfs", "2M", seed=2)
    disk = create(case, "--rootfs", rootfs)
    check("memfile" not in objects(case, disk), "a memfile came from nowhere")
    check_export(case, disk, rootfs=rootfs)
    both = create(case, "--memory", memory, "--rootfs", rootfs, "--base", disk)
    check_equal(stored(case, both, "rootfs.ext4"), 0, "bytes stored of a disk that is the base's")
    check(stored(case, both) > 0, "memory that the base does not have was not stored")
    check_export(case, both, memory=memory, rootfs=rootfs)


def holes_are_not_read(case):
    """A TiB of nothing would take minutes to read, and is done well before the deadline."""
    memory = case.path("memory")
    with open(memory, "wb") as f:
        f.truncate(1 << 40)
        for at in (0, 1 << 39, (1 << 40) - PAGE):
            f.seek(at)
            f.write(b"\1" * PAGE)
    base = create(case, "--memory", memory)
    check_equal(stored(case, base), 3 * PAGE, "bytes stored")
    flip_byte(memory, 1 << 39)
    check_equal(stored(case, create(case, "--memory", memory, "--base", base)), PAGE,
                "bytes stored")


def over_a_build_of_e2b(case):
    """A build that has neither manifest nor sums can be a base."""
    memory, rootfs = case.image("memory", "4M"), case.image("rootfs", "2M", seed=2)
    state = case.image("state", 1000, "random")
    base = create(case, "--memory", memory, "--rootfs", rootfs, "--snapfile", state,
                  "--header", "v3")
    for name in objects(case, base):
        if name not in E2B_OBJECTS:
            os.unlink(os.path.join(case.store, base, name))
    check_equal(objects(case, base), E2B_OBJECTS, "what is left of the base")
    flip_byte(memory, 0)
    child = create(case, "--memory", memory, "--rootfs", rootfs, "--base", base)
    check_equal(stored(case, child), PAGE, "bytes stored")
    check_export(case, child, memory=memory, rootfs=rootfs)


# ---- cases: failures ----

def nothing_left(case, before, store=None):
    check_equal(sorted(os.listdir(store or case.store)), before, "what is in the store")


def refused(case, *args, words=(), store=None):
    """Create fails with status 1, says @words, prints no id, and leaves nothing in the store."""
    store = store or case.store
    before = sorted(os.listdir(store))
    p = case.thaw("create", "--store", store, *args, status=1)
    for word in words:
        check_in(word, p.stderr(), "what thaw create says")
    check_equal(p.stdout(), "", "output of a create that failed")
    nothing_left(case, before, store)


def odd_sizes(case):
    os.makedirs(case.store)
    for size in (0, 1, 511, 4095, 4097):
        path = case.path(f"odd-{size}")
        with open(path, "wb") as f:
            f.write(b"x" * size)
        refused(case, "--memory", path, words=(f"{size} bytes", "multiple of 4096"))
        refused(case, "--rootfs", path, words=(f"{size} bytes", "multiple of 4096"))
    memory = case.image("memory", "3M")
    refused(case, "--memory", memory, "--block-size", "2M", words=("multiple of 2097152",))


def bad_bases(case):
    memory = case.image("memory", "4M", "random")
    base = create(case, "--memory", memory)
    missing = str(uuid.uuid4())
    refused(case, "--memory", memory, "--base", missing, words=("the base", missing))
    refused(case, "--memory", memory, "--base", "nonsense", words=("nonsense", "not a build id"))
    refused(case, "--memory", case.image("other", "8M"), "--base", base, words=("resized",))
    refused(case, "--memory", memory, "--base", base, "--block-size", "2M", words=("4096",))
    data = os.path.join(case.store, base, "memfile")
    flip_byte(data, 7 * 65536)
    refused(case, "--memory", memory, "--base", base, words=("damaged", "granule 7", base))
    flip_byte(data, 7 * 65536)
    os.truncate(data, 65536)
    refused(case, "--memory", memory, "--base", base, words=("damaged", base))
    os.unlink(data)
    refused(case, "--memory", memory, "--base", base, words=("memfile", base))


def unreadable_files(case):
    os.makedirs(case.store)
    memory = case.image("memory", "1M")
    refused(case, "--memory", case.path("absent"), words=("absent", "No such file"))
    refused(case, "--memory", case.dir, words=("neither a file nor a block device",))
    refused(case, "--memory", "/proc/self/mem", words=("/proc/self/mem",))
    refused(case, "--memory", memory, "--rootfs", case.path("absent"), words=("absent",))
    refused(case, "--memory", memory, "--snapfile", case.path("absent"), words=("absent",))
    refused(case, "--memory", memory, "--codec", "zstd", words=("zstd", "none"))
    big = case.path("big")
    with open(big, "wb") as f:
        f.truncate((1 << 30) + 1)
    refused(case, "--memory", memory, "--snapfile", big, words=("larger than",))


def mount(case, name, options):
    """A small file system of one's own, gone at the end of the case."""
    path = case.path(name)
    os.mkdir(path)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "thaw-test", path],
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        skip(f"mounting a tmpfs takes root: {done.stderr.strip()}")
    case.on_end(subprocess.run, ["umount", path])
    return path


def disk_full(case):
    """With no room for the data, and with room for all but what comes after the data."""
    memory = case.image("memory", "8M", "random")
    for size in ("1M", "5M", f"{8 * MIB // 1024}k"):
        store = mount(case, f"full-{size}", f"size={size}")
        refused(case, "--memory", memory, store=store, words=("no space is left", "memfile"))


def store_read_only(case):
    memory = case.image("memory", "1M")
    store = mount(case, "read-only", "size=4M")
    subprocess.run(["mount", "-o", "remount,ro", store], check=True)
    refused(case, "--memory", memory, store=store, words=("Read-only file system",))


def store_without_permission(case):
    memory = case.image("memory", "1M")
    store = case.path("forbidden")
    os.mkdir(store, 0o555)
    if os.access(store, os.W_OK):
        # Root may write anywhere: become somebody who may not.
        os.chmod(case.dir, 0o755)
        os.chmod(memory, 0o644)
        thaw = shutil.which("setpriv")
        if not thaw:
            skip("setpriv is not here, and root may write anywhere")
        p = case.run(thaw, "--reuid=65534", "--regid=65534", "--clear-groups",
                     os.environ["THAW"], "create", "--memory", memory, "--store", store, status=1)
        check_in(os.strerror(errno.EACCES), p.stderr(), "what thaw create says")
        check_in(store, p.stderr(), "what thaw create says")
        nothing_left(case, [], store)
    else:
        refused(case, "--memory", memory, store=store, words=(store, "Permission denied"))


def bad_usage(case):
    memory = case.image("memory", "1M")
    for args, word in ((["--block-size", "8K"], "--block-size"), (["--header", "v5"], "--header"),
                       (["--block-size", "x"], "--block-size")):
        p = case.thaw("create", "--memory", memory, "--store", case.store, *args, status=2)
        check_in(word, p.stderr(), f"complaint about {args}")
    p = case.thaw("create", "--snapfile", memory, "--store", case.store, status=2)
    check_in("--rootfs", p.stderr(), "complaint about a build without images")


def quiet_and_json(case):
    """Nothing on stderr when it is no terminal, however long it takes; one line on stdout."""
    memory = make_image(case.path("memory"), 64 * MIB, "random")
    os.makedirs(case.store)
    p = case.thaw("create", "--memory", memory, "--store", case.store, "--json")
    check_equal(p.stderr(), "", "what thaw create says on success")
    info = json.loads(p.stdout())
    check_equal(info["store"], case.store, "store in the JSON")
    check_equal(objects(case, info["build"])[0], "manifest.json", "first object")


GROUPS = {
    "create-layout": (layout_of_v3, golden_v3),
    "create-layers": (eight_generations, only_what_changed, blocks_of_2m, any_subset,
                      holes_are_not_read, over_a_build_of_e2b),
    "create-failures": (odd_sizes, bad_bases, unreadable_files, disk_full, store_read_only,
                        store_without_permission, bad_usage, quiet_and_json),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])
