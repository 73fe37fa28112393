# SPDX-License-Identifier: Apache-2.0
"""What a guest does to its disk, by libnbd. Run with the system's Python, which has it.

usage: disk_client.py write URI MODEL SEED MIB    random writes of so much together
       disk_client.py zero URI MODEL SEED MIB     the same, with zeros
       disk_client.py read URI MODEL              all of it

MODEL is a file with what the disk must hold, and MODEL.known with a byte for each page: 1 if that is
known, 0 if a write of it has failed. The first writer makes the latter. Prints a line of JSON: calls
that succeeded, how often which errno came, and pages that were wrong, which is exit status 1.
"""

import collections
import json
import os
import random
import sys

import nbd

PAGE = 4096


def load(model):
    with open(model, "rb") as f:
        image = bytearray(f.read())
    if not os.path.exists(model + ".known"):
        return image, bytearray(b"\1" * (len(image) // PAGE))
    with open(model + ".known", "rb") as f:
        return image, bytearray(f.read())


def store(model, image, known):
    for path, data in ((model, image), (model + ".known", known)):
        with open(path, "wb") as f:
            f.write(data)


def change(h, model, rng, total, zeros):
    """Random pieces until @total bytes were tried. (calls, errors)"""
    image, known = load(model)
    calls, errors = 0, collections.Counter()
    while total > 0:
        pages = rng.choice((1, 1, 4, 16, 64))
        first = rng.randrange(len(known) - pages)
        off, data = first * PAGE, bytes(pages * PAGE) if zeros else rng.randbytes(pages * PAGE)
        total -= len(data)
        try:
            if zeros:
                h.zero(len(data), off)
            else:
                h.pwrite(data, off)
            image[off:off + len(data)] = data
            known[first:first + pages] = b"\1" * pages
            calls += 1
        except nbd.Error as e:
            known[first:first + pages] = bytes(pages)
            errors[e.errno] += 1
    store(model, image, known)
    return {"calls": calls, "errors": errors, "wrong": 0}


def read(h, model):
    image, known = load(model)
    result = {"calls": 0, "errors": collections.Counter(), "wrong": 0}
    for first in range(0, len(known), 16):
        off = first * PAGE
        try:
            data = h.pread(16 * PAGE, off)
        except nbd.Error as e:
            result["errors"][e.errno] += 1
            continue
        result["calls"] += 1
        for page in range(16):
            at = page * PAGE
            result["wrong"] += known[first + page] == 1 and \
                data[at:at + PAGE] != image[off + at:off + at + PAGE]
    return result


def main(what, uri, model, seed=0, mib=0):
    h = nbd.NBD()
    h.connect_uri(uri)
    if what == "read":
        result = read(h, model)
    else:
        result = change(h, model, random.Random(int(seed)), int(mib) << 20, what == "zero")
    print(json.dumps(result), flush=True)
    sys.exit(1 if result["wrong"] else 0)


main(*sys.argv[1:])
