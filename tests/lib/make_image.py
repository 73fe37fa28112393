#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a test image: the same bytes for the same arguments, on every machine.

  make_image.py --out FILE --size 16M [--kind mixed|random|text|zero|holes] [--seed N]

random  every page is random
text    every page is text that compresses well
zero    every page is zeros, and written: the file has no holes
holes   every page is a hole
mixed   what a guest's memory looks like: runs of 1 to 64 pages, each random, text, the same few
        words over and over, written zeros, or a hole; the first and the last page are random
"""

import argparse
import os
import random
import sys

PAGE = 4096
SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
RUN_PAGES_MAX = 64
KINDS = ("mixed", "random", "text", "zero", "holes")


def parse_size(text):
    """The bytes of "4096", "64K", "16M" or "1G"."""
    unit = SUFFIXES.get(text[-1:].upper(), 1)
    return int(text[:-1] if unit > 1 else text) * unit


def _text(rng, size):
    words = ["page", "fault", "guest", "memory", "kernel", "snapshot", "resume", "block"]
    line = " ".join(rng.choice(words) for _ in range(200)).encode() + b"\n"
    return (line * (size // len(line) + 1))[:size]


def _run(rng, kind, size):
    """Contents of a run of pages, or None for a hole."""
    if kind == "random":
        return rng.randbytes(size)
    if kind == "text":
        return _text(rng, size)
    if kind == "words":
        return rng.randbytes(16) * (size // 16)
    if kind == "zero":
        return bytes(size)
    return None


def make_image(path, size, kind="mixed", seed=1):
    """Write @size bytes of @kind to a new file @path; returns @path."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    rng = random.Random(f"{seed}/{kind}/{size}")
    with open(path, "wb") as out:
        at = 0
        while at < size:
            length = min(rng.randint(1, RUN_PAGES_MAX) * PAGE, size - at)
            what = kind
            if kind == "mixed":
                what = rng.choice(("random", "random", "text", "words", "zero", "holes"))
                if at == 0 or at + length == size:
                    what = "random"
            data = _run(rng, what, length)
            if data is not None:
                out.seek(at)
                out.write(data)
            at += length
        out.truncate(size)
    return path


def flip_byte(path, offset, mask=0x01):
    """Change one byte of the file @path in place."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        byte = os.pread(fd, 1, offset)
        if len(byte) != 1:
            raise ValueError(f"{path} has no byte {offset}")
        os.pwrite(fd, bytes([byte[0] ^ mask]), offset)
    finally:
        os.close(fd)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--size", required=True, type=parse_size)
    parser.add_argument("--kind", default="mixed", choices=KINDS)
    parser.add_argument("--seed", default=1, type=int)
    args = parser.parse_args()
    make_image(args.out, args.size, args.kind, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
