"""TIFF files by hand, in the layouts that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

CODES = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q"}  # of the field types


def tiff(samples, bits=8, *, order="<", photometric=2, planar=1, tile=None, rows=None, packed=False, big=False, **more):
    """One page.

    samples: (H, W, C)
    tile: (height, width); otherwise in strips of so many rows
    packed: by zlib
    big: BigTIFF
    more: sample_format, extra (the kinds of the samples beyond colour), fill (2: the lowest bit first),
        tags {number: (type, values)} that replace others, sub: the tags of a SubIFD
    """
    height, width, channels = samples.shape
    planes = [samples] if planar == 1 else [samples[:, :, c : c + 1] for c in range(channels)]
    chunks = [_chunk(block, bits, order, packed, more) for p in planes for block in _blocks(p, tile, rows or height)]
    data = bytearray(struct.pack(order + "2sH", b"II" if order == "<" else b"MM", 43 if big else 42))
    data += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, 0) if big else (0,)))
    places = []
    for chunk in chunks:
        places.append(len(data))
        data += chunk + bytes(len(chunk) % 2)
    one = {256: width, 257: height, 259: 8 if packed else 1, 262: photometric, 277: channels, 284: planar}
    one |= {322: tile[1], 323: tile[0]} if tile else {278: rows or height}
    tags = {number: (4, [value]) for number, value in one.items()} | {258: (3, [bits] * channels)}
    tags |= {324 if tile else 273: (4, places), 325 if tile else 279: (4, [len(chunk) for chunk in chunks])}
    tags |= {339: (3, [more["sample_format"]] * channels)} if "sample_format" in more else {}
    tags |= {266: (3, [more["fill"]])} if "fill" in more else {}
    tags |= {338: (3, list(more["extra"]))} if more.get("extra") else {}
    if "sub" in more:
        tags[330] = (4, [_directory(data, {**tags, **more["sub"]}, order, big)])
    struct.pack_into(*_first(data, {**tags, **more.get("tags", {})}, order, big))
    return bytes(data)


def _first(data, tags, order, big):
    place = _directory(data, tags, order, big)
    return order + ("Q" if big else "I"), data, 8 if big else 4, place


def _blocks(plane, tile, rows):
    if not tile:
        return [plane[y : y + rows] for y in range(0, len(plane), rows)]
    down, across = tile
    height, width = plane.shape[:2]
    whole = np.pad(plane, ((0, -height % down), (0, -width % across), (0, 0)))
    return [whole[y : y + down, x : x + across] for y in range(0, height, down) for x in range(0, width, across)]


def _chunk(block, bits, order, packed, more):
    if bits % 8 == 0:
        kind = "uif"[more.get("sample_format", 1) - 1]
        data = block.astype(f"{order}{kind}{bits // 8}").tobytes()
    else:
        each = (block.reshape(len(block), -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(each.reshape(len(block), -1).astype("u1"), axis=1).tobytes()
    if more.get("fill") == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")).tobytes()
    return zlib.compress(data) if packed else data


def _directory(data, tags, order, big):
    """Appends a directory and what does not fit into it; returns its place."""
    room, word, entries = (8, "Q", b"") if big else (4, "I", b"")
    for number, (kind, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
        if len(value) > room:
            value, place = struct.pack(order + word, len(data)), value
            data += place + bytes(len(place) % 2)
        entries += struct.pack(order + "HH" + word, number, kind, len(values)) + value.ljust(room, b"\0")
    place = len(data)
    data += struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + struct.pack(order + word, 0)
    return place
