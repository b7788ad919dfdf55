"""Files that end before their picture does, where Pillow fills the rest and says nothing.

JPEG: a download cut short, with an end marker put behind it. What a decoder makes of pixels that are not there depends
on what follows them, so the picture is decoded again with other bytes there; an intact one stays the same. The same
tells a file whose end was never written: a download that was stopped after its whole length had been reserved, or a
crash, leaves zeros there, of which decoders make pixels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from math import ceil
from typing import Any

from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from musiq_ref.image.limits import SCANS, SEGMENTS

MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # of JPEG, but those that may stand among pixels
PROGRESSIVE, SCAN, END = 0xC2, 0xDA, 0xD9
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # coding that may leave zeros away at the end
JUNK = bytes(value % 251 for value in range(0, 5000, 7))  # without 255, which would begin a marker
JUNK += b"".join(bytes([255, restart]) + JUNK for restart in range(0xD0, 0xD8))
LAST = 32  # pixels: the side of the last block, of which encoders may leave a few bits away
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel of each colour type of PNG
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def is_cut(image: Image.Image, data: bytes) -> bool:
    """Whether a picture that Pillow decoded was not all there.

    image: Pillow's image, loaded
    data: of its file

    >>> file = BytesIO()
    >>> Image.new("L", (4, 3)).save(file, "PNG")
    >>> is_cut(Image.open(file), file.getvalue()), is_cut(Image.open(file), file.getvalue()[:-12])
    (False, True)
    """
    if image.format == "PNG":
        return _png_is_cut(data)
    if image.format == "WEBP":
        end = 8 + int.from_bytes(data[4:8], "little")
        return len(data) < end or _ends_in_zeros(image, data[:end])
    if image.format in ("AVIF", "HEIF"):
        return _ends_in_zeros(image, data)
    return image.format in ("JPEG", "MPO") and _jpeg_is_cut(image, data)


def _ends_in_zeros(image: Image.Image, data: bytes) -> bool:
    """Whether the file ends in zeros that were decoded, more than encoders leave behind a blank picture."""
    written = data.rstrip(b"\0")
    few = 64 + image.width * image.height // 4096
    if len(data) - len(written) <= few or b"VP8L" in written:  # lossless WebP may well end in zeros
        return False
    kind: Any = type(image)
    try:
        other = kind(BytesIO(written + (JUNK * (len(data) // len(JUNK) + 1))[len(written) : len(data)]), "")
        other.load()
    except Exception:  # as the junk is no picture
        return True
    return other.size != image.size or bool(ImageChops.difference(image, other).getbbox(alpha_only=False))


def _jpeg_is_cut(image: Image.Image, data: bytes) -> bool:
    segments = list(_segments(data))
    kinds = [kind for kind, _, _ in segments]
    if ARITHMETIC & set(kinds):
        return False
    end = segments[-1][1] if END in kinds else len(data.rstrip(b"\0"))
    other = JpegImageFile(BytesIO(data[:end] + JUNK + b"\xff\xd9"))
    if (other.mode, other.size) != (image.mode, image.size):  # reduced while decoding
        return False
    left, top, right, bottom = ImageChops.difference(image, other).getbbox(alpha_only=False) or (0, 0, 0, 0)
    return max(right - left, bottom - top) > LAST or _lacks_scans(segments)


def too_many_parts(data: bytes) -> bool:
    """Whether a JPEG has so many scans or segments that it would take minutes, and is no photograph.

    >>> too_many_parts(b"\\xff\\xd8" + b"\\xff\\xda\\0\\2" * 101)
    True
    """
    kinds = [kind for kind, _, _ in islice(_segments(data), SEGMENTS)]
    return len(kinds) == SEGMENTS or kinds.count(SCAN) > SCANS


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, place and content of a JPEG's segments, to the first end marker."""
    at = 2
    while marker := MARKER.search(data, at):
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        yield marker[1][0], marker.start(), data[marker.end() + 2 : at]
        if marker[1][0] == END:
            return


def _lacks_scans(segments: list[tuple[int, int, bytes]]) -> bool:
    """Whether a progressive JPEG ends before every coefficient of every component has come with its last bit."""
    due: set[tuple[int, int]] = set()
    for kind, _, body in segments:
        if kind == PROGRESSIVE:
            due = {(component, k) for component in body[6::3] for k in range(64)}
        elif kind == SCAN and body[-1] % 16 == 0:  # down to bit 0
            due -= {(component, k) for component in body[1:-3:2] for k in range(body[-3], body[-2] + 1)}
    return bool(due)


def _png_is_cut(data: bytes) -> bool:
    """Whether the last chunk is missing, or the pixels inflate to fewer bytes than the header says."""
    chunks = list(_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND":
        return True
    header = chunks[0][1]
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
    bits, passes = header[8] * SAMPLES[header[9]], ADAM7 if header[12] else [(0, 0, 1, 1)]
    left = sum(
        rows * (1 + ceil(columns * bits / 8))
        for x, y, dx, dy in passes
        if (rows := ceil((height - y) / dy)) > 0 < (columns := ceil((width - x) / dx))
    )
    inflate = zlib.decompressobj()
    for _, body in (chunk for chunk in chunks if chunk[0] == b"IDAT"):
        while left > 0 and body:
            left -= len(inflate.decompress(body, 2**20))
            body = inflate.unconsumed_tail
    return left > 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of a PNG's chunks, to the last."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + size
