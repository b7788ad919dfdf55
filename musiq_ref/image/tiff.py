"""TIFF files that Pillow opens and would show wrongly, or whose first page is not the picture."""

from __future__ import annotations

import math
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL = 254, 255, 256, 257, 258, 259, 262, 266
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, COLOURS = 273, 277, 278, 279, 284, 320
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, SUBIFDS, EXTRA, FORMAT = 322, 323, 324, 325, 330, 338, 339
SUBSAMPLING, BLACK_WHITE, FILTERS, DNG = 530, 532, 33422, 50706
SENSOR = (32803, 34892)  # PHOTOMETRIC of pixels behind coloured filters, and of linear ones
PLANES = {(1, 1, ()), (2, 3, ()), (2, 4, (2,)), (5, 4, ())}  # PHOTOMETRIC, SAMPLES and EXTRA that may lie apart


def tiff_problem(image: Any) -> str:
    """What keeps an opened TIFF from being scored, as the rest of a sentence; empty if nothing does.

    image: Pillow's TiffImageFile, its pixels not yet loaded

    >>> from io import BytesIO
    >>> from PIL import Image
    >>> file = BytesIO()
    >>> Image.new("RGB", (4, 3)).save(file, "TIFF")
    >>> tiff_problem(Image.open(file))
    ''
    """
    tags = image.tag_v2
    if _is_raw(image):
        return "is a raw file of a camera; develop it to PNG or TIFF first"
    if tags.get(SUBFILE, 0) & 1 or tags.get(OLD_SUBFILE) == 2 or _is_reduced(image):
        return "shows first a reduced copy of its picture; save the picture itself as PNG"
    if 2 in tags.get(FORMAT, ()):
        return "has 32-bit or signed integers, whose white is unknown; scale it to 8 bits"
    if _is_misread(tags):
        return "stores its pixels in a way that is not read here; save it as PNG"
    return "is cut short: some of its pixels are missing; get a fresh copy" if _lacks_pixels(tags) else ""


def _is_raw(image: Any) -> bool:
    """Whether it is a DNG, a CR2, or some page of it holds what a sensor measured."""
    if DNG in image.tag_v2 or _bytes(image, 8, 2) == b"CR":
        return True
    return any(page.get(PHOTOMETRIC) in SENSOR or FILTERS in page for page in [image.tag_v2, *_below(image)])


def _is_reduced(image: Any) -> bool:
    """Whether a larger picture lies below the page."""
    area = math.prod(image.size)
    return any(page.get(WIDTH, 0) * page.get(HEIGHT, 0) > area for page in _below(image))


def _below(image: Any) -> list[Any]:
    """The tags of the pages that the page points to (SubIFDs)."""
    places = image.tag_v2.get(SUBIFDS, ())
    pages, big = [], _bytes(image, 2, 1) == b"+"
    for place in places[:16]:
        if not (header := _bytes(image, 0, 16 if big else 8)):
            break
        page = ImageFileDirectory_v2(header)
        image.fp.seek(place)
        page.load(image.fp)
        pages.append(page)
    return pages


def _bytes(image: Any, start: int, count: int) -> bytes:
    """Of the file; none once it is closed."""
    if image.fp is None or image.fp.closed:
        return b""
    image.fp.seek(start)
    return image.fp.read(count)


def _is_misread(tags: Any) -> bool:
    """Whether Pillow would take the pixels for others without a word."""
    photometric, planar, plain = tags.get(PHOTOMETRIC, 0), tags.get(PLANAR, 1), tags.get(COMPRESSION, 1) == 1
    if planar == 2:
        if (photometric, tags.get(SAMPLES, 1), tags.get(EXTRA, ())) not in PLANES:
            return True
        if plain and (set(tags.get(BITS, (1,))) != {8} or tags.get(FILL, 1) != 1):
            return True
    if photometric == 6 and plain and (tags.get(SUBSAMPLING, (2, 2)) != (1, 1) or BLACK_WHITE in tags):
        return True
    return photometric == 3 and 0 < max(tags.get(COLOURS, (0,))) < 256  # colours of 8 bits where 16 are due


def _lacks_pixels(tags: Any) -> bool:
    """Whether there are fewer strips or tiles than the picture needs, or, not compressed, fewer bytes in them."""
    width, height = tags[WIDTH], tags[HEIGHT]
    planes = tags.get(SAMPLES, 1) if tags.get(PLANAR, 1) == 2 else 1
    if TILES in tags and STRIPS not in tags:
        across, down = tags[TILE_WIDTH], tags[TILE_HEIGHT]
        places, sizes = tags[TILES], tags.get(TILE_BYTES, ())
    else:
        across, down = width, min(tags.get(ROWS, height), height)
        places, sizes = tags.get(STRIPS, ()), tags.get(STRIP_BYTES, ())
    needed = math.ceil(width / across) * math.ceil(height / down) * planes
    if len(places) < needed:
        return True
    bits = tags.get(BITS, (1,))
    samples = tags.get(SAMPLES, 1) // planes
    row = math.ceil(across * samples * bits[0] / 8)
    rows = height * planes if across == width and TILES not in tags else needed * down
    return tags.get(COMPRESSION, 1) == 1 and bool(sizes) and sum(sizes) < rows * row
