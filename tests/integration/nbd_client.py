# SPDX-License-Identifier: Apache-2.0
"""A client of an NBD server, by libnbd. Run by test_nbd.py with the system's Python, which has it.

usage: nbd_client.py calls|flight|read_only URI IMAGE
       nbd_client.py stress URI IMAGE SEED
       nbd_client.py damaged URI IMAGE AT
"""

import random
import sys

import nbd

FUA, DF, NO_HOLE, FAST = (nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_DF, nbd.CMD_FLAG_NO_HOLE,
                          nbd.CMD_FLAG_FAST_ZERO)


def connect(uri, structured=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    h.set_strict_mode(0)  # what makes no sense is sent all the same: the server is to see it
    return h


def same(got, expected, what):
    if got != expected:
        n = next(i for i, (a, b) in enumerate(zip(got, expected)) if a != b)
        sys.exit(f"{what}: differs at byte {n}: {got[n:n + 8].hex()}, not "
                 f"{expected[n:n + 8].hex()}")


def fails(errno, function, *args):
    try:
        function(*args)
    except nbd.Error as e:
        assert e.errno == errno, f"{function} {args[1:]}: {e.errno}, not {errno}"
        return
    sys.exit(f"{function} {args[1:]}: no error, expected {errno}")


def calls(uri, image):
    """Every call, aligned and not, with and without structured replies."""
    with open(image, "rb") as f:
        model = bytearray(f.read())
    size = len(model)
    for structured in (False, True):
        h = connect(uri, structured)
        assert h.get_size() == size

        def check(what, h=h):
            same(h.pread(size, 0), model, what)

        check("the image")
        for off, n in ((0, 4096), (1, 1), (4095, 2), (65535, 70000), (size - 1, 1), (123, 1 << 20)):
            data = random.Random(off).randbytes(n)
            h.pwrite(data, off, FUA if n & 1 else 0)
            model[off:off + n] = data
            same(h.pread(n, off), data, f"written at {off}")
            if structured:
                same(h.pread(n, off, DF), data, "in one piece")
        check("after writes")
        h.zero(100000, 5001, NO_HOLE | FAST)
        model[5001:105001] = bytes(100000)
        h.zero(1 << 20, 2 << 20, FUA)
        model[2 << 20:3 << 20] = bytes(1 << 20)
        h.trim(1 << 16, 1 << 16)
        model[1 << 16:2 << 16] = bytes(1 << 16)
        check("after zeroes")
        h.flush()
        h.cache(size, 0)
        if structured:
            seen = []
            h.block_status(size, 0, lambda _, off, entries, err: seen.append((off, entries)))
            lengths = seen[0][1][::2]
            assert seen[0][0] == 0 and all(lengths) and sum(lengths) <= size, seen
            h.block_status(1 << 20, 2 << 20, lambda _, off, entries, err: seen.append(entries))
            assert seen[1] == [1 << 20, nbd.STATE_HOLE | nbd.STATE_ZERO], seen
        fails("EINVAL", h.pread, 1, size)
        fails("EINVAL", h.pread, 4096, size - 1)
        fails("ENOSPC", h.pwrite, b"xx", size - 1)
        fails("ENOSPC", h.zero, 2, size - 1)
        fails("EINVAL", h.trim, 2, size - 1)
        same(h.pread(16 << 20, 77), model[77:77 + (16 << 20)], "16 MiB")
        h.pwrite(model[:16 << 20], 0)
        check("after 16 MiB")
        h.shutdown()


def stress(uri, image, seed):
    """Four connections, each with eight requests at a time in its share of the blocks."""
    with open(image, "rb") as f:
        model = bytearray(f.read())
    rng = random.Random(int(seed))
    print(f"seed {seed}")
    handles = [connect(uri, i % 2 == 0) for i in range(4)]
    share = len(model) // 32  # of each of the 4 x 8 that go on at once
    for _ in range(60):
        under_way = []
        for i in range(32):
            h, lo = handles[i % 4], i * share
            off = lo + rng.randrange(share)
            n = rng.randrange(1, min(rng.choice((600, 9000, 400000)), lo + share - off) + 1)
            kind = rng.choice("rrwwwzt")
            if kind == "r":
                buf = nbd.Buffer(n)
                under_way.append((h, h.aio_pread(buf, off), buf, off, n))
                continue
            data = rng.randbytes(n) if kind == "w" else bytes(n)
            if kind == "w":
                cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), off,
                                      flags=rng.choice((0, FUA)))
            elif kind == "z":
                cookie = h.aio_zero(n, off)
            else:  # a trim of whole blocks: what is only a part of one may stay
                off, n = lo, max(4096, (n // 4096) * 4096)
                data, cookie = bytes(n), h.aio_trim(n, off)
            model[off:off + n] = data
            under_way.append((h, cookie, None, off, n))
        for h, cookie, buf, off, n in under_way:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
            if buf:
                same(bytes(buf.to_bytearray()), model[off:off + n], f"read at {off}")
    handles[0].flush()
    for h in handles:
        same(h.pread(len(model), 0), model, "at the end")
        h.shutdown()


def flight(uri, image):
    """64 requests under way, answered in whatever order."""
    with open(image, "rb") as f:
        model = f.read()
    h = connect(uri)
    bufs = [(nbd.Buffer(70000), i * 70001) for i in range(64)]
    cookies = [h.aio_pread(buf, off) for buf, off in bufs]
    assert h.aio_in_flight() > 0
    while h.aio_in_flight() > 0:
        h.poll(-1)
    for cookie, (buf, off) in zip(cookies, bufs):
        assert h.aio_command_completed(cookie)
        same(bytes(buf.to_bytearray()), model[off:off + 70000], f"read at {off}")
    h.shutdown()


def damaged(uri, image, at):
    """EIO where a byte of the store is wrong; the connection lives, and so does everything else."""
    with open(image, "rb") as f:
        model = f.read()
    at = int(at)
    for structured in (True, False):
        h = connect(uri, structured)
        for n, off in ((1, at), (4096, at - 5), (300000, at - 70000), (len(model), 0)):
            fails("EIO", h.pread, n, off)
        fails("EIO", h.pwrite, b"x", at)  # the rest of its block is not to be had
        same(h.pread(65536, 0), model[:65536], "elsewhere")
        h.shutdown()
    h = connect(uri)
    whole = at // 65536 * 65536
    h.pwrite(bytes(65536), whole)  # which needs nothing of what was there
    same(h.pread(65536, whole), bytes(65536), "written over")
    h.shutdown()


def read_only(uri, image):
    with open(image, "rb") as f:
        model = f.read()
    h = connect(uri)
    assert h.is_read_only()
    fails("EPERM", h.pwrite, b"x", 0)
    fails("EPERM", h.zero, 1, 0)
    fails("EPERM", h.trim, 1, 0)
    h.flush()
    same(h.pread(len(model), 0), model, "after what was refused")
    h.shutdown()


if __name__ == "__main__":
    {f.__name__: f for f in (calls, stress, flight, damaged, read_only)}[sys.argv[1]](*sys.argv[2:])
