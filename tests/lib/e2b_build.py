# SPDX-License-Identifier: Apache-2.0
"""Writes builds as E2B does, from the description of its format alone: nothing of thaw runs here.

    base = write_build(store, memory=path, rootfs=path, version=3)
    child = write_build(store, memory=path, rootfs=path, version=3, parent=base)

A build has memfile.header, rootfs.ext4.header, snapfile, metadata.json, and memfile and rootfs.ext4
with the blocks that differ from the parent, packed in ascending order. There is no manifest and no
sums. Headers are of version 1, 2 or 3 (the metadata and mappings of 40 bytes), or 4 or 5 (an LZ4
frame with a table of builds before the mappings). Data is stored as it is, or in frames.
"""

import hashlib
import json
import os
import struct
import uuid

from make_golden import NIL, frame_table, lz4_frame, uvarint, zigzag

PAGE = 4096
MEMORY, ROOTFS = "memfile", "rootfs.ext4"
CODECS = {"zstd": 1, "lz4": 2}


class Layer:
    """An image of a build: its bytes, and for each block the build and offset that hold it."""

    def __init__(self, data, block_size, places, stored, frames):
        self.data = data
        self.block_size = block_size
        self.places = places  # (build id or NIL, storage offset) of each block
        self.stored = stored  # the packed data of this build, uncompressed
        self.frames = frames  # (start U, start C, size U, size C), [] when stored as it is

    def runs(self):
        """(offset, length, build, storage offset), joined where both sides go on."""
        out = []
        for i, (build, storage) in enumerate(self.places):
            offset = i * self.block_size
            if out:
                at, length, last, start = out[-1]
                if build == last and (build == NIL or storage == start + length):
                    out[-1] = (at, length + self.block_size, last, start)
                    continue
            out.append((offset, self.block_size, build, storage))
        return out


class Build:
    """What has been written, for tests to compare with and for children to build on."""

    def __init__(self, build_id, version, generation, base, codec):
        self.id = build_id
        self.version = version
        self.generation = generation
        self.base = base
        self.codec = codec
        self.layers = {}
        self.ancestors = []  # nearest first

    def bytes(self):
        return self.id.bytes


def _blocks(data, size):
    for at in range(0, len(data), size):
        yield data[at:at + size]


def _make_layer(data, block_size, build, parent):
    """Dirty blocks get the next place, zero blocks none, equal ones keep the parent's."""
    places, stored = [], []
    old = list(_blocks(parent.data, block_size)) if parent else []
    for i, block in enumerate(_blocks(data, block_size)):
        if i < len(old) and block == old[i]:
            places.append(parent.places[i])
        elif not any(block):
            places.append((NIL, 0))
        else:
            places.append((build.bytes(), len(stored) * block_size))
            stored.append(block)
    return Layer(data, block_size, places, b"".join(stored), [])


def _metadata(version, layer, build):
    return struct.pack("<QQQQ", version, layer.block_size, len(layer.data),
                       build.generation) + build.bytes() + build.base.bytes


def _records(layer):
    return b"".join(struct.pack("<QQ", offset, length) + owner + struct.pack("<Q", storage)
                    for offset, length, owner, storage in layer.runs())


def _builds_section(name, build, unknown):
    """An entry for each build whose data is known, ascending by id."""
    entries = {}
    for b in [build, *build.ancestors]:
        layer = b.layers[name]
        if b.id in unknown or not layer.stored:
            continue
        codec = CODECS[b.codec] if layer.frames else 0
        entries[b.bytes()] = (struct.pack("<q", len(layer.stored)) +
                              hashlib.sha256(layer.stored).digest() +
                              frame_table(codec, layer.frames))
    out = struct.pack("<I", len(entries))
    return out + b"".join(owner + entries[owner] for owner in sorted(entries))


def _v5_mappings(layer):
    runs = [(offset // PAGE, length // PAGE, storage // PAGE, owner)
            for offset, length, owner, storage in layer.runs() if owner != NIL]
    owners = sorted({r[3] for r in runs})
    out = struct.pack("<I", len(owners)) + b"".join(owners) + struct.pack("<I", len(runs))
    before = [(0, 0, 0)] + runs
    out += b"".join(uvarint(r[0] - b[0]) for r, b in zip(runs, before))
    out += b"".join(uvarint(r[1]) for r in runs)
    out += b"".join(zigzag(r[2] - b[2]) for r, b in zip(runs, before))
    return out + b"".join(uvarint(owners.index(r[3])) for r in runs)


def make_header(name, build, unknown=()):
    """The header of image @name. Builds in @unknown get no entry: theirs have to be asked."""
    layer = build.layers[name]
    head = _metadata(build.version, layer, build)
    if build.version <= 3:
        return head + _records(layer)
    block = _builds_section(name, build, unknown)
    if build.version == 5:
        block += _v5_mappings(layer)
    else:
        block += struct.pack("<I", len(layer.runs())) + _records(layer)
    return head + struct.pack("<BI", 0, len(block)) + lz4_frame(block)


def _pack_frames(layer, frame_size):
    """The data as LZ4 frames that each stand alone, and their table."""
    out = b""
    for at in range(0, len(layer.stored), frame_size):
        plain = layer.stored[at:at + frame_size]
        frame = lz4_frame(plain)
        layer.frames.append((at, len(out), len(plain), len(frame)))
        out += frame
    return out


def _write(folder, name, data):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def _read(path):
    with open(path, "rb") as f:
        return f.read()


def write_build(store, memory, rootfs, version=3, parent=None, block_size=PAGE, codec=None,
                snapfile=b"state of the VMM", unknown=(), prefetch=()):
    """Write one build into folder @store; returns a Build.

    @memory and @rootfs are paths of raw images, @block_size is that of memory, @unknown are ids
    that the headers (of version 4 or 5) keep silent about. With @codec "lz4" the data is in frames.
    """
    generation = parent.generation + 1 if parent else 0
    build_id = uuid.uuid4()
    build = Build(build_id, version, generation, parent.base if parent else build_id, codec)
    build.ancestors = [parent, *parent.ancestors] if parent else []
    folder = os.path.join(store, str(build_id))
    os.makedirs(folder)
    for name, path, size in ((MEMORY, memory, block_size), (ROOTFS, rootfs, PAGE)):
        layer = _make_layer(_read(path), size, build, parent.layers[name] if parent else None)
        build.layers[name] = layer
        if layer.stored and codec:
            _write(folder, f"{name}.{codec}", _pack_frames(layer, 2 << 20))
        elif layer.stored:
            _write(folder, name, layer.stored)
    _write(folder, "snapfile", snapfile)
    metadata = {
        "version": 2,
        "template": {"build_id": str(build_id), "kernel_version": "vmlinux-6.1.102",
                     "firecracker_version": "v1.12.1_d990331"},
        "context": {"user": "user", "workdir": "/home/user", "env_vars": {}},
    }
    if prefetch:
        metadata["prefetch"] = {"memory": {"indices": list(prefetch), "block_size": block_size}}
    _write(folder, "metadata.json", json.dumps(metadata).encode())
    for name in (MEMORY, ROOTFS):
        _write(folder, name + ".header", make_header(name, build, unknown))
    return build
