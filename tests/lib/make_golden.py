#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of the formats: tests/lib/golden_data.h and the corpus of tests/fuzz.

A second implementation, from the formats' description alone: nothing of thaw runs here, and LZ4
frames are put together by hand from blocks that are stored, not compressed. Its output is checked
in; run it again only to change what the files say. XXH3 comes from libxxhash, by ctypes.
"""

import ctypes
import os
import struct
import sys
import uuid

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = 4096
NIL = bytes(16)
A, B, C = (uuid.UUID(int=n * 0x01010101010101010101010101010101).bytes for n in (0xA1, 0xB2, 0xC3))
GENERATION = 3

# The golden image: pages, build, storage page. The two runs of A in the middle must not be joined.
SIZE = 40 * PAGE
RUNS = [(3, A, 0), (5, NIL, 0), (2, B, 0), (1, A, 10), (1, A, 12), (20, C, 100), (8, NIL, 0)]
# Frames: start U, start C, size U, size C. A table with gaps: it holds what the image needs of A.
FRAMES_A = [(0, 0, 16384, 5000), (40960, 9000, 16384, 700)]
SHA_A = bytes(range(32))


def xxh32(data, seed=0):
    """XXH32 as its specification has it."""
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    mask = 0xFFFFFFFF

    def rotl(x, r):
        return ((x << r) | (x >> (32 - r))) & mask

    at = 0
    if len(data) >= 16:
        acc = [(seed + p1 + p2) & mask, (seed + p2) & mask, seed, (seed - p1) & mask]
        while at + 16 <= len(data):
            for i, lane in enumerate(struct.unpack_from("<4I", data, at)):
                acc[i] = rotl((acc[i] + lane * p2) & mask, 13) * p1 & mask
            at += 16
        h = (rotl(acc[0], 1) + rotl(acc[1], 7) + rotl(acc[2], 12) + rotl(acc[3], 18)) & mask
    else:
        h = (seed + p5) & mask
    h = (h + len(data)) & mask
    while at + 4 <= len(data):
        h = rotl((h + struct.unpack_from("<I", data, at)[0] * p3) & mask, 17) * p4 & mask
        at += 4
    for byte in data[at:]:
        h = rotl((h + byte * p5) & mask, 11) * p1 & mask
    h = (h ^ (h >> 15)) * p2 & mask
    h = (h ^ (h >> 13)) * p3 & mask
    return h ^ (h >> 16)


def xxh3(data):
    lib = ctypes.CDLL("libxxhash.so.0")
    lib.XXH3_64bits.restype = ctypes.c_uint64
    return lib.XXH3_64bits(ctypes.c_char_p(data), ctypes.c_size_t(len(data)))


def lz4_frame(data):
    """One stored block: version 01, independent blocks, block and content checksum, 4 MiB."""
    descriptor = bytes([0b01110100, 0x70])
    frame = struct.pack("<I", 0x184D2204) + descriptor + bytes([xxh32(descriptor) >> 8 & 0xFF])
    if data:
        frame += struct.pack("<I", len(data) | 0x80000000) + data + struct.pack("<I", xxh32(data))
    return frame + struct.pack("<II", 0, xxh32(data))


def meta(version):
    return struct.pack("<QQQQ", version, PAGE, SIZE, GENERATION) + B + A


def records():
    out, page = b"", 0
    for pages, build, storage in RUNS:
        out += struct.pack("<QQ", page * PAGE, pages * PAGE) + build
        out += struct.pack("<Q", storage * PAGE)
        page += pages
    return out


def frame_table(codec, frames):
    out = struct.pack("<II", codec, len(frames))
    for start_u, start_c, size_u, size_c in frames:
        out += struct.pack("<qqii", start_u, start_c, size_u, size_c)
    return out


def builds_section():
    """C has no entry: how its data is stored is for its own header to say."""
    out = struct.pack("<I", 2)
    out += A + struct.pack("<q", 20 * PAGE) + SHA_A + frame_table(1, FRAMES_A)
    out += B + struct.pack("<q", 2 * PAGE) + bytes(32) + frame_table(0, [])
    return out


def block_v4():
    return builds_section() + struct.pack("<I", len(RUNS)) + records()


def uvarint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def zigzag(n):
    return uvarint(n << 1 if n >= 0 else (-n << 1) - 1)


def block_v5():
    mapped, page = [], 0
    for pages, build, storage in RUNS:
        if build != NIL:
            mapped.append((page, pages, storage, build))
        page += pages
    ids = [A, B, C]
    out = builds_section() + struct.pack("<I", len(ids)) + b"".join(ids)
    out += struct.pack("<I", len(mapped))
    before = [(0, 0, 0, NIL)] + mapped
    out += b"".join(uvarint(m[0] - b[0]) for m, b in zip(mapped, before))
    out += b"".join(uvarint(m[1]) for m in mapped)
    out += b"".join(zigzag(m[2] - b[2]) for m, b in zip(mapped, before))
    return out + b"".join(uvarint(ids.index(m[3])) for m in mapped)


def framed(version, block):
    return meta(version) + struct.pack("<BI", 0, len(block)) + lz4_frame(block)


def sums_page(number, sums):
    page = b"THAWSUM1" + struct.pack("<II", number, 1)
    page += b"".join(struct.pack("<Q", s) for s in sums) + bytes(8 * (509 - len(sums)))
    return page + struct.pack("<Q", xxh3(page))


MANIFEST = """{
  "format": 1,
  "build": "b2b2b2b2-b2b2-b2b2-b2b2-b2b2b2b2b2b2",
  "parent": "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1",
  "created": "2026-08-07T12:34:56Z",
  "objects": [
    {
      "name": "memfile",
      "size": 8192,
      "uncompressed_size": 8192,
      "codec": "none",
      "sha256": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
      "sums": "memfile.sums"
    },
    {
      "name": "memfile.sums",
      "size": 4096,
      "uncompressed_size": 4096,
      "codec": "none",
      "sha256": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    },
    {
      "name": "rootfs.ext4.zstd",
      "size": 5700,
      "uncompressed_size": 32768,
      "codec": "zstd",
      "sha256": "00000000000000000000000000000000000000000000000000000000000000aa"
    }
  ]
}
"""

METADATA_E2B = """{"version":2,
"template":{"build_id":"b2b2b2b2-b2b2-b2b2-b2b2-b2b2b2b2b2b2","kernel_version":"vmlinux-6.1.102",
"firecracker_version":"v1.12.1_d990331"},
"context":{"user":"user","workdir":"/home/user","env_vars":{"A":"b"}},
"start":{"start_command":"sleep 1","ready_command":"true","context":{}},
"from_template":{"alias":"base","build_id":"a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"},
"prefetch":{"memory":{"indices":[7,3,0,511],"access_types":["r","w","p","r"],"block_size":2097152}},
"filesystem_only":true}
"""

METADATA_THAW = """{
  "version": 2,
  "prefetch": {
    "memory": {
      "indices": [
        3,
        1,
        0
      ],
      "block_size": 4096
    }
  },
  "thaw": {
    "vmm": {
      "kind": "qemu",
      "version": "7.2.9",
      "args": [
        "-m",
        "256"
      ]
    },
    "memory_bytes": 268435456,
    "page_bytes": 4096
  }
}
"""

HANDOVER = ('[{"base_host_virt_addr":139870000001024,"size":3221225472,"offset":0,'
            '"page_size":4096,"page_size_kib":4096},'
            '{"base_host_virt_addr":139880000000000,"size":31138512896,"offset":3221225472,'
            '"page_size":4096,"page_size_kib":4096}]')
HANDOVER_NYDUS = ('{"type":0,"regions":[{"base_host_virt_addr":9223372034707292160,'
                  '"size":2097152,"offset":2097152,"page_size_kib":2097152,"gpa_start":0}],'
                  '"policy":1,"enable_prefault":false}')

CORPUS = {
    "header": {
        "v1": meta(1) + records(),
        "v2": meta(2) + records(),
        "v3": meta(3) + records(),
        "v4": framed(4, block_v4()),
        "v5": framed(5, block_v5()),
    },
    "header_block": {
        "v4": meta(4) + block_v4(),
        "v5": meta(5) + block_v5(),
        "v5-zeros": meta(5) + struct.pack("<III", 0, 0, 0),
    },
    "manifest": {"full": MANIFEST.encode()},
    "metadata": {
        "e2b": METADATA_E2B.encode(),
        "thaw": METADATA_THAW.encode(),
        "version-1": b'{"version":1,"start":{"start_command":"x"}}',
        "version-text": b'{"version":"v2","thaw":{}}',
    },
    "sums": {
        "first": sums_page(0, [xxh3(b"a" * 65536), xxh3(b"b" * 100)]),
        "full": sums_page(7, list(range(1 << 60, (1 << 60) + 509))),
    },
    "handover": {"firecracker": HANDOVER.encode(), "nydus": HANDOVER_NYDUS.encode()},
}


def c_array(name, data):
    lines = ["static const uint8_t %s[] = {" % name]
    for at in range(0, len(data), 16):
        lines.append("    " + " ".join("0x%02x," % b for b in data[at:at + 16]))
    return "\n".join(lines + ["};"])


def main():
    names = ["header/v3", "header/v4", "header/v5", "header_block/v4", "header_block/v5"]
    with open(os.path.join(TESTS, "lib", "golden_data.h"), "w", encoding="ascii") as out:
        out.write("/* SPDX-License-Identifier: Apache-2.0 */\n#ifndef THAW_TESTS_GOLDEN_DATA_H\n"
                  "#define THAW_TESTS_GOLDEN_DATA_H\n\n"
                  "/* Written by make_golden.py, which says what is in here. */\n\n"
                  "#include <stdint.h>\n\n/* clang-format off */\n")
        for name in names:
            target, file = name.split("/")
            out.write("[[gnu::unused]] ")
            out.write(c_array("golden_%s_%s" % (target, file), CORPUS[target][file]) + "\n\n")
        out.write("/* clang-format on */\n\n#endif\n")
    for target, files in CORPUS.items():
        folder = os.path.join(TESTS, "fuzz", "corpus", target)
        os.makedirs(folder, exist_ok=True)
        for name, data in files.items():
            with open(os.path.join(folder, name), "wb") as out:
                out.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
