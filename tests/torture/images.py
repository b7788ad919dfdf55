"""Photographs in every format that is read; a flipped byte is another picture, so Pillow alone says what is right."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageOps, features

from musiq_ref.image.decode import ImageError, decode

from .core import Kind, judge
from .mutate import spoil

PLAIN: dict[str, tuple[str, dict[str, Any]]] = {  # name: mode, what Pillow's save is told
    "rgb.png": ("RGB", {}),
    "rgba.png": ("RGBA", {}),
    "palette.png": ("P", {}),
    "bits.png": ("1", {}),
    "deep.png": ("I;16", {}),
    "baseline.jpg": ("RGB", {"quality": 85}),
    "progressive.jpg": ("RGB", {"progressive": True, "subsampling": 0}),
    "grey.jpg": ("L", {}),
    "cmyk.jpg": ("CMYK", {}),
    "exif.jpg": ("RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    "palette.gif": ("P", {}),
    "rgb.bmp": ("RGB", {}),
    "palette.bmp": ("P", {}),
    "raw.tif": ("RGB", {}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "deflate.tif": ("RGBA", {"compression": "tiff_deflate"}),
    "packbits.tif": ("L", {"compression": "packbits"}),
    "jpeg.tif": ("RGB", {"compression": "jpeg"}),
    "group4.tif": ("1", {"compression": "group4"}),
    "deep.tif": ("I;16", {}),
    "float.tif": ("F", {}),
    "lossy.webp": ("RGB", {"quality": 80}),
    "lossless.webp": ("RGBA", {"lossless": True}),
    "binary.ppm": ("RGB", {}),
    "grey.pgm": ("L", {}),
    "rgb.avif": ("RGB", {}),
}
FORMATS = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}


def picture() -> Image.Image:
    """Smooth colours and an edge, 61 × 45."""
    y, x = np.mgrid[0:45, 0:61] / 61
    pixels = np.stack([200 * x + 20, 250 * y, 60 + 90 * np.sin(9 * x + 5 * y)], axis=-1)
    pixels[15:22, 15:30] = (250, 30, 90)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def prepare() -> dict[str, tuple[bytes, np.ndarray]]:
    """{name: (a file, its pixels)}"""
    files = {"tiled.tif": tiled_tiff(np.asarray(picture())), "heic.heic": heic(picture())}
    for name, (mode, options) in PLAIN.items():
        end = name.rpartition(".")[2]
        if not (end in ("avif", "webp") and not features.check(end)):
            buffer = io.BytesIO()
            in_mode(picture(), mode).save(buffer, FORMATS.get(end, end.upper()), **options)
            files[name] = buffer.getvalue()
    return {name: (data, decode(io.BytesIO(data))) for name, data in files.items() if data}


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 250 + 3)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    image = image.convert(mode)
    if mode == "RGBA":
        image.putalpha(image.getchannel("G"))
    return image


def tiled_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of 32 × 32 tiles, not compressed, which Pillow does not write."""
    padded = np.zeros((64, 64, 3), np.uint8)
    padded[:45, :61] = pixels
    tiles = b"".join(padded[y : y + 32, x : x + 32].tobytes() for y in (0, 32) for x in (0, 32))
    start, size = 8, 32 * 32 * 3
    tags = [(256, [61]), (257, [45]), (258, [8, 8, 8]), (259, [1]), (262, [2]), (277, [3]), (284, [1])]
    tags += [(322, [32]), (323, [32]), (324, [start + i * size for i in range(4)]), (325, [size] * 4)]
    place, entries, tail = start + len(tiles), b"", b""
    beyond = place + 2 + 12 * len(tags) + 4
    for number, values in tags:
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            tail += packed
            packed = struct.pack("<I", beyond + len(tail) - len(packed))
        entries += struct.pack("<HHI", number, 4, len(values)) + packed
    return struct.pack("<2sHI", b"II", 42, place) + tiles + struct.pack("<H", len(tags)) + entries + bytes(4) + tail


def heic(image: Image.Image) -> bytes:
    try:
        import pillow_heif
    except ImportError:
        return b""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    return buffer.getvalue()


def heif_image(data: bytes) -> Image.Image:
    import pillow_heif

    return pillow_heif.open_heif(io.BytesIO(data)).to_pillow()


def spoil_png(data: bytes, rng: Random) -> bytes:
    """A PNG with a spoilt, doubled, moved or missing chunk, all checksums right."""
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which, how = rng.randrange(len(chunks)), rng.randrange(5)
    kind, content = chunks.pop(which)
    if how == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), (kind, content))
    elif how == 2:
        chunks[which:which] = [(kind, content)] * 2
    elif how > 2:
        chunks.insert(which, (kind, spoil(content, rng) if content else b"x"))
    packed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(packed)


def case(prepared: Any, rng: Random, folder: Any) -> tuple[str, str]:
    name = rng.choice(list(prepared))
    data, pixels = prepared[name]
    data = spoil_png(data, rng) if name.endswith(".png") and rng.random() < 0.5 else spoil(data, rng)
    path = folder / name
    path.write_bytes(data)

    def right(found: np.ndarray) -> bool:
        return same(found, pixels) or same(found, plain(data))

    return judge(lambda: decode(path), right, (ImageError,), name)


def same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


def plain(data: bytes) -> np.ndarray | None:
    """What Pillow by itself makes of a file: upright, on white, 8 bits of 16."""
    try:
        image = heif_image(data) if data[4:8] == b"ftyp" and b"avif" not in data[:40] else Image.open(io.BytesIO(data))
        image.load()
        with contextlib.suppress(Exception):  # damaged notes about a picture do not damage the picture
            image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            grey = np.asarray(image)
            grey = grey if image.mode == "F" else ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
            return np.stack([grey] * 3, axis=-1)
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB"))
        colour = np.asarray(image.convert("RGBA")).astype(np.uint16)
        alpha = colour[..., 3:]
        return ((colour[..., :3] * alpha + (255 - alpha) * 255 + 127) // 255).astype(np.uint8)
    except Exception:
        return None


KIND = Kind(prepare, case)
