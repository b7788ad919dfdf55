"""HEIC and AVIF, two kinds of one container: HEIC is read by pillow-heif, AVIF by Pillow 11.3 and later."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO

from PIL import Image, features

from musiq_ref.extras import needs

EXTENSIONS = {".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".avif": "AVIF", ".avifs": "AVIF"}
NEEDS = {"HEIC": f"pillow-heif: {needs('heif')}", "AVIF": "Pillow 11.3 or later"}
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # AVIF has the last two as well


def kind_of(data: bytes) -> str | None:
    """ "HEIC", "AVIF" or None: what the first box of a file says.

    >>> kind_of(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic")
    'HEIC'
    """
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[at : at + 4] for at in range(8, end, 4)}
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & HEIC_BRANDS else None


def readable(kind: str) -> bool:
    """Whether "HEIC" or "AVIF" can be read with what is installed.

    >>> readable("HEIC") in (True, False)
    True
    """
    if kind == "AVIF":
        return "avif" in features.modules and features.check_module("avif")
    return find_spec("pillow_heif") is not None


def open_heic(data: bytes) -> Image.Image:
    """The primary picture of a HEIC file, upright, not yet decoded."""
    from pillow_heif import HeifImageFile

    return HeifImageFile(BytesIO(data), "")
