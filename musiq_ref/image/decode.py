"""Files, Pillow images and arrays to pixels: the first step of SPEC 3.

Everything becomes RGB on a white (or chosen) background, upright. 8 bits a channel is what the model was trained on:
16-bit greys are scaled, round(v/257); of 16-bit colour Pillow keeps the high byte, floor(v/256). Colour profiles (ICC)
are not applied, CMYK becomes RGB by (255 − C)·(255 − K)/255, and of several frames the first one counts.
"""

from __future__ import annotations

import os
import stat
from io import BytesIO
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, ImageFile

from musiq_ref.image.cut import is_cut, too_many_parts
from musiq_ref.image.heif import NEEDS, kind_of, open_heic, readable
from musiq_ref.image.limits import most_bytes, too_many_bytes, too_many_pixels
from musiq_ref.image.paths import missing
from musiq_ref.image.tiff import tiff_problem

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # Pillow's names; it may lack the last
JPEG = b"\xff\xd8"
WHITE = {"b1": 1, "u1": 255, "u2": 65535}  # of bool, uint8, uint16
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # TIFF and EXIF tags


class SupportsArray(Protocol):
    """An array of any library that NumPy can read: a NumPy array, a tensor, …"""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray: ...


ImageLike = str | os.PathLike[str] | IO[bytes] | Image.Image | SupportsArray
"""What `decode` reads: a path, a binary file object, a Pillow image or an array."""


class ImageError(ValueError):
    """An image that cannot be used; the message is one sentence that names it and says what to do.

    >>> decode(np.zeros((0, 5, 3), np.uint8))
    Traceback (most recent call last):
    musiq_ref.image.decode.ImageError: ...
    """


def decode(
    source: ImageLike, *, background: tuple[int, int, int] = (255, 255, 255), max_pixels: int | None = None
) -> np.ndarray:
    """The pixels of an image as a new array (H, W, 3): uint8, or for float arrays and float TIFFs, their dtype.

    source: a path; a binary file object, read from where it stands and left open; a Pillow image (its current frame);
      or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or float32/float64 in [0, 1]
    background: the 8-bit colour behind transparent pixels
    max_pixels: larger images are refused before decoding; None: those of more than 50·2²⁰, and files of many pixels in
      so few bytes that they are no photographs

    Raises ImageError for whatever is not an intact image.

    >>> decode(np.array([[0, 65535]], dtype="uint16")).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    >>> decode(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), background=(255, 255, 0)).tolist()
    [[[204, 204, 0]]]
    >>> decode("missing.jpg")
    Traceback (most recent call last):
    musiq_ref.image.decode.ImageError: missing.jpg does not exist; check the path
    """
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise ValueError(f"background is {background!r}; give red, green and blue, each from 0 to 255")
    most = most_bytes(max_pixels)
    if isinstance(source, Image.Image):
        name = "the given image"
        pixels = _decode_image(source, name, max_pixels)
    elif isinstance(source, str | os.PathLike):
        name = str(source)
        pixels = _decode_bytes(_read_path(source, name, most), name, max_pixels)
    elif hasattr(source, "read"):
        name = given if isinstance(given := getattr(source, "name", None), str) else "the given file object"
        pixels = _decode_bytes(_read_stream(source, name, most), name, max_pixels)
    elif hasattr(source, "__array__"):
        name = "the given array"
        pixels = _as_numpy(source, name)
    else:
        remedy = "wrap them in io.BytesIO" if isinstance(source, bytes) else "pass a path, a file or an array"
        raise ImageError(f"an object of type {type(source).__name__} is no image; {remedy}")
    return _to_rgb(pixels, background, name)


# ---- sources to bytes


def _read_path(path: str | os.PathLike[str], name: str, most: int) -> bytes:
    if not name:
        raise ImageError("an empty name is no path; name a file")
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            problem = "is a folder; pass the files in it"
        elif not stat.S_ISREG(found.st_mode):  # it may never end, or never begin
            problem = "is a pipe or a device, no file; redirect it to musiq-ref score - or pass an open file"
        elif not (problem := too_many_bytes(found.st_size, most)):
            with open(path, "rb") as file:
                return _read_stream(file, name, most)
    except FileNotFoundError:
        raise ImageError(missing(name)) from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error}); check the path and its permissions"
    raise ImageError(f"{name} {problem}")


def _read_stream(stream: Any, name: str, most: int) -> bytes:
    """All that it holds, if that is not more than `most` bytes."""
    try:
        data = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read ({error}); open it again in binary mode") from None
    if not isinstance(data, bytes):
        raise ImageError(f"{name} yields {type(data).__name__}, not bytes; open it in binary mode")
    if problem := too_many_bytes(len(data), most):
        raise ImageError(f"{name} {problem}")
    return data


# ---- bytes to arrays of Pillow's pixels: (H, W) or (H, W, 3 or 4), uint8 or float32


def _decode_bytes(data: bytes, name: str, max_pixels: int | None) -> np.ndarray:
    if not data:
        raise ImageError(f"{name} is empty; get a fresh copy")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(f"{name} could be cut short unnoticed; set PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False")
    kind = kind_of(data)
    if kind and not readable(kind):
        raise ImageError(f"{name} is a picture in the format {kind}, which needs {NEEDS[kind]}")
    if data.startswith(JPEG) and too_many_parts(data):
        raise ImageError(f"{name} is a JPEG of far more parts than a photograph has; save it anew where you trust it")
    try:
        image = open_heic(data) if kind == "HEIC" else _open(data)
    except Exception as error:
        raise _damaged(name, error) from None
    if image is None:
        raise ImageError(f"{name} is not an image in a format read here; convert it to PNG or JPEG")
    return _decode_image(image, name, max_pixels, data)


def _open(data: bytes) -> Image.Image | None:
    """Image.open for the known formats, without its size limit, which is global; the limit here is max_pixels."""
    Image.init()
    for file_format in FORMATS:
        factory, accept = Image.OPEN.get(file_format, (None, None))
        if factory and accept and accept(data[:16]) is True:
            return factory(BytesIO(data), "")
    return None


def _decode_image(image: Any, name: str, max_pixels: int | None, data: bytes | None = None) -> np.ndarray:
    """data: of the file that the image was opened from; without it, as much of that as can still be read."""
    width, height = image.size
    if problem := too_many_pixels(width, height, max_pixels, len(data) if data else None):
        raise ImageError(f"{name} {problem}")
    unread = {key: getattr(image, key, None) for key in ("tile", "fp")}
    try:
        if image.format == "TIFF" and (problem := tiff_problem(image)):
            raise ImageError(f"{name} {problem}")
        key = _transparent_colour(image)
        data = data or _data_of(image)
        image.load()
        if data and is_cut(image, data):
            raise ImageError(f"{name} is cut short: its pixels end before the picture does; get a fresh copy")
        return _upright(_deep_grey(image, key, name) if image.mode[0] in "IF" else _eight_bits(image, key), image)
    except MemoryError:
        raise
    except Exception as error:
        if unread["tile"]:  # another attempt must not take what was decoded of it for the whole
            vars(image).update(unread)
        raise error if isinstance(error, ImageError) else _damaged(name, error) from None


def _data_of(image: Any) -> bytes | None:
    """The file of a Pillow image whose pixels are not loaded, if it is its first picture."""
    if not getattr(image, "tile", None) or image.fp is None or image.tell():
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(place)
    return data


def _damaged(name: str, error: Exception) -> ImageError:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):  # Pillow's WebP and TIFF parts
        return ImageError(
            f"{name} is larger than Pillow allows; raise PIL.Image.MAX_IMAGE_PIXELS if it is to be trusted"
        )
    detail = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} is damaged or of an unsupported kind ({detail}); get a fresh copy or save it as PNG")


def _transparent_colour(image: Image.Image) -> Any:
    """The grey, colour or palette entry the file calls transparent, or None, in the bits of the decoded pixels.

    Pillow keeps a PNG's in the bits of the file, which then matches no pixel or the wrong ones.
    """
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # how the file stores its pixels, until they are loaded
    layout = tiles[0][3] if tiles and key is not None else ""
    if layout == "RGB;16B":
        return tuple(value >> 8 for value in image.info["transparency"])
    if layout in ("1", "L;2", "L;4"):
        return min(255, image.info["transparency"] * {"1": 255, "L;2": 85, "L;4": 17}[layout])
    return key


def _eight_bits(image: Image.Image, key: Any) -> np.ndarray:
    """(H, W, 3), or (H, W, 4) if anything may be transparent."""
    if key is not None:
        image = image.copy()  # the caller's stays as it is; Pillow writes into a palette that it converts
        image.info["transparency"] = key
    if image.mode == "La":  # grey multiplied by alpha has no way to RGBA but this
        image = image.convert("LA")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.format == "BMP" and mode == "RGBA" and not np.asarray(image.getchannel("A")).any():
        mode = "RGB"  # of old programs, which left the fourth byte empty
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _deep_grey(image: Image.Image, key: Any, name: str) -> np.ndarray:
    """Greys of more than 8 bits: floats as they are (H, W), others scaled to uint8 (H, W) or (H, W, 4)."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white_is_zero = tags.get(PHOTOMETRIC) == 0  # Pillow heeds it up to 8 bits only
    if image.mode == "F":
        return 1 - values if white_is_zero else values
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two mean 16 bits by it
        raise ImageError(f"{name} has 32-bit or signed integers, whose white is unknown; scale it to 8 bits")
    grey = _scaled(values, white=4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535)
    if white_is_zero:
        grey = 255 - grey
    if key is None:
        return grey
    return np.stack([grey, grey, grey, _scaled(values != key, white=1)], axis=-1)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Undoes the rotation and mirroring that EXIF notes; an EXIF block that cannot be read is passed over.

    Where the stored first row and first column belong: 1 top left (upright), 2 top right, 3 bottom right, 4 bottom
    left, 5 left top, 6 right top, 7 right bottom, 8 left bottom. (A TIFF has been turned by Pillow and reports 1.)
    """
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:
        orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # first row at the bottom
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # first column at the right
        pixels = pixels[:, ::-1]
    return pixels


# ---- arrays to RGB


def _as_numpy(source: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(source)
    except Exception as error:  # an array on a GPU, a tensor that needs gradients
        raise ImageError(f"{name} does not become a NumPy array ({error}); copy it to one first") from None


def _to_rgb(pixels: np.ndarray, background: tuple[int, int, int], name: str) -> np.ndarray:
    """A new array (H, W, 3), checked, scaled and composited."""
    _check_shape(pixels.shape, name)
    kind = pixels.dtype.str[1:]  # "f4" for float32, whatever the byte order
    if kind in ("f4", "f8"):
        _check_range(pixels, name)
        pixels = pixels.astype(kind, copy=False)
    elif kind in WHITE:
        pixels = _scaled(pixels, WHITE[kind])
    else:
        raise ImageError(f"{name} has dtype {pixels.dtype}; convert to uint8 (white is 255) or float32 (white is 1)")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 4:
        if not pixels[:, :, 3].any():
            raise ImageError(f"{name} is wholly transparent, there is nothing to see; save it without transparency")
        return _composite(pixels[:, :, :3], pixels[:, :, 3:], background)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if 0 in shape:
        raise ImageError(f"{name} has shape {shape}, no pixels; pass at least one row and one column")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] > 4:
        raise ImageError(f"{name} has shape {shape}, channels first; transpose to (H, W, 3) by .transpose(1, 2, 0)")
    raise ImageError(f"{name} has shape {shape}; pass one image of shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W)")


def _check_range(pixels: np.ndarray, name: str) -> None:
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds NaN or infinity; replace it by values in [0, 1]")
    if low < 0 or high > 1:
        remedy = "divide by 255 if that is white, or clip" if high > 1 else "rescale or clip"
        raise ImageError(f"{name} holds values from {low:.9g} to {high:.9g}, outside [0, 1]; {remedy}")


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """round(255·v / white) as uint8; white is odd, so no value lies half-way between two."""
    if white == 255:
        return values
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _composite(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """α·colour + (1 − α)·background, (H, W, 3); in 8 bits rounded to nearest, and exact where α is 0 or 1."""
    if colour.dtype == np.uint8:
        out, rows = np.empty_like(colour), 1 + 2**18 // colour.shape[1]
        for part in (slice(start, start + rows) for start in range(0, len(out), rows)):  # in little memory
            a = alpha[part].astype(np.uint16)
            out[part] = (colour[part] * a + (255 - a) * np.array(background, np.uint16) + 127) // 255
        return out
    return colour * alpha + (1 - alpha) * (np.array(background, colour.dtype) / 255)
