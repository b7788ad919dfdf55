"""How large a picture may be: a photograph always is let through, a small file that asks for everything is not."""

from __future__ import annotations

MOST = 50 * 2**20  # pixels, where nobody says otherwise: 2 GiB of memory
ANY, EACH = 2**22, 256  # pixels that any file may hold, and that each of its bytes adds; photographs have 1 to 50
SCANS, SEGMENTS = 100, 10_000  # of a JPEG: each scan goes over all pixels; encoders need 1 to 15
SPARE = 2**26  # bytes of a file besides its pixels
SIDE = 16  # of the smallest patches that are counted as pixels; smaller ones count like these


def most_bytes(max_pixels: int | None) -> int:
    """The size of the largest file that is read: eight bytes a pixel, and some.

    >>> most_bytes(None) // 10**6
    486
    """
    return 8 * (max_pixels or MOST) + SPARE


def too_many_bytes(size: int, most: int) -> str:
    """What is wrong with a file, or as much of a stream as was read, as the rest of a sentence; empty if nothing is.

    >>> too_many_bytes(10, most_bytes(None))
    ''
    """
    return f"is larger than {most} bytes; {remedy((size - SPARE) // 8 + 1)}" if size > most else ""


def too_many_pixels(width: int, height: int, max_pixels: int | None, size: int | None = None) -> str:
    """What is wrong with a picture of that size, as the rest of a sentence; empty if nothing is.

    max_pixels: that are accepted; None for MOST, and for a file fewer if it is too small to be a photograph
    size: bytes of the file, or None

    >>> too_many_pixels(6000, 4000, None, 3_000_000)
    ''
    """
    most = MOST if max_pixels is None else max_pixels
    pixels, held = width * height, f"{width} x {height} pixels"
    if pixels > most:
        return f"has {held}, more than max_pixels={most}; {remedy(pixels)}"
    if max_pixels is None and size is not None and pixels > ANY + EACH * size:
        return f"has {held} in {size} bytes, too few for a photograph; {remedy(pixels)}"
    return ""


def too_many_patches(patches: int, patch_size: int, max_pixels: int | None) -> str:
    """The same for a picture's patches at its own size: a narrow one has more than its pixels would fill.

    >>> too_many_patches(150_000, 32, None)[:26]
    'is cut into 150000 patches'
    """
    most, pixels = max(MOST, max_pixels or 0), patches * max(SIDE, patch_size) ** 2
    if pixels <= most * 9 // 8:  # edges need some
        return ""
    return f"is cut into {patches} patches, those of {pixels} pixels, more than max_pixels={most}; {remedy(pixels)}"


def remedy(pixels: int) -> str:
    """How a limit is lifted.

    >>> remedy(10)
    'raise max_pixels if it is to be trusted (musiq-ref score, evaluate and distort: --max-pixels 10)'
    """
    return f"raise max_pixels if it is to be trusted (musiq-ref score, evaluate and distort: --max-pixels {pixels})"
