#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds looked at, checked byte by byte, and written back as files; thaw's and E2B's."""

import hashlib
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from e2b_build import MEMORY, PAGE, ROOTFS, make_header, write_build
from make_image import flip_byte
from thawtest import check, check_equal, check_in, main

GRANULE = 65536


# ---- helpers ----

def path_of(case, build, name):
    return os.path.join(case.store, str(build), name)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def changed(case, image, name, seed=1, runs=6):
    """A copy of @image with some pages written, some zeroed."""
    rng = random.Random(seed)
    data = bytearray(read(image))
    for i in range(runs):
        pages = rng.randint(1, 40)
        at = rng.randrange(0, len(data) - pages * PAGE, PAGE)
        data[at:at + pages * PAGE] = bytes(pages * PAGE) if i % 3 == 2 else \
            rng.randbytes(pages * PAGE)
    return write(case.path(name), data)


def inspect(case, build, *args, status=0):
    return json.loads(case.thaw("inspect", build, "--store", case.store, "--json", *args,
                                status=status).stdout())


def verdicts(case, build, *args, status=0):
    """(build, object): (verdict, reason) of `inspect --validate`."""
    found = inspect(case, build, "--validate", *args, status=status)["validation"]
    check_equal(len([o for o in found["objects"] if o["verdict"] == "bad"]), found["bad_count"],
                "bad_count")
    return {(o["build"], o["object"]): (o["verdict"], o["reason"]) for o in found["objects"]}


def only_bad(case, build, name, *words, args=(), of=None):
    """Exactly one object is bad, and the reason has each of @words. All others are looked at."""
    found = verdicts(case, build, *args, status=1)
    bad = {k: v for k, v in found.items() if v[0] == "bad"}
    check_equal(list(bad), [(of or build, name)], f"bad objects ({bad})")
    for word in words:
        check_in(word, bad[(of or build, name)][1], "reason")
    return found


def export(case, build, name="out", status=0):
    """(program, folder) of `thaw export`."""
    folder = case.path(name)
    return case.thaw("export", build, folder, "--store", case.store, "--json",
                     status=status), folder


def check_export(case, build, **files):
    """What is exported is, byte for byte, what the build was made of."""
    name = "out-" + uuid.uuid4().hex[:8]
    p, folder = export(case, build, name)
    for f, path in files.items():
        check(read(os.path.join(folder, f)) == read(path), f"{f} of build {build} differs")
    check_equal([n for n in os.listdir(folder) if n.startswith(".")], [], "temporary files left")
    return json.loads(p.stdout())


def refuses_export(case, build, *words):
    """A failing export says why and leaves nothing, not even the folder."""
    p, folder = export(case, build, "refused", status=1)
    for word in words:
        check_in(word, p.stderr(), "what thaw export says")
    check(not os.path.exists(folder), f"{folder} is left")


def chain(case):
    """A parent and a child of it, with memory, disk and snapfile: images and ids."""
    memory, rootfs = case.image("memory", "8M"), case.image("rootfs", "4M", seed=5)
    snapfile = write(case.path("snapfile"), random.Random(9).randbytes(5000))
    memory2, rootfs2 = changed(case, memory, "memory2"), changed(case, rootfs, "rootfs2", seed=2)
    parent = case.create(memory, snapfile, args=("--rootfs", rootfs))
    child = case.create(memory2, snapfile, args=("--rootfs", rootfs2, "--base", parent))
    return {"parent": parent, "child": child, "memory": memory, "rootfs": rootfs,
            "memory2": memory2, "rootfs2": rootfs2, "snapfile": snapfile}


# ---- inspect ----

def tells_where_bytes_come_from(case):
    b = chain(case)
    info = inspect(case, b["child"], "--mappings")
    check_equal((info["build"], info["parent"], info["unverified"]),
                (b["child"], b["parent"], False), "identity")
    old, new = read(b["memory"]), read(b["memory2"])
    pages = range(0, len(new), PAGE)
    expected = {
        "zero": sum(PAGE for i in pages if not any(new[i:i + PAGE])),
        "stored": sum(PAGE for i in pages if any(new[i:i + PAGE]) and
                      new[i:i + PAGE] != old[i:i + PAGE]),
        "inherited": sum(PAGE for i in pages if any(new[i:i + PAGE]) and
                         new[i:i + PAGE] == old[i:i + PAGE]),
    }
    memory = info["memory"]
    check_equal({k: memory[k] for k in expected}, expected, "bytes of memory")
    layers = {layer["build"]: layer for layer in memory["builds"]}
    check_equal({k: v["bytes"] for k, v in layers.items()},
                {b["child"]: expected["stored"], b["parent"]: expected["inherited"]}, "layers")
    check_equal(memory["builds"][0]["build"], b["child"], "first layer")
    check_equal(len(memory["mappings"]), memory["mapping_count"], "mappings")
    check_equal(sum(m["length"] for m in memory["mappings"]), len(new), "length of all mappings")
    check_equal(sum(layer["mapping_count"] for layer in memory["builds"]) +
                sum(m["build"] is None for m in memory["mappings"]), memory["mapping_count"],
                "mappings of layers and of zeros")
    for o in info["objects"]:
        check_equal(hashlib.sha256(read(path_of(case, b["child"], o["name"]))).hexdigest(),
                    o["sha256"], f"sha256 of {o['name']}")
    check_equal(info["rootfs"]["size"], 4 << 20, "size of the disk")
    text = case.thaw("inspect", b["child"], "--store", case.store).stdout()
    for word in ("BUILD " + b["child"], "MEMORY", "ROOTFS", "OBJECTS", "(this build)",
                 b["parent"], "memfile.sums"):
        check_in(word, text, "text")


def shows_a_disk_alone(case):
    rootfs = case.image("rootfs", "4M")
    p = case.thaw("create", "--rootfs", rootfs, "--store", case.store)
    build = p.stdout().strip()
    info = inspect(case, build, "--validate")
    check_equal(info["memory"], None, "memory")
    check_equal(info["rootfs"]["size"], 4 << 20, "size of the disk")
    check_equal(info["validation"]["bad_count"], 0, "bad objects")
    result = check_export(case, build, **{ROOTFS: rootfs})
    check_equal([f["name"] for f in result["files"]], [ROOTFS, "metadata.json"], "files")


def says_how_a_vmm_was_started(case):
    build = case.create(case.image("memory", "1M"),
                        args=("--vmm", "qemu", "--vmm-version", "7.2\x1b[31m", "--vmm-arg=-m"))
    text = case.thaw("inspect", build, "--store", case.store).stdout()
    check_in("qemu 7.2?[31m", text, "text: no byte of it moves the terminal")
    check_in("arguments", text, "text")
    check_equal(inspect(case, build)["vmm"],
                {"kind": "qemu", "version": "7.2\x1b[31m", "args": ["-m"]}, "vmm")


def bad_usage(case):
    build = case.create(case.image("memory", "1M"))
    for args, status, word in (
            (["inspect", build], 2, "--store"),
            (["inspect", build, "--store", case.store, "--recursive"], 2, "--validate"),
            (["inspect", str(uuid.uuid4()), "--store", case.store, "--validate"], 1, "no build"),
            (["inspect", "x", "--store", case.store, "--validate"], 1, "not a build id"),
            (["export", "--store", case.store], 2, "where to"),
            (["export", build, "--store", case.store], 2, "where to"),
            (["export", build, case.dir, case.dir, "--store", case.store], 2, "one folder"),
            (["export", build, case.dir], 2, "--store"),
            (["export", "x", case.path("o"), "--store", case.store], 1, "not a build id"),
            (["export", build, case.path("no", "such"), "--store", case.store], 1, "no/such"),
            (["export", build, build, "--store", "/nowhere"], 1, "/nowhere")):
        p = case.thaw(*args, status=status)
        check_in(word, p.stderr(), f"complaint about {args}")
        check_equal(p.stdout(), "", f"output of {args}")


# ---- validate ----

def sound_builds_are_ok(case):
    b = chain(case)
    found = verdicts(case, b["child"])
    check_equal({k[0] for k in found}, {b["child"]}, "builds without --recursive")
    check_equal({v for v in found.values()}, {("ok", None)}, "verdicts")
    names = {o["name"] for o in json.loads(read(path_of(case, b["child"], "manifest.json")))
             ["objects"]} | {"manifest.json"}
    check_equal({k[1] for k in found}, names, "objects that were looked at")
    found = verdicts(case, b["child"], "--recursive")
    check_equal({k[0] for k in found}, {b["child"], b["parent"]}, "builds with --recursive")
    check_equal({v for v in found.values()}, {("ok", None)}, "verdicts")


def every_object_is_read(case):
    """One byte changed anywhere is found, and it alone."""
    build = case.create(case.image("memory", "4M", "random"),
                        write(case.path("snapfile"), b"x" * 70000),
                        args=("--rootfs", case.image("rootfs", "2M", "random")))
    at_byte = {
        "memfile": (0, 17 * GRANULE + 3, (4 << 20) - 1),
        "rootfs.ext4": (5 * GRANULE,),
        "snapfile": (0, 69999),
        "metadata.json": (1,),
        "memfile.header": (0, 60, 90),
        "rootfs.ext4.header": (40,),
        "memfile.sums": (0, 100, 4095),
    }
    for name, offsets in at_byte.items():
        for offset in offsets:
            path = path_of(case, build, name)
            flip_byte(path, offset)
            word = "SHA-256"
            if name in ("memfile", "rootfs.ext4"):
                word = f"granule {offset // GRANULE}, at byte {offset // GRANULE * GRANULE}"
            elif name == "memfile.sums":
                word = "page 0"
            only_bad(case, build, name, word)
            flip_byte(path, offset)
    check_equal({v for v in verdicts(case, build).values()}, {("ok", None)}, "verdicts at the end")


def several_bad_objects(case):
    """None hides another; a damaged header does not keep the data from being checked."""
    build = case.create(case.image("memory", "4M", "random"), case.image("snapfile", "1M"))
    flip_byte(path_of(case, build, "memfile.header"), 70)
    for granule in (3, 9, 60):
        flip_byte(path_of(case, build, "memfile"), granule * GRANULE)
    os.unlink(path_of(case, build, "snapfile"))
    found = verdicts(case, build, status=1)
    check_in("granule 3", found[(build, "memfile")][1], "reason")
    check_in("3 of them", found[(build, "memfile")][1], "reason")
    check_in("missing", found[(build, "snapfile")][1], "reason")
    check_equal(found[(build, "memfile.header")][0], "bad", "verdict on the header")
    check_equal(found[(build, "metadata.json")][0], "ok", "verdict on the metadata")
    text = case.thaw("inspect", build, "--store", case.store, "--validate", status=1).stdout()
    check_in("BAD: granule 3", text, "text")


def wrong_sizes(case):
    build = case.create(case.image("memory", "4M", "random"))
    size = os.path.getsize(path_of(case, build, "memfile"))
    os.truncate(path_of(case, build, "memfile"), size - 1)
    only_bad(case, build, "memfile", f"{size - 1} bytes stored", f"{size} by the manifest")
    os.truncate(path_of(case, build, "memfile.sums"), 100)
    found = verdicts(case, build, status=1)
    check_in("100 bytes stored", found[(build, "memfile.sums")][1], "reason")


def sums_that_lie(case):
    """Sums with the right checksums, of other bytes: the data's SHA-256 tells who is right."""
    build = case.create(case.image("memory", "1M", "random"))
    other = case.create(case.image("other", "1M", "random", seed=2))
    shutil.copy(path_of(case, other, "memfile.sums"), path_of(case, build, "memfile.sums"))
    only_bad(case, build, "memfile.sums", "SHA-256")
    refuses_export(case, build, "memfile.sums", "SHA-256")
    manifests = [json.loads(read(path_of(case, b, "manifest.json"))) for b in (build, other)]
    theirs = [o for o in manifests[1]["objects"] if o["name"] == "memfile.sums"]
    mine = [o for o in manifests[0]["objects"] if o["name"] != "memfile.sums"]
    write(path_of(case, build, "manifest.json"),
          json.dumps({**manifests[0], "objects": mine + theirs}).encode())
    only_bad(case, build, "memfile", "granule 0", "the sums are bad")
    refuses_export(case, build, "granule 0", "memfile")


def ancestors_are_checked(case):
    b = chain(case)
    flip_byte(path_of(case, b["parent"], "memfile"), 2 * GRANULE)
    check_equal({v[0] for v in verdicts(case, b["child"]).values()}, {"ok"}, "the child's verdicts")
    only_bad(case, b["child"], "memfile", "granule 2", args=("--recursive",), of=b["parent"])
    os.unlink(path_of(case, b["parent"], "memfile.header"))
    found = verdicts(case, b["child"], "--recursive", status=1)
    check_in("memfile.header", found[(b["parent"], "memfile.header")][1], "reason")
    os.unlink(path_of(case, b["parent"], "manifest.json"))
    found = verdicts(case, b["child"], "--recursive", status=1)
    for name in ("memfile.header", "rootfs.ext4.header"):
        check_in(b["parent"], found[(b["child"], name)][1], "reason")
    check_equal(found[(b["parent"], "manifest.json")][0], "bad", "verdict on the parent's manifest")
    check_equal(found[(b["child"], "memfile")][0], "ok", "verdict on the child's data")


def circles_end(case):
    """Parents that name each other are each looked at once; one that is gone is not missed."""
    image = case.image("memory", "1M", "random")
    builds = [case.create(image) for _ in range(3)]
    for build, parent in zip(builds, builds[1:] + builds[:1]):
        manifest = json.loads(read(path_of(case, build, "manifest.json")))
        write(path_of(case, build, "manifest.json"),
              json.dumps({**manifest, "parent": parent}).encode())
    found = verdicts(case, builds[1], "--recursive")
    check_equal({k[0] for k in found}, set(builds), "builds")
    check_equal(len(found), 3 * 5, "verdicts")
    shutil.rmtree(os.path.join(case.store, builds[0]))
    found = verdicts(case, builds[1], "--recursive")
    check_equal({k[0] for k in found}, set(builds[1:]), "builds: nothing maps the one that is gone")


# ---- export ----

def round_trip(case):
    b = chain(case)
    for which, memory, rootfs in (("parent", "memory", "rootfs"), ("child", "memory2", "rootfs2")):
        result = check_export(case, b[which], memfile=b[memory], snapfile=b["snapfile"],
                              **{ROOTFS: b[rootfs],
                                 "metadata.json": path_of(case, b[which], "metadata.json")})
        check_equal(result["unverified_bytes"], 0, "unverified bytes")
        check_equal([f["name"] for f in result["files"]],
                    [MEMORY, ROOTFS, "snapfile", "metadata.json"], "files")


def many_layers(case):
    """Twelve layers of scattered pages: each byte from where it was last written."""
    image = case.image("memory", "8M")
    build = case.create(image)
    for i in range(11):
        image = changed(case, image, f"memory-{i}", seed=i, runs=30)
        build = case.create(image, args=("--base", build))
    check_export(case, build, memfile=image)
    memory = inspect(case, build)["memory"]
    check(memory["mapping_count"] > 100, "the map is not scattered")
    ancestors = [layer["bytes"] for layer in memory["builds"][1:]]
    check_equal(memory["builds"][0]["build"], build, "first layer")
    check_equal(ancestors, sorted(ancestors, reverse=True), "bytes of the other layers")


def pages_of_zeros_become_holes(case):
    """Also those that are stored: a 2 MiB block is stored whole for one page that is not zero."""
    data = bytearray(8 << 20)
    data[PAGE * 700:PAGE * 701] = b"x" * PAGE
    image = write(case.path("memory"), data)
    build = case.create(image, args=("--block-size", "2M"))
    check_equal(inspect(case, build)["memory"]["stored"], 2 << 20, "bytes stored")
    p, folder = export(case, build)
    check(read(os.path.join(folder, MEMORY)) == data, "memfile differs")
    used = os.stat(os.path.join(folder, MEMORY)).st_blocks * 512
    check(used <= 16 * PAGE, f"{used} bytes allocated for one page")
    check_equal(json.loads(p.stdout())["files"][0]["written_bytes"], PAGE, "bytes written")


def odd_sizes(case):
    for pages in (1, 15, 16, 17, 255, 256, 257, 2049):
        image = case.image(f"memory-{pages}", pages * PAGE, "random")
        check_export(case, case.create(image), memfile=image)
    image = case.image("zeros", "1M", "zero")
    check_export(case, case.create(image), memfile=image)


def huge_and_sparse(case):
    """32 GiB with 3 MiB of data: holes are neither read nor written."""
    path = case.path("memory")
    with open(path, "wb") as f:
        f.truncate(32 << 30)
        for at in (0, 17 << 30, (32 << 30) - (1 << 20)):
            f.seek(at)
            f.write(random.Random(at).randbytes(1 << 20))
    build = case.create(path)
    p, folder = export(case, build)
    result = json.loads(p.stdout())
    check_equal(result["files"][0]["size"], 32 << 30, "size")
    check_equal(result["read_bytes"], 3 << 20, "bytes read")
    used = os.stat(os.path.join(folder, MEMORY)).st_blocks * 512
    check(used < 4 << 20, f"{used} bytes allocated for 3 MiB of data")
    with open(path, "rb") as a, open(os.path.join(folder, MEMORY), "rb") as b:
        at = 0
        while at < 32 << 30:  # only where either has data
            try:
                at = min(os.lseek(f.fileno(), at, os.SEEK_DATA) for f in (a, b))
            except OSError:
                break
            check(os.pread(a.fileno(), 1 << 20, at) == os.pread(b.fileno(), 1 << 20, at),
                  f"differs at {at}")
            at += 1 << 20


def never_overwrites(case):
    build = case.create(case.image("memory", "1M"), case.image("snapfile", "4K"))
    for name in ("memfile", "rootfs.ext4", "snapfile", "metadata.json"):
        folder = case.path("taken-" + name)
        os.makedirs(folder)
        write(os.path.join(folder, name), b"mine")
        p = case.thaw("export", build, folder, "--store", case.store, status=1)
        check_in(f"{name} is there already", p.stderr(), "what thaw says")
        check_equal(os.listdir(folder), [name], "files")
        check_equal(read(os.path.join(folder, name)), b"mine", "content")
    folder = case.path("link")
    os.makedirs(folder)
    os.symlink(case.path("victim"), os.path.join(folder, "memfile"))
    case.thaw("export", build, folder, "--store", case.store, status=1)
    check(not os.path.exists(case.path("victim")), "a link was followed")
    folder = case.path("other")
    os.makedirs(folder)
    write(os.path.join(folder, "notes"), b"kept")
    case.thaw("export", build, folder, "--store", case.store)
    check_equal(sorted(os.listdir(folder)), ["memfile", "metadata.json", "notes", "snapfile"],
                "files in a folder that had others")


def damage_is_never_exported(case):
    b = chain(case)
    for name, offset, words in (
            ("memfile", 3 * GRANULE + 1, ("granule 3", f"at byte {3 * GRANULE}", "memfile")),
            ("rootfs.ext4", 1, ("granule 0", "rootfs.ext4")),
            ("memfile.sums", 50, ("memfile.sums", "page 0")),
            ("snapfile", 0, ("snapfile", "SHA-256")),
            ("metadata.json", 0, ("metadata.json", "SHA-256")),
            ("memfile.header", 70, ("memfile.header", "SHA-256"))):
        flip_byte(path_of(case, b["parent"], name), offset)
        refuses_export(case, b["parent"], *words, b["parent"])
        flip_byte(path_of(case, b["parent"], name), offset)
    # The child has nothing in the granules that only its parent's image needs.
    os.truncate(path_of(case, b["parent"], "memfile"), GRANULE)
    refuses_export(case, b["child"], "memfile ends at byte", b["parent"])
    os.unlink(path_of(case, b["parent"], "memfile"))
    refuses_export(case, b["child"], "memfile", b["parent"], "No such file")
    shutil.rmtree(os.path.join(case.store, b["parent"]))
    refuses_export(case, b["child"], "ancestor", b["parent"])


def damage_that_is_not_mapped_is_no_concern(case):
    """A child that has replaced what is damaged in its parent is whole."""
    data = bytearray(random.Random(1).randbytes(1 << 20))
    parent = case.create(write(case.path("memory"), data))
    data[5 * GRANULE:6 * GRANULE] = random.Random(2).randbytes(GRANULE)
    image = write(case.path("memory2"), data)
    child = case.create(image, args=("--base", parent))
    flip_byte(path_of(case, parent, "memfile"), 5 * GRANULE + 9)
    check_export(case, child, memfile=image)
    refuses_export(case, parent, "granule 5")


# ---- builds that E2B wrote ----

def e2b_chain(case, version, **kwargs):
    """Three generations, and the images of each."""
    memory, rootfs = case.image("memory", "8M"), case.image("rootfs", "4M", seed=5)
    builds = [(write_build(case.store, memory, rootfs, version=version, **kwargs), memory, rootfs)]
    for i in range(2):
        parent, memory, rootfs = builds[-1]
        memory = changed(case, memory, f"memory-{i}", seed=i, runs=20)
        rootfs = changed(case, rootfs, f"rootfs-{i}", seed=9 + i) if i == 0 else rootfs
        builds.append((write_build(case.store, memory, rootfs, version=version, parent=parent,
                                   **kwargs), memory, rootfs))
    return builds


def e2b_builds_come_back(case):
    """Listed, inspected, checked, exported, resumed: headers of every version."""
    for version in (1, 2, 3, 4, 5):
        case.store = case.path(f"store-{version}")
        os.makedirs(case.store)
        builds = e2b_chain(case, version)
        listed = json.loads(case.thaw("list", "--store", case.store, "--json").stdout())
        check_equal({b["build"]: b["state"] for b in listed["builds"]},
                    {str(b.id): "unverified" for b, _, _ in builds}, "list")
        for i, (build, memory, rootfs) in enumerate(builds):
            info = inspect(case, str(build.id), "--mappings")
            check_equal((info["unverified"], info["created"], info["parent"]), (True, None, None),
                        "what nobody has recorded")
            check_equal(info["vmm"]["kind"], "firecracker", "vmm")
            for name, image in (("memory", info["memory"]), ("rootfs", info["rootfs"])):
                layer = build.layers[image["name"]]
                check_equal([(m["offset"], m["length"], m["build"] or str(uuid.UUID(int=0)),
                              m["storage_offset"]) for m in image["mappings"]],
                            [(at, n, str(uuid.UUID(bytes=owner)), storage)
                             for at, n, owner, storage in layer.runs()], f"mappings of {name}")
                check_equal((image["header_version"], image["generation"]), (version, i), "header")
            result = check_export(case, str(build.id), memfile=memory, **{ROOTFS: rootfs})
            check_equal(result["unverified_bytes"], result["read_bytes"], "unverified bytes")
        build, memory, _ = builds[-1]
        thaw = case.resume(str(build.id))
        client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
                            memory, "--json").expect_exit(0)
        check_equal(client.result()["wrong"], 0, "wrong pages")
        thaw.expect_exit(0)
        sizes = thaw.result()["bytes"]
        check_equal(sizes["unverified"], sizes["fetched"], "bytes that were served unverified")


def e2b_images_that_end_within_a_page(case):
    """A disk of any size: what is exported ends where it does, and so may what is stored."""
    memory = case.image("memory", "1M")
    for size in (100, PAGE + 1, (1 << 20) + 4095, (2 << 20) - 1):
        rootfs = write(case.path("rootfs"), random.Random(size).randbytes(size))
        for version in (3, 4, 5):
            build = write_build(case.store, memory, rootfs, version=version)
            check_equal(os.path.getsize(path_of(case, build.id, ROOTFS)), size, "stored bytes")
            check_export(case, str(build.id), **{ROOTFS: rootfs})
    # The image goes on where the object ends: what a read leaves in its buffer must not come along.
    # On a disk the file system reads zeros there; in memory it leaves the buffer alone.
    if os.path.isdir("/dev/shm"):
        case.store = tempfile.mkdtemp(prefix="thaw-test-", dir="/dev/shm")
        case.on_end(shutil.rmtree, case.store)
    data = random.Random(3).randbytes((12 << 20) - 50) + bytes(50)
    rootfs = write(case.path("rootfs"), data)
    build = write_build(case.store, memory, rootfs, version=3)
    os.truncate(path_of(case, build.id, ROOTFS), len(data) - 50)
    check_export(case, str(build.id), **{ROOTFS: rootfs})


def e2b_validation(case):
    """V3 knows of no checksum; V4 has that of the data, and says so of ancestors too."""
    for version in (3, 4):
        build = str(e2b_chain(case, version)[2][0].id)
        found = verdicts(case, build, "--recursive")
        check_equal({k[1] for k in found},
                    {MEMORY, ROOTFS, "memfile.header", "rootfs.ext4.header", "snapfile",
                     "metadata.json"}, "objects")
        check_equal(len({k[0] for k in found}), 3, "builds")
        for (_, name), (verdict, reason) in found.items():
            known = version == 4 and name in (MEMORY, ROOTFS)
            check_equal(verdict, "ok" if known else "unverified", f"verdict on {name}")
            check(known or "checksum" in reason, f"reason {reason}")


def e2b_damage(case):
    builds = e2b_chain(case, 4)
    first, last = str(builds[0][0].id), str(builds[2][0].id)
    flip_byte(path_of(case, first, MEMORY), 3 * GRANULE)
    only_bad(case, first, MEMORY, "SHA-256", "memfile.header")
    only_bad(case, last, MEMORY, "SHA-256", args=("--recursive",), of=first)
    flip_byte(path_of(case, first, MEMORY), 3 * GRANULE)
    # The header knows how large the data is, and so does the map.
    size = os.path.getsize(path_of(case, first, MEMORY))
    os.truncate(path_of(case, first, MEMORY), size - PAGE)
    found = verdicts(case, first, status=1)
    check_equal({k[1] for k, v in found.items() if v[0] == "bad"}, {MEMORY, "memfile.header"},
                "bad objects")
    for word in (f"object {MEMORY}", f"{size} bytes by the header", f"{size - PAGE} stored"):
        check_in(word, found[(first, "memfile.header")][1], "reason")
    refuses_export(case, last, f"{size - PAGE} stored", first)


def e2b_map_past_the_data(case):
    build = str(e2b_chain(case, 3)[0][0].id)
    size = os.path.getsize(path_of(case, build, MEMORY))
    os.truncate(path_of(case, build, MEMORY), size - PAGE)
    words = ("memfile.header", f"ends at byte {size}", f"object memfile of build {build}",
             f"only {size - PAGE}")
    refuses_export(case, build, *words)
    only_bad(case, build, "memfile.header", *words[1:])
    p = case.thaw("resume", build, "--store", case.store, "--vmm", "none", status=1)
    for word in words:
        check_in(word, p.stderr(), "what thaw resume says")


def e2b_header_that_is_wrong(case):
    """Records of 40 bytes behind 64 of metadata: overlaps, gaps and odd ends are named."""
    build = e2b_chain(case, 3)[0][0]
    path = path_of(case, build.id, "memfile.header")
    good = read(path)
    for at, value, word in ((64 + 40, 0, "overlaps"), (64 + 40, 1 << 22, "leaves a gap"),
                            (64 + 8, 0, "length"), (64 + 8, 100, "length"),
                            (64 + 32, 4095, "storage offset"), (8, 0, "block size")):
        write(path, good[:at] + struct.pack("<Q", value) + good[at + 8:])
        refuses_export(case, str(build.id), "memfile.header", word)
        only_bad(case, str(build.id), "memfile.header", word)
    for length in (0, 63, 64, 65, 104, len(good) - 40, len(good) - 1):
        write(path, good[:length])
        refuses_export(case, str(build.id), "memfile.header")
        only_bad(case, str(build.id), "memfile.header")


def e2b_needs_all_its_objects(case):
    builds = e2b_chain(case, 3)
    build = str(builds[0][0].id)
    everything = ["memfile.header", "rootfs.ext4.header", "snapfile", "metadata.json", MEMORY,
                  ROOTFS]
    check_equal(sorted(os.listdir(os.path.join(case.store, build))), sorted(everything), "objects")
    for gone in [[n] for n in everything] + [everything[:2], everything[2:4], everything[4:]]:
        for name in gone:
            os.rename(path_of(case, build, name), case.path("kept-" + name))
        for verb in (["export", build, case.path("refused")], ["inspect", build],
                     ["resume", build, "--vmm", "none"]):
            p = case.thaw(*verb, "--store", case.store, status=1)
            for name in gone:
                check_in(name, p.stderr(), f"what thaw {verb[0]} says without {gone}")
            check_in("no build " + build, p.stderr(), f"what thaw {verb[0]} says")
            check_equal(p.stdout(), "", f"output of thaw {verb[0]}")
        listed = json.loads(case.thaw("list", "--store", case.store, "--json").stdout())["builds"]
        check(build not in {b["build"] for b in listed}, f"listed without {gone}")
        for name in gone:
            os.rename(case.path("kept-" + name), path_of(case, build, name))
    # An ancestor is needed for its data alone; a layer that stores nothing has none.
    for name in everything[:4]:
        os.unlink(path_of(case, build, name))
    child, memory, rootfs = builds[2]
    check(not os.path.exists(path_of(case, child.id, ROOTFS)), "a layer without data")
    check_export(case, str(child.id), memfile=memory, **{ROOTFS: rootfs})
    os.unlink(path_of(case, build, MEMORY))
    refuses_export(case, str(child.id), f"build {build} has no object memfile")
    found = verdicts(case, str(child.id), "--recursive", status=1)
    check_in(build, found[(str(child.id), "memfile.header")][1], "reason")


def unfinished_builds_are_not_taken_for_e2bs(case):
    """A build of thaw's that was cut short before its manifest has all that E2B's have."""
    b = chain(case)
    os.unlink(path_of(case, b["parent"], "manifest.json"))
    for verb in (["inspect", b["parent"]], ["inspect", b["parent"], "--validate"]):
        p = case.thaw(*verb, "--store", case.store, status=1)
        check_in("never finished", p.stderr(), "what thaw says")
    refuses_export(case, b["parent"], "never finished", "memfile.sums")
    refuses_export(case, b["child"], "never finished", "ancestor")


def e2b_ancestors_that_the_header_leaves_open(case):
    """V4: no entry means unknown, and the ancestor's own header is asked, never guessed."""
    memory, rootfs = case.image("memory", "4M"), case.image("rootfs", "1M", seed=5)
    parent = write_build(case.store, memory, rootfs, version=4)
    memory2 = changed(case, memory, "memory2")
    child = write_build(case.store, memory2, rootfs, version=4, parent=parent,
                        unknown=(parent.id,))
    check_equal({layer["build"]: layer["codec"]
                 for layer in inspect(case, str(child.id))["memory"]["builds"]},
                {str(parent.id): None, str(child.id): "none"}, "codecs by the header")
    check_export(case, str(child.id), memfile=memory2, **{ROOTFS: rootfs})
    size = os.path.getsize(path_of(case, parent.id, MEMORY))
    with open(path_of(case, parent.id, MEMORY), "ab") as f:
        f.write(bytes(PAGE))
    refuses_export(case, str(child.id), f"{size} bytes by the header", str(parent.id))
    os.truncate(path_of(case, parent.id, MEMORY), size)
    flip_byte(path_of(case, parent.id, "memfile.header"), 100)
    refuses_export(case, str(child.id), "memfile.header", str(parent.id))
    # A V4 header without an entry for its own build: that one is uncompressed.
    write(path_of(case, parent.id, "memfile.header"), make_header(MEMORY, parent, (parent.id,)))
    check_export(case, str(child.id), memfile=memory2)
    check_export(case, str(parent.id), memfile=memory)


def thaw_layers_over_e2b(case):
    """A build of thaw's over one of E2B's: its own bytes are verified, the others counted."""
    memory, rootfs = case.image("memory", "8M"), case.image("rootfs", "4M", seed=5)
    parent = write_build(case.store, memory, rootfs, version=3)
    memory2 = changed(case, memory, "memory2")
    child = case.create(memory2, args=("--rootfs", rootfs, "--base", str(parent.id)))
    result = check_export(case, child, memfile=memory2, **{ROOTFS: rootfs})
    check(0 < result["unverified_bytes"] < result["read_bytes"], f"{result}")
    info = inspect(case, child)
    check_equal((info["unverified"], info["parent"]), (False, str(parent.id)), "the child")
    found = verdicts(case, child, "--recursive")
    check_equal({v[0] for k, v in found.items() if k[0] == child}, {"ok"}, "the child's verdicts")
    flip_byte(path_of(case, child, "memfile"), 0)
    refuses_export(case, child, "granule 0")


def frames_are_told(case):
    """What is compressed is shown and checked as stored; reading it is refused, clearly."""
    memory, rootfs = case.image("memory", "8M", "random"), case.image("rootfs", "1M", seed=5)
    build = write_build(case.store, memory, rootfs, version=4, codec="lz4", prefetch=(3, 1, 9))
    info = inspect(case, str(build.id), "--validate")
    layer = info["memory"]["builds"][0]
    frames = build.layers[MEMORY].frames
    check_equal((layer["codec"], layer["frames"]["count"]), ("lz4", len(frames)), "frames")
    check_equal(layer["frames"]["uncompressed_bytes"], 8 << 20, "bytes in frames")
    check_equal(layer["frames"]["stored_bytes"], sum(f[3] for f in frames), "bytes of frames")
    check_equal(info["working_set"], {"count": 3, "block_size": 4096}, "working set")
    objects = {o["name"]: o for o in info["objects"]}
    check_equal((objects["memfile.lz4"]["codec"], objects["memfile.lz4"]["uncompressed_size"]),
                ("lz4", 8 << 20), "object")
    check_in("FRAMES of memfile", case.thaw("inspect", str(build.id), "--store",
                                            case.store).stdout(), "text")
    refuses_export(case, str(build.id), "memfile.lz4", "is compressed")
    p = case.thaw("resume", str(build.id), "--store", case.store, "--vmm", "none", status=1)
    check_in("is compressed", p.stderr(), "what thaw resume says")
    os.truncate(path_of(case, build.id, "memfile.lz4"), 100)
    only_bad(case, str(build.id), "memfile.header", "last frame", "memfile.lz4")


def zero_sums_in_a_manifest_turn_nothing_off(case):
    build = case.create(case.image("memory", "1M"))
    path = path_of(case, build, "manifest.json")
    manifest = json.loads(read(path))
    for o in manifest["objects"]:
        o["sha256"] = "0" * 64
    write(path, json.dumps(manifest).encode())
    flip_byte(path_of(case, build, "memfile.header"), 70)
    for verb in (["inspect", build], ["export", build, case.path("refused")]):
        p = case.thaw(*verb, "--store", case.store, status=1)
        check_in("all zeros", p.stderr(), f"what thaw {verb[0]} says")


GROUPS = {
    "inspect": (tells_where_bytes_come_from, shows_a_disk_alone, says_how_a_vmm_was_started,
                bad_usage),
    "validate": (sound_builds_are_ok, every_object_is_read, several_bad_objects, wrong_sizes,
                 sums_that_lie, ancestors_are_checked, circles_end,
                 zero_sums_in_a_manifest_turn_nothing_off),
    "export": (round_trip, many_layers, pages_of_zeros_become_holes, odd_sizes, huge_and_sparse,
               never_overwrites, damage_is_never_exported,
               damage_that_is_not_mapped_is_no_concern),
    "e2b": (e2b_builds_come_back, e2b_images_that_end_within_a_page, e2b_validation, e2b_damage,
            e2b_map_past_the_data, e2b_header_that_is_wrong,
            e2b_needs_all_its_objects, unfinished_builds_are_not_taken_for_e2bs,
            e2b_ancestors_that_the_header_leaves_open, thaw_layers_over_e2b, frames_are_told),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])
