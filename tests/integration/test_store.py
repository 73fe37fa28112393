#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The directory store and its verbs, list and delete: order, damage, bad surroundings, kill -9."""

import datetime
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte
from thawtest import check, check_equal, check_in, main, require_program, skip

PAGE = 4096
NIL = uuid.UUID(int=0)
E2B_OBJECTS = ("memfile.header", "rootfs.ext4.header", "snapfile", "metadata.json")


# ---- what a store looks like ----

def path_of(case, build, *names):
    return os.path.join(case.store, build, *names)


def write(path, data):
    with open(path, "wb" if isinstance(data, bytes) else "w",
              **({} if isinstance(data, bytes) else {"encoding": "utf-8"})) as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def edit_manifest(case, build, **changes):
    """Set keys of a build's manifest; None removes one."""
    path = path_of(case, build, "manifest.json")
    manifest = json.loads(read(path))
    for key, value in changes.items():
        manifest.pop(key, None)
        if value is not None:
            manifest[key] = value
    write(path, json.dumps(manifest))


def header_v3(build, base, runs):
    """A header by the format's description; runs are (pages, build or NIL, storage page)."""
    pages = sum(n for n, _, _ in runs)
    out = struct.pack("<QQQQ", 3, PAGE, pages * PAGE, 1) + build.bytes + base.bytes
    at = 0
    for count, of, storage in runs:
        out += struct.pack("<QQ", at * PAGE, count * PAGE) + of.bytes
        out += struct.pack("<Q", storage * PAGE)
        at += count
    return out


def forge_e2b(case, memory_of=None, rootfs_of=None):
    """A build as E2B leaves it, the images mapped onto these builds, or its own; returns its id."""
    build = uuid.uuid4()
    os.makedirs(path_of(case, str(build)))
    for image, of in (("memfile", memory_of), ("rootfs.ext4", rootfs_of)):
        of = uuid.UUID(of) if of else build
        write(path_of(case, str(build), image), b"x" * 2 * PAGE)
        write(path_of(case, str(build), image + ".header"),
              header_v3(build, of, [(2, of, 0), (6, NIL, 0)]))
    write(path_of(case, str(build), "snapfile"), b"state")
    write(path_of(case, str(build), "metadata.json"), json.dumps(
        {"version": 2, "template": {"build_id": str(build), "kernel_version": "6.1",
                                    "firecracker_version": "1.12"}}))
    return str(build)


def forge(case, parent=None, created=0):
    """The least that is a build: metadata and a manifest. Returns its id."""
    build = str(uuid.uuid4())
    os.makedirs(path_of(case, build))
    metadata = json.dumps({"version": 2, "thaw": {"vmm": {"kind": "qemu"}, "memory_bytes": PAGE,
                                                  "page_bytes": PAGE}}).encode()
    write(path_of(case, build, "metadata.json"), metadata)
    when = datetime.datetime.fromtimestamp(1_700_000_000 + created, datetime.timezone.utc)
    manifest = {"format": 1, "build": build, "created": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "objects": [{"name": "metadata.json", "size": len(metadata),
                             "uncompressed_size": len(metadata), "codec": "none",
                             "sha256": hashlib.sha256(metadata).hexdigest()}]}
    if parent:
        manifest["parent"] = parent
    write(path_of(case, build, "manifest.json"), json.dumps(manifest))
    return build


def listed(case, *args):
    """What `thaw list --json` says: id to entry, in order."""
    out = case.thaw("list", "--store", case.store, "--json", *args).stdout()
    check_equal(len(out.splitlines()), 1, "lines of thaw list --json")
    result = json.loads(out)
    check_equal(result["store"], case.store, "store that thaw list names")
    builds = {b["build"]: b for b in result["builds"]}
    check_equal(len(builds), len(result["builds"]), "builds, none twice")
    return builds


def delete(case, build, *args, status=0):
    return case.thaw("delete", build, "--store", case.store, *args, status=status)


def files_in(case, build):
    return sorted(os.listdir(path_of(case, build)))


# ---- list ----

def newest_first(case):
    image = case.image("memory", "256K")
    builds = [case.create(image, args=("--vmm", "firecracker")) for _ in range(3)]
    order = [1, 2, 0]
    for age, i in enumerate(order):
        edit_manifest(case, builds[i], created=f"2026-01-{20 - age:02}T10:00:00Z")
    os.mkdir(case.path("store", "not-a-build"))
    write(case.path("store", str(uuid.uuid4())), "a file is no build")
    os.symlink(builds[0], case.path("store", str(uuid.uuid4())))
    found = listed(case)
    check_equal(list(found), [builds[i] for i in order], "order of the list")
    for b in builds:
        entry = found[b]
        check_equal(entry["state"], "ok", "state")
        check_equal(entry["reason"], None, "reason")
        check_equal(entry["vmm"], "firecracker", "vmm")
        check_equal(entry["memory_size"], 256 << 10, "memory_size")
        check_equal(entry["stored_size"],
                    sum(os.path.getsize(path_of(case, b, n)) for n in files_in(case, b)),
                    "stored_size")
        check_equal((entry["parent"], entry["parent_missing"], entry["depth"]), (None, False, 0),
                    "parent")
    check_equal(found[builds[1]]["created"], "2026-01-20T10:00:00Z", "created")
    text = case.thaw("list", "--store", case.store).stdout().splitlines()
    check_equal([line.split()[0] for line in text], ["BUILD", *found], "first column")
    check_in("2026-01-20T10:00:00Z", text[1], "line of the newest")
    check_in("256.0 KiB", text[1], "line of the newest")


def empty_store_lists_nothing(case):
    os.makedirs(case.store)
    check_equal(listed(case), {}, "builds")
    check_equal(case.thaw("list", "--store", case.store).stdout(), "", "output")
    p = case.thaw("list", "--store", case.path("nowhere"), status=1)
    check_in("nowhere", p.stderr(), "complaint")
    p = case.thaw("list", "--store", case.store, "what", status=2)
    check_in("what", p.stderr(), "complaint")
    check_in("--store", case.thaw("list", status=2).stderr(), "complaint")


def tree_of_parents(case):
    old = forge(case, created=1)
    child_a = forge(case, parent=old, created=2)
    grandchild = forge(case, parent=child_a, created=9)
    child_b = forge(case, parent=old, created=5)
    young = forge(case, created=6)
    orphan = forge(case, parent=str(uuid.uuid4()), created=7)
    flat = listed(case)
    check_equal(list(flat), [grandchild, orphan, young, child_b, child_a, old], "flat order")
    check(all(b["depth"] == 0 for b in flat.values()), "a flat list has depths")
    tree = listed(case, "--tree")
    check_equal([(b, e["depth"]) for b, e in tree.items()],
                [(orphan, 0), (young, 0), (old, 0), (child_b, 1), (child_a, 1), (grandchild, 2)],
                "tree")
    check_equal([b for b, e in tree.items() if e["parent_missing"]], [orphan], "missing parents")
    check_equal(tree[grandchild]["parent"], child_a, "parent")
    lines = case.thaw("list", "--store", case.store, "--tree").stdout().splitlines()[1:]
    check_equal([len(line) - len(line.lstrip()) for line in lines], [0, 0, 0, 2, 2, 4], "indents")
    check_in(child_a[:8], lines[5], "line of the grandchild")
    check_in("?", lines[0], "line of the orphan")


def children_of_create(case):
    """What create and list agree upon, with real layers."""
    base = case.create(case.image("memory", "1M"))
    child = case.create(case.image("changed", "1M", seed=2), args=("--base", base))
    check_equal([(b, e["depth"], e["parent"], e["state"])
                 for b, e in listed(case, "--tree").items()],
                [(base, 0, None, "ok"), (child, 1, base, "ok")], "tree")
    check_in(child, delete(case, base, status=1).stderr(), "complaint")
    delete(case, child)
    delete(case, base)
    check_equal(os.listdir(case.store), [], "store after all is deleted")


def long_line_of_parents(case):
    build, line = None, []
    for i in range(300):
        build = forge(case, parent=build, created=i)
        line.append(build)
    tree = listed(case, "--tree")
    check_equal(list(tree), line, "order")
    check_equal([e["depth"] for e in tree.values()], list(range(300)), "depths")
    case.thaw("list", "--store", case.store, "--tree")


def parents_in_a_circle(case):
    a = forge(case, created=1)
    b = forge(case, parent=a, created=2)
    c = forge(case, parent=b, created=3)
    hanger_on = forge(case, parent=b, created=4)
    edit_manifest(case, a, parent=c)
    own = forge(case, created=5)
    edit_manifest(case, own, parent=own)
    for args in ((), ("--tree",)):
        found = listed(case, *args)
        check_equal(set(found), {a, b, c, hanger_on, own}, "builds")
        for build in (a, b, c, own):
            check_equal(found[build]["state"], "damaged", "state in a circle")
        check_in("ancestor of itself", found[a]["reason"], "reason")
        check_equal(found[hanger_on]["state"], "ok", "state beside a circle")
    check_equal(found[hanger_on]["depth"], 1, "depth below a circle")
    # No order of deleting would ever do without force.
    check_in(hanger_on, delete(case, b, "--force", status=1).stderr(), "complaint")
    delete(case, hanger_on)
    check_in(b, delete(case, a, status=1).stderr(), "complaint")
    for build in (a, own):
        delete(case, build, "--force")
    for build in (c, b):  # only a line is left of the circle
        delete(case, build)
    check_equal(os.listdir(case.store), [], "store after all is deleted")


def damaged_builds_are_listed(case):
    image = case.image("memory", "256K")
    good = case.create(image)
    bad = {case.create(image): text for text in (
        "", "{", "[]", "null", '{"format":1}', "\0" * 100, '{"format": \x1b[31m}',
        '{"\x1b[31m": "\xff"}')}
    for build, text in bad.items():
        write(path_of(case, build, "manifest.json"), text.encode("latin-1"))
    other = case.create(image)
    shutil.copy(path_of(case, good, "manifest.json"), path_of(case, other, "manifest.json"))
    flipped = case.create(image)
    flip_byte(path_of(case, flipped, "metadata.json"), 3)
    without = case.create(image)
    os.unlink(path_of(case, without, "metadata.json"))
    found = listed(case)
    check_equal(found[good]["state"], "ok", "state of the good one")
    for build in (*bad, other, flipped, without):
        check_equal(found[build]["state"], "damaged", "state")
        check(found[build]["stored_size"] > 0, "stored_size of a damaged build")
        check(found[build]["reason"].isprintable(), f"reason: {found[build]['reason']!r}")
    for build in bad:
        check_in("manifest.json", found[build]["reason"], "reason")
    check_in(good, found[other]["reason"], "reason")
    check_in("metadata.json", found[flipped]["reason"], "reason")
    check_in("metadata.json", found[without]["reason"], "reason")
    text = case.thaw("list", "--store", case.store).stdout()
    check("\x1b" not in text and "\x07" not in text, "control characters reach the terminal")
    check_in("! ", text, "the reasons")


def builds_of_e2b(case):
    build = forge_e2b(case)
    entry = listed(case)[build]
    check_equal((entry["state"], entry["vmm"], entry["memory_size"], entry["created"]),
                ("unverified", "firecracker", 8 * PAGE, None), "entry")
    for name in E2B_OBJECTS:
        os.rename(path_of(case, build, name), case.path("away"))
        check_equal(listed(case), {}, f"builds without {name}")
        os.rename(case.path("away"), path_of(case, build, name))
    write(path_of(case, build, "metadata.json"), "{")
    check_equal(listed(case)[build]["state"], "damaged", "state with bad metadata")


def unfinished_is_no_build(case):
    """Even with all that a build of E2B's would have."""
    build = case.create(case.image("memory", "256K"), case.image("state", "4K"),
                        args=("--rootfs", case.image("disk", "256K", seed=5)))
    for name in E2B_OBJECTS:
        check_in(name, files_in(case, build), "objects")
    os.unlink(path_of(case, build, "manifest.json"))
    check_equal(listed(case), {}, "builds")


# ---- delete ----

def deletes_what_nobody_needs(case):
    image = case.image("memory", "256K")
    build, other = case.create(image), case.create(image)
    names = files_in(case, build)
    size = sum(os.path.getsize(path_of(case, build, n)) for n in names)
    os.symlink(image, path_of(case, build, "link-out"))
    write(path_of(case, build, ".tmp-of-somebody-who-died"), "x")
    result = json.loads(delete(case, build, "--json").stdout())
    check_equal(result["build"], build, "build that thaw delete reports")
    check_equal([o["name"] for o in result["objects"]], names, "objects that thaw delete reports")
    check_equal(result["bytes"], size, "bytes that thaw delete reports")
    check_equal(os.listdir(case.store), [other], "folders of the store")
    check(os.path.exists(image), "a link was followed")
    check_in("no build " + build, delete(case, build, status=1).stderr(), "complaint")
    check_in("no build " + build, delete(case, build, "--force", status=1).stderr(), "complaint")
    check_in("not a build id", delete(case, "nonsense", status=1).stderr(), "complaint")
    check_in("which build", case.thaw("delete", "--store", case.store, status=2).stderr(), "usage")
    check_in("--store", case.thaw("delete", build, status=2).stderr(), "usage")
    check_in(other, delete(case, other).stdout(), "output")


def refuses_while_a_child_needs_it(case):
    base = forge(case)
    children = [forge(case, parent=base) for _ in range(7)]
    for args in ((), ("--force",)):
        p = delete(case, base, *args, status=1)
        named = [c for c in children if c in p.stderr()]
        check_equal(len(named), 5, "children that are named")
        check_in("and 2 more", p.stderr(), "complaint")
        check_equal(p.stdout(), "", "output of a failing thaw delete")
    for child in children:
        check_equal(listed(case)[base]["state"], "ok", "state of the base")
        delete(case, child)
    delete(case, base)


def refuses_while_a_header_maps_it(case):
    """Without any parent that a manifest would tell: through memory alone, through disk alone."""
    for image in ("memory_of", "rootfs_of"):
        base = forge_e2b(case)
        child = forge_e2b(case, **{image: base})
        check_in(child, delete(case, base, status=1).stderr(), f"complaint ({image})")
        check_in(child, delete(case, base, "--force", status=1).stderr(), "complaint")
        delete(case, child)
        delete(case, base)


def refuses_while_a_header_cannot_be_read(case):
    base = case.create(case.image("memory", "1M"))
    bystander = case.create(case.image("other", "1M", seed=2))
    header = path_of(case, bystander, "memfile.header")
    kept = read(header)
    flip_byte(header, 70)
    p = delete(case, base, status=1)
    for word in (bystander, "may need it", "memfile.header", "--force"):
        check_in(word, p.stderr(), "complaint")
    os.unlink(header)
    check_in(bystander, delete(case, base, status=1).stderr(), "complaint")
    write(path_of(case, bystander, "manifest.json"), b"")
    check_in("manifest.json", delete(case, base, status=1).stderr(), "complaint")
    check_in("damaged", delete(case, bystander, status=1).stderr(), "complaint")
    delete(case, base, "--force")
    check_equal(list(listed(case)), [bystander], "builds")
    write(header, kept)
    delete(case, bystander, "--force")
    check_equal(os.listdir(case.store), [], "store")


def foreign_folders_are_not_removed(case):
    build = case.create(case.image("memory", "256K"))
    os.mkdir(path_of(case, build, "precious"))
    before = files_in(case, build)
    check_in("precious", delete(case, build, status=1).stderr(), "complaint")
    check_equal(files_in(case, build), before, "the folder of the build")
    check_equal(listed(case)[build]["state"], "ok", "state")


# ---- bad surroundings ----

def mount(case, *args):
    """mount(8) until the end of the case; the folder, which is made."""
    folder = case.path(f"mount-{uuid.uuid4().hex[:6]}")
    os.mkdir(folder)
    done = subprocess.run(["mount", *args, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        skip(f"mount {' '.join(args)}: {done.stderr.strip()}")
    case.on_end(lambda: subprocess.run(["umount", "-l", folder], check=False))
    return folder


def disk_full_in_the_middle(case):
    case.store = mount(case, "-t", "tmpfs", "-o", "size=1M", "none")
    small = case.create(case.image("small", "256K", "random"))
    large = case.image("large", "8M", "random")
    for args in (("--memory", large), ("--memory", case.path("small"), "--snapfile", large)):
        p = case.thaw("create", *args, "--store", case.store, status=1)
        check_in("no space is left", p.stderr(), "complaint")
        check_equal(p.stdout(), "", "output of a failing thaw create")
        check_equal(os.listdir(case.store), [small], "store: nothing of the failed one is left")
    again = case.create(case.path("small"))
    check_equal(set(listed(case)), {small, again}, "builds")
    for build in (small, again):
        case.thaw("inspect", build, "--store", case.store)


def store_that_may_only_be_read(case):
    image = case.image("memory", "256K")
    build = case.create(image)
    writable = case.store
    case.store = mount(case, "--bind", writable)
    done = subprocess.run(["mount", "-o", "remount,bind,ro", case.store], capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        skip(f"mount -o remount,bind,ro: {done.stderr.strip()}")
    check_equal(list(listed(case)), [build], "builds")
    p = case.thaw("create", "--memory", image, "--store", case.store, status=1)
    check_in("Read-only", p.stderr(), "complaint")
    p = delete(case, build, status=1)
    check_in("Read-only", p.stderr(), "complaint")
    p = case.thaw("create", "--memory", image, "--store", case.path("store", build, "x", "y"),
                  status=1)
    check_in("No such file", p.stderr(), "complaint")
    case.store = writable
    check_equal(listed(case)[build]["state"], "ok", "state after all that")


def store_that_is_no_folder(case):
    image = case.image("memory", "256K")
    os.symlink("nowhere", case.path("dangling"))
    os.mkfifo(case.path("fifo"))
    for name, word in (("memory", "Not a directory"), ("dangling", "No such file"),
                       ("fifo", "Not a directory")):
        store = case.path(name)
        for verb in (["list"], ["create", "--memory", image], ["delete", str(uuid.uuid4())],
                     ["inspect", str(uuid.uuid4())]):
            p = case.thaw(*verb, "--store", store, status=1)
            check_in(word, p.stderr(), f"complaint of {verb[0]} about a store that is {name}")
            check_in(name, p.stderr(), f"complaint of {verb[0]}")
    # The store itself may be reached by a link.
    os.mkdir(case.path("elsewhere"))
    os.symlink("elsewhere", case.path("link"))
    case.store = case.path("link")
    build = case.create(image)
    check_equal(list(listed(case)), [build], "builds of a store behind a link")


def replaced(path, kind, case):
    """Something that is no object in place of @path; the object moves aside."""
    os.rename(path, case.path("aside"))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "link":
        os.symlink(case.path("aside"), path)
    else:
        os.symlink("nowhere", path)


def put_back(path, kind, case):
    if kind == "folder":
        os.rmdir(path)
    os.rename(case.path("aside"), path)


def objects_that_are_no_files(case):
    """Neither waits at a FIFO nor follows a link out of the store."""
    image = case.image("memory", "256K", "random")
    build = case.create(image)
    for kind in ("fifo", "folder", "link", "dangling link"):
        for name in ("manifest.json", "metadata.json", "memfile.header"):
            path = path_of(case, build, name)
            replaced(path, kind, case)
            found = listed(case)
            if name != "memfile.header":
                check_equal(found[build]["state"], "damaged", f"state with {name} a {kind}")
                check_in("not a regular file", found[build]["reason"], "reason")
            p = case.thaw("resume", build, "--store", case.store, "--vmm", "none", status=1)
            check_in("not a regular file", p.stderr(), f"complaint about {name}, a {kind}")
            put_back(path, kind, case)
        path = path_of(case, build, "memfile")
        replaced(path, kind, case)
        thaw = case.resume(build)
        client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
                            image, "--expect-errors", "--hang-seconds", "10", "--json")
        client.expect_exit(0)
        thaw.expect_exit(1)
        check_equal(client.result()["errors"], 64, f"pages that raised SIGBUS, memfile a {kind}")
        put_back(path, kind, case)
    check_equal(listed(case)[build]["state"], "ok", "state at the end")


def empty_manifest(case):
    image = case.image("memory", "256K")
    build = case.create(image)
    write(path_of(case, build, "manifest.json"), b"")
    check_equal(listed(case)[build]["state"], "damaged", "state")
    check_in("manifest.json", delete(case, build, status=1).stderr(), "complaint")
    delete(case, build, "--force")
    check_equal(listed(case), {}, "builds")


def io_engine_by_environment(case):
    build = case.create(case.image("memory", "256K"))
    p = case.thaw("resume", build, "--store", case.store, "--vmm", "none", status=1,
                  env={"THAW_IO": "nonsense"})
    check_in("nonsense", p.stderr(), "complaint")
    thaw = case.resume(build, env={"THAW_IO": "pool"})
    names = [read(f"/proc/{thaw.pid}/task/{t}/comm").decode().strip()
             for t in os.listdir(f"/proc/{thaw.pid}/task")]
    check_in("thaw-io/7", names, "threads of thaw with THAW_IO=pool")
    thaw.stop()


# ---- kill -9 ----

WRITING = ("claimed", "opened", "appended", "flushed", "renamed", "done")


def require_crash_points(case):
    if "(crash points)" not in case.thaw("--version").stdout():
        skip("this thaw is built without crash points: -Dcrash_points=true has them")


def crash(case, label, *args):
    case.thaw(*args, status=-9, env={"THAW_CRASH_AT": label})


def create_killed_anywhere(case):
    require_crash_points(case)
    args = ("create", "--memory", case.image("memory", "256K"), "--snapfile",
            case.image("state", "4K"), "--rootfs", case.image("disk", "256K", seed=5), "--store",
            case.store)
    os.makedirs(case.store)
    first = case.thaw(*args).stdout().strip()
    names = files_in(case, first)
    check_equal(len(names), 9, f"objects of a build: {names}")
    delete(case, first)
    for name in names:
        for stage in WRITING:
            crash(case, f"store:{stage}:{name}", *args)
            (left,) = os.listdir(case.store)
            found = listed(case)
            # Named is there, and then all of it; before that there is no build.
            whole = name == "manifest.json" and stage in ("renamed", "done")
            check_equal(list(found), [left] if whole else [], f"builds after {stage} {name}")
            if whole:
                check_equal(found[left]["state"], "ok", f"state after {stage} {name}")
                case.thaw("inspect", left, "--store", case.store)
                check_equal(files_in(case, left), names, f"objects after {stage} {name}")
                delete(case, left)
            else:
                p = delete(case, left, status=1)
                check_in("never finished", p.stderr(), f"complaint after {stage} {name}")
                case.thaw("resume", left, "--store", case.store, "--vmm", "none", status=1)
                result = json.loads(delete(case, left, "--force", "--json").stdout())
                check(all(o["name"] in names for o in result["objects"]),
                      f"taken for objects: {result['objects']}")
            check_equal(os.listdir(case.store), [], f"store after {stage} {name} and delete")


def create_works_beside_leftovers(case):
    require_crash_points(case)
    image = case.image("memory", "256K")
    os.makedirs(case.store)
    for stage in WRITING[:-2]:
        crash(case, f"store:{stage}:manifest.json", "create", "--memory", image, "--store",
              case.store)
    builds = {case.create(image) for _ in range(2)}
    check_equal(set(listed(case)), builds, "builds")
    check_equal(len(os.listdir(case.store)), len(builds) + len(WRITING) - 2, "folders")
    for build in set(os.listdir(case.store)) - builds:
        delete(case, build, "--force")
    check_equal(set(os.listdir(case.store)), builds, "folders after the leftovers are deleted")
    for build in builds:
        case.thaw("inspect", build, "--store", case.store)


def delete_killed_anywhere(case):
    require_crash_points(case)
    image = case.image("memory", "256K")
    rootfs, state = case.image("disk", "256K", seed=5), case.image("state", "4K")
    makers = (lambda: case.create(image, state, args=("--rootfs", rootfs)),
              lambda: forge_e2b(case))
    for make in makers:
        build = make()
        names = files_in(case, build)
        delete(case, build)
        for label in [f"store:deleted:{name}" for name in names] + ["store:folder-deleted"]:
            build = make()
            crash(case, label, "delete", build, "--store", case.store)
            check_equal(listed(case), {}, f"builds after {label}")
            check_in("no build " + build, delete(case, build, status=1).stderr(), "complaint")
            left = os.listdir(path_of(case, build)) if os.path.exists(path_of(case, build)) else []
            check(not any(n.endswith(".header") for n in left) or
                  all(n in left for n in names if not n.endswith((".header", "manifest.json"))),
                  f"after {label} a header stands without its data: {left}")
            if label != "store:folder-deleted":
                delete(case, build, "--force")
            check_equal(os.listdir(case.store), [], f"store after {label} and the rest")


# ---- power loss: what is flushed, in which order ----

CALL = re.compile(r'(\w+)\((?:\d+<([^>]*)>)?(?:, "([^"]*)")?(?:, \d+<[^>]*>, "([^"]*)")?')


def traced(case, *args):
    """The calls of `thaw ARGS` that make names or make things durable: (call, at, name, to)."""
    strace = require_program("strace", "it shows the order of flushes")
    log = case.path("strace")
    # The leak checker cannot work beside a tracer.
    case.run(strace, "-f", "-y", "-o", log, "-e", "trace=fsync,renameat2,unlinkat,mkdirat,mkdir",
             os.environ["THAW"], *args, env={"ASAN_OPTIONS": "detect_leaks=0"})
    lines = [line.split(maxsplit=1)[1] for line in read(log).decode().splitlines()]
    return [m.groups() for m in map(CALL.match, lines) if m and m[1] in
            ("fsync", "renameat2", "unlinkat", "mkdirat", "mkdir")]


def names_are_flushed_in_order(case):
    """The data before its name, the name before the next object, and all folders above."""
    calls = traced(case, "create", "--memory", case.image("memory", "256K"), "--store", case.store)
    (build,) = listed(case)
    folder = path_of(case, build)
    flushed = [(i, at) for i, (call, at, _, _) in enumerate(calls) if call == "fsync"]
    renames = [(i, name, to) for i, (call, _, name, to) in enumerate(calls) if call == "renameat2"]
    check_equal(sorted(to for _, _, to in renames), files_in(case, build), "names")
    check_equal(renames[-1][2], "manifest.json", "last name")
    for at in (case.store, case.dir):
        check(any(p == at and i < renames[0][0] for i, p in flushed), f"{at} is not flushed first")
    for (i, temporary, to), after in zip(renames, renames[1:] + [(len(calls), "", "")]):
        check(any(p == os.path.join(folder, temporary) and k < i for k, p in flushed),
              f"{to} has its name before its data is on disk")
        check(any(p == folder and i < k < after[0] for k, p in flushed),
              f"the name {to} is not on disk before {after[2] or 'the end'}")


def removals_are_flushed_in_order(case):
    build = case.create(case.image("memory", "256K"))
    folder, names = path_of(case, build), files_in(case, build)
    calls = traced(case, "delete", build, "--store", case.store)
    steps, gone = [], set()
    for call, at, name, _ in calls:
        if call == "unlinkat":
            gone.add(name)
        elif call == "fsync" and at in (folder, case.store):
            steps.append(gone)
            gone = set()
    headers = {n for n in names if n.endswith(".header")}
    check_equal(steps[:2], [{"manifest.json"}, headers], "first steps")
    check_equal(steps[-1], {build}, "last step")
    check_equal(set().union(*steps[2:-1]), set(names) - headers - {"manifest.json"}, "the rest")


GROUPS = {
    "store-list": (newest_first, empty_store_lists_nothing, tree_of_parents, children_of_create,
                   long_line_of_parents, parents_in_a_circle, damaged_builds_are_listed,
                   builds_of_e2b, unfinished_is_no_build),
    "store-delete": (deletes_what_nobody_needs, refuses_while_a_child_needs_it,
                     refuses_while_a_header_maps_it, refuses_while_a_header_cannot_be_read,
                     foreign_folders_are_not_removed),
    "store-bad": (disk_full_in_the_middle, store_that_may_only_be_read, store_that_is_no_folder,
                  objects_that_are_no_files, empty_manifest, io_engine_by_environment),
    "store-crash": (create_killed_anywhere, create_works_beside_leftovers,
                    delete_killed_anywhere),
    "store-durable": (names_are_flushed_in_order, removals_are_flushed_in_order),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])
