"""Pixels of every kind of source, compared value by value, and the one sentence each unusable source gets."""

import gc
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile, ImageOps

from musiq_ref.image.decode import ImageError, decode
from musiq_ref.image.find import find_images

SIDES = st.integers(1, 5)
NOISE = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)


def frozen(array):
    array.flags.writeable = False
    return array


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def decode_bytes(data, **options):
    return decode(io.BytesIO(data), **options)


def attempt(data, **options):
    """(pixels, None) or (None, message)."""
    try:
        return decode_bytes(data, **options), None
    except ImageError as error:
        return None, str(error)


def png(width, height, bits, colour_type, row_bytes, transparency=None, idat=None):
    """A PNG by hand, for what Pillow does not write. colour_type 0: grey, 2: RGB, 4: grey and alpha, 6: RGBA."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))]
    if transparency is not None:
        chunks.append((b"tRNS", np.array(transparency, ">u2").tobytes()))
    chunks.append((b"IDAT", zlib.compress(b"".join(b"\0" + row for row in row_bytes)) if idat is None else idat))
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiff(width, data, bits, photometric=1, sample_format=1):
    """A little-endian grey TIFF of one row by hand. photometric 0: white is zero; sample_format 2: signed."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(data)}
    tags[339] = sample_format
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the pixels start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


# ---- arrays


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)), st.booleans())
def test_uint8_grey_is_repeated(grey, third_axis):
    pixels = decode(frozen(grey[..., None] if third_axis else grey))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
def test_three_channels_are_kept_in_a_new_array(dtype):
    source = frozen((np.arange(24).reshape(2, 4, 3) / (1 if dtype == "uint8" else 23)).astype(dtype))
    pixels = decode(source)
    assert pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(pixels, source)
    assert not np.shares_memory(pixels, source)
    pixels[...] = 0  # writeable


def test_every_uint16_is_scaled_to_the_nearest():
    values = np.arange(65536).reshape(256, 256)
    for dtype in ("<u2", ">u2"):
        assert np.array_equal(decode(values.astype(dtype))[..., 0], np.rint(values / 257))


def test_bool_is_black_and_white():
    assert decode(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@given(
    hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(4))).filter(lambda rgba: rgba[..., 3].any()),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_alpha_over_background_is_rounded_to_the_nearest(rgba, background):
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float)
    expected = np.rint((colour * alpha + np.array(background) * (255 - alpha)) / 255)
    pixels = decode(frozen(rgba), background=background)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


def test_every_alpha_over_every_grey():
    grey, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8)
    assert np.array_equal(decode(rgba)[..., 1], np.rint((grey * alpha + 255 * (255 - alpha)) / 255))
    assert np.array_equal(decode(rgba)[255], rgba[255, :, :3])  # opaque: untouched


def test_uint16_alpha():
    assert decode(np.array([[[65535, 0, 257, 0x3333]]], np.uint16)).tolist() == [[[255, 204, 204]]]


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(SIDES, SIDES, st.just(4)),
        elements=st.floats(0, 1, width=32),
    ).filter(lambda rgba: rgba[..., 3].any())
)
def test_float_alpha(rgba):
    pixels = decode(frozen(rgba), background=(255, 0, 51))
    alpha = rgba[..., 3:].astype(np.float64)
    expected = rgba[..., :3] * alpha + (1 - alpha) * np.array([1, 0, 0.2])
    assert pixels.dtype == rgba.dtype
    assert np.allclose(pixels, expected, rtol=0, atol=1e-6 if rgba.dtype == np.float32 else 1e-15)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    opaque = rgba[..., 3] == 1
    assert np.array_equal(pixels[opaque], rgba[opaque, :3])


def test_arrays_of_other_libraries_are_taken_if_they_convert():
    class Willing:
        def __array__(self, dtype=None, copy=None):
            return np.array([[7]], np.uint8)

    class Unwilling:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Implicit conversion is not allowed")

    assert decode(Willing()).tolist() == [[[7, 7, 7]]]
    with pytest.raises(ImageError, match=r"Implicit conversion is not allowed.*copy it"):
        decode(Unwilling())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\), no pixels; pass at least one row"),
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\); pass one image of shape \(H, W, 3\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\); pass one image"),
        (np.zeros(3, np.uint8), r"shape \(3,\); pass one image"),
        (np.array(7, np.uint8), r"shape \(\); pass one image"),
        (np.zeros((3, 4, 5), np.uint8), r"channels first; transpose to \(H, W, 3\)"),
        (np.zeros((1, 4, 5), np.float32), r"channels first; transpose"),
        (np.zeros((4, 5, 3), np.int64), "dtype int64; convert to uint8"),
        (np.zeros((4, 5, 3), np.int8), "dtype int8; convert to uint8"),
        (np.zeros((4, 5, 3), np.float16), "dtype float16; convert to uint8 .* or float32"),
        (np.zeros((4, 5, 3), np.complex64), "dtype complex64; convert"),
        (np.zeros((4, 5, 3), object), "dtype object; convert"),
        (np.full((4, 5, 3), 200.0), "from 200 to 200, outside .*; divide by 255"),
        (np.full((4, 5, 3), np.nextafter(np.float32(1), np.float32(2))), "outside .*; divide by 255 if .*, or clip"),
        (np.full((4, 5, 3), -0.5), "from -0.5 to -0.5, outside .*; rescale or clip"),
        (np.array([[0, np.nan]]), "NaN or infinity; replace"),
        (np.array([[0, np.inf]]), "NaN or infinity; replace"),
    ],
)
def test_refused_arrays(array, message):
    with pytest.raises(ImageError, match=f"^the given array .*{message}"):
        decode(array)


# ---- modes and formats


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG"])
def test_files_paths_streams_and_pillow_images_agree(tmp_path, file_format):
    grey = file_format == "GIF"  # 256 colours
    source = Image.fromarray(NOISE[..., 0] if grey else NOISE)
    data = encoded(source, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    path = tmp_path / "image"
    path.write_bytes(data)
    pixels = decode(path)
    if file_format == "JPEG":
        with Image.open(path) as image:
            assert np.array_equal(pixels, np.asarray(image))
    else:
        assert np.array_equal(pixels, np.stack([NOISE[..., 0]] * 3, axis=-1) if grey else NOISE)
    assert np.array_equal(decode(str(path)), pixels)
    assert np.array_equal(decode_bytes(data), pixels)
    with Image.open(path) as image:
        assert np.array_equal(decode(image), pixels)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 9, [9, 9, 9]),
        ("LA", (0, 51), [204, 204, 204]),
        ("La", (51, 51), [255, 255, 255]),  # premultiplied: white, one fifth opaque
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBX", (1, 2, 3, 4), [1, 2, 3]),
        ("RGBA", (0, 0, 255, 51), [204, 204, 255]),
        ("RGBa", (0, 0, 51, 51), [204, 204, 255]),
        ("CMYK", (0, 51, 255, 51), [204, 163, 0]),
        ("YCbCr", (128, 128, 128), [128, 128, 128]),
        ("HSV", (85, 255, 200), [0, 200, 0]),
        ("I;16", 0x8080, [128, 128, 128]),
        ("I;16L", 0x8080, [128, 128, 128]),
        ("I;16B", 0x8080, [128, 128, 128]),
        ("I;16N", 0x8080, [128, 128, 128]),
    ],
)
def test_modes(mode, colour, expected):
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, (1, 1), colour.to_bytes(2, "little"))
    else:
        image = Image.new(mode, (1, 1), colour)
    pixels = decode(image)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[expected]]


def test_lab_comes_back_to_the_colour_it_was_made_from():
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (1, 1), (200, 100, 50)), transform)
    assert lab is not None
    assert lab.mode == "LAB"
    assert np.abs(decode(lab).astype(int) - [200, 100, 50]).max() <= 3
    assert np.abs(decode_bytes(encoded(lab, "TIFF")).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize(
    ("transparency", "expected"),
    [
        (None, [[10, 20, 30], [40, 50, 60]]),
        (1, [[10, 20, 30], [255, 255, 255]]),
        (bytes([51, 204]), [[206, 208, 210], [83, 91, 99]]),
    ],
)
def test_palettes(transparency, expected):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([10, 20, 30, 40, 50, 60])
    options = {} if transparency is None else {"transparency": transparency}
    assert decode_bytes(encoded(image, "PNG", **options)).tolist() == [expected]
    image.info |= options
    before = image.copy()
    assert decode(image).tolist() == [expected]
    assert image.info == before.info  # the caller's image is as it was
    assert image.getpalette("RGBA") == before.getpalette("RGBA")


def test_gif_first_frame_with_transparency():
    frames = [Image.frombytes("P", (2, 1), pixels) for pixels in (b"\0\1", b"\1\0")]
    for frame in frames:
        frame.putpalette([10, 20, 30, 40, 50, 60])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=1)
    assert decode_bytes(data, background=(1, 2, 3)).tolist() == [[[10, 20, 30], [1, 2, 3]]]


def test_first_page_of_a_tiff():
    pages = [Image.new("RGB", (1, 1), (k, k, k)) for k in (7, 8)]
    assert decode_bytes(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])).tolist() == [[[7, 7, 7]]]


def test_cmyk_jpegs_are_read_as_adobe_writes_them():
    data = encoded(Image.new("CMYK", (8, 8), (0, 51, 255, 51)), "JPEG", quality=100)
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    for jpeg in (data, data[:start] + data[start + 16 :]):  # inverted in the file, with and without Adobe's marker
        assert decode_bytes(jpeg)[0, 0].tolist() == [204, 163, 0]


def test_colour_profile_is_not_applied():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    image = Image.fromarray(NOISE)
    assert np.array_equal(decode_bytes(encoded(image, "PNG", icc_profile=profile)), NOISE)


# ---- 16 bits and more


def test_sixteen_bit_grey_png_and_pgm_and_tiff():
    values = np.array([[0, 128, 129, 32768, 65407, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255, 255]  # not clipped to 255, not the high byte
    image = Image.fromarray(values)
    for data in (
        encoded(image, "PNG"),
        encoded(image, "TIFF"),
        b"P5 6 1 65535 " + values.astype(">u2").tobytes(),
        tiff(6, values.tobytes(), bits=16),
    ):
        assert decode_bytes(data)[0, :, 2].tolist() == expected


def test_png_opened_in_32_bits_by_older_pillow_holds_16():
    image = Image.frombytes("I", (2, 1), np.array([128, 65535], "=i4").tobytes())
    image.format = "PNG"
    assert decode(image)[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_colour_png_keeps_the_high_byte():
    rgb = np.array([0x00FF, 0x8001, 0xFFFF], ">u2").tobytes()
    assert decode_bytes(png(1, 1, 16, 2, [rgb])).tolist() == [[[0, 128, 255]]]
    rgba = np.array([0x0000, 0x80FF, 0xFFFF, 0x33FF], ">u2").tobytes()
    assert decode_bytes(png(1, 1, 16, 6, [rgba])).tolist() == [[[204, 230, 255]]]
    grey_alpha = np.array([0x00FF, 0x3300], ">u2").tobytes()
    assert decode_bytes(png(1, 1, 16, 4, [grey_alpha])).tolist() == [[[204, 204, 204]]]


@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "transparency", "expected"),
    [
        (1, 0, b"\x40", 1, [[0, 0, 0], [9, 8, 7]]),
        (1, 0, b"\x40", 0, [[9, 8, 7], [255, 255, 255]]),
        (2, 0, b"\x60", 2, [[85, 85, 85], [9, 8, 7]]),
        (4, 0, b"\x2f", 15, [[34, 34, 34], [9, 8, 7]]),
        (8, 0, b"\x02\x0f", 15, [[2, 2, 2], [9, 8, 7]]),
        (16, 0, b"\x12\x34\x00\x34", 0x1234, [[9, 8, 7], [0, 0, 0]]),
        (8, 2, b"\1\2\3\1\2\4", [1, 2, 3], [[9, 8, 7], [1, 2, 4]]),
        (16, 2, b"\1\0\2\0\3\0\1\0\2\0\4\0", [0x100, 0x200, 0x300], [[9, 8, 7], [1, 2, 4]]),
        (16, 2, b"\0\1\0\2\0\3\1\0\2\0\3\0", [0x100, 0x200, 0x300], [[0, 0, 0], [9, 8, 7]]),
    ],
)
def test_the_colour_a_png_calls_transparent(bits, colour_type, row, transparency, expected):
    data = png(2, 1, bits, colour_type, [row], transparency)
    assert decode_bytes(data, background=(9, 8, 7)).tolist() == [expected]
    with Image.open(io.BytesIO(data)) as image:
        info = dict(image.info)
        assert decode(image, background=(9, 8, 7)).tolist() == [expected]
        assert image.info == info


def test_tiff_with_twelve_bits_and_with_white_as_zero():
    assert decode_bytes(tiff(2, b"\xff\xf7\xff", bits=12))[0, :, 0].tolist() == [255, 127]
    white_is_zero = tiff(2, np.array([0, 65535], "<u2").tobytes(), bits=16, photometric=0)
    assert decode_bytes(white_is_zero)[0, :, 0].tolist() == [255, 0]
    assert decode_bytes(tiff(2, b"\0\xff", bits=8, photometric=0))[0, :, 0].tolist() == [255, 0]
    floats = tiff(2, np.array([0, 0.75], "<f4").tobytes(), bits=32, photometric=0, sample_format=3)
    assert decode_bytes(floats)[0, :, 0].tolist() == [1, 0.25]


def test_float_tiff_stays_float():
    values = np.array([[0, 0.25, 1]], np.float32)
    pixels = decode_bytes(encoded(Image.fromarray(values), "TIFF"))
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels[..., 1], values)
    with pytest.raises(ImageError, match=r"from 0 to 255, outside .* divide by 255"):
        decode(Image.fromarray(values * 255))


@pytest.mark.parametrize(("bits", "sample_format"), [(16, 2), (32, 1), (32, 2)])
def test_integers_whose_white_is_unknown_are_refused(bits, sample_format):
    data = tiff(1, bytes(bits // 8), bits, sample_format=sample_format)
    with pytest.raises(ImageError, match="32-bit or signed integers, whose white is unknown; scale"):
        decode_bytes(data)


def test_32_bit_pillow_image_is_refused():
    with pytest.raises(ImageError, match=r"^the given image has 32-bit"):
        decode(Image.new("I", (1, 1), 7))


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    stored = Image.fromarray(NOISE)
    data = encoded(stored, file_format, exif=exif, **options)
    if file_format == "JPEG":
        stored = Image.open(io.BytesIO(encoded(stored, "JPEG")))
    upright = stored.copy()
    upright.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    assert np.array_equal(decode_bytes(data), expected)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode(image), expected)


def test_orientation_6_turns_the_left_side_up():
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: the stored first row is the right side
    stored = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)
    for values, depth in ((stored, 1), (stored.astype(np.uint16) * 257, 2)):
        assert values.dtype.itemsize == depth
        data = encoded(Image.fromarray(values), "PNG", exif=exif)
        assert decode_bytes(data)[..., 0].tolist() == [[5, 3, 1], [6, 4, 2]]


def test_unreadable_exif_is_passed_over():
    data = encoded(Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0II\0\0nonsense")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(SyntaxError):
        image.getexif()
    assert np.array_equal(decode_bytes(data), NOISE)


# ---- what cannot be read


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.jpg").write_text("no image at all")
    for name, message in [
        ("missing.png", "does not exist; check the path"),
        ("", "is a folder; pass the files in it"),
        ("empty.png", "is empty; get a fresh copy"),
        ("notes.jpg", "is not an image in a format read here; convert it to PNG or JPEG"),
        ("empty.png/deeper.png", r"cannot be read \(Not a directory\); check the path"),
    ]:
        with pytest.raises(ImageError, match=message) as caught:
            decode(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name} ")
        assert caught.value.__cause__ is None
    with pytest.raises(ImageError, match=r"null byte.*check the path"):
        decode("a\0b")


def test_other_objects():
    for source, message in [
        (None, "type NoneType is no image; pass"),
        ([[1, 2], [3, 4]], "type list"),
        (b"\xff\xd8\xff", "type bytes"),
    ]:
        with pytest.raises(ImageError, match=message):
            decode(source)
    with pytest.raises(ValueError, match=r"background is .*; give red, green and blue"):
        decode(np.zeros((1, 1), np.uint8), background=(0, 0, 256))


FORMATS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
    ("GIF", {}),
    ("PPM", {}),
]


@pytest.mark.parametrize(("file_format", "options"), FORMATS)
def test_a_file_cut_short_is_never_half_grey(tmp_path, file_format, options, capfd):
    data = encoded(Image.fromarray(NOISE), file_format, **options)
    whole = decode_bytes(data)
    refused = 0
    for length in [1, 2, 5, 20, *range(30, len(data), len(data) // 40), *range(len(data) - 30, len(data))]:
        pixels, message = attempt(data[:length])
        if message is None:
            assert np.array_equal(pixels, whole)  # only what follows the pixels is gone
        else:
            assert message.startswith("the given file object ")
            assert "\n" not in message
            refused += 1
    assert refused >= 40
    path = tmp_path / "half"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ImageError, match=r"half is damaged or of an unsupported kind \(.+\); get a fresh copy"
    ) as caught:
        decode(path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("file_format", "options"), FORMATS)
def test_a_corrupt_file_is_read_or_refused_in_one_sentence(file_format, options, capfd):
    data = encoded(Image.fromarray(NOISE), file_format, **options)
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(80):
        corrupt = bytearray(data)
        for _ in range(3):
            corrupt[rng.integers(len(data) if trial % 2 else min(len(data), 80))] = rng.integers(256)
        _, message = attempt(bytes(corrupt), max_pixels=10**6)
        if message is not None:
            assert "\n" not in message
            refused += 1
    assert refused > 5


def test_a_pillow_image_whose_file_is_cut_short():
    for file_format in ("PNG", "BMP"):
        data = encoded(Image.fromarray(NOISE), file_format)
        image = Image.open(io.BytesIO(data[: len(data) // 2]))
        with pytest.raises(ImageError, match=r"^the given image is damaged .*truncated"):
            decode(image)


def test_png_with_damaged_pixels():
    with pytest.raises(ImageError, match="damaged"):
        decode_bytes(png(2, 2, 8, 0, [], idat=b"garbage"))


def test_pillow_set_to_accept_cut_files_is_noticed(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match=r"set PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False"):
        decode_bytes(encoded(Image.fromarray(NOISE), "JPEG"))


def test_size_is_limited_before_decoding():
    bomb = png(20000, 20000, 8, 0, [], idat=b"garbage")
    with pytest.raises(ImageError, match=r"has 20000 x 20000 pixels, more than max_pixels=52428800; raise max_pixels"):
        decode_bytes(bomb)
    with pytest.raises(ImageError, match="more than max_pixels=713;"):
        decode_bytes(encoded(Image.fromarray(NOISE), "PNG"), max_pixels=713)
    with pytest.raises(ImageError, match=r"^the given image has 34 x 21 pixels"):
        decode(Image.fromarray(NOISE), max_pixels=713)
    assert np.array_equal(decode(Image.fromarray(NOISE), max_pixels=714), NOISE)


def test_pillows_own_limit_neither_warns_nor_changes(monkeypatch):
    for limit in (400, 10):  # Pillow warns above its limit and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for file_format in ("PNG", "JPEG", "BMP", "GIF", "PPM"):
            assert decode_bytes(encoded(Image.fromarray(NOISE), file_format)).shape == NOISE.shape
        assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", [Image.DecompressionBombError, Image.DecompressionBombWarning])
def test_a_limit_inside_a_pillow_plugin_has_its_own_sentence(monkeypatch, kind):
    def refuse(stream, filename):
        raise kind("could be decompression bomb DOS attack")

    monkeypatch.setitem(Image.OPEN, "PNG", (refuse, lambda prefix: True))
    with pytest.raises(ImageError, match=r"larger than Pillow allows; raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode_bytes(encoded(Image.fromarray(NOISE), "PNG"))


def test_a_message_of_pillow_is_put_on_one_line(monkeypatch):
    def refuse(stream, filename):
        raise OSError("first\n  second")

    monkeypatch.setitem(Image.OPEN, "PNG", (refuse, lambda prefix: True))
    with pytest.raises(ImageError, match=r"\(first second\)"):
        decode_bytes(b"anything")


def test_a_format_this_pillow_lacks_is_not_tried(monkeypatch):
    data = encoded(Image.fromarray(NOISE), "WEBP")
    monkeypatch.setitem(Image.OPEN, "WEBP", (Image.OPEN["WEBP"][0], lambda prefix: "WebP support is not installed"))
    with pytest.raises(ImageError, match="not an image in a format read here"):
        decode_bytes(data)
    monkeypatch.delitem(Image.OPEN, "WEBP")
    with pytest.raises(ImageError, match="not an image in a format read here"):
        decode_bytes(data)


def test_programs_are_never_started_for_postscript():
    with pytest.raises(ImageError, match="not an image in a format read here"):
        decode_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


# ---- file objects


class OneWay(io.RawIOBase):
    """A pipe: readable once, in small pieces, no seeking."""

    def __init__(self, data):
        self.rest = data

    def readable(self):
        return True

    def readinto(self, buffer):
        piece, self.rest = self.rest[:100], self.rest[100:]
        buffer[: len(piece)] = piece
        return len(piece)


def test_file_objects_are_read_from_where_they_stand_and_left_open():
    data = encoded(Image.fromarray(NOISE), "PNG")
    stream = io.BytesIO(b"header" + data)
    stream.seek(6)
    assert np.array_equal(decode(stream), NOISE)
    assert not stream.closed
    with pytest.raises(ImageError, match="the given file object is empty"):  # it now stands at its end
        decode(stream)
    pipe = io.BufferedReader(OneWay(data))
    assert np.array_equal(decode(pipe), NOISE)
    assert not pipe.closed


def test_file_objects_that_do_not_yield_bytes(tmp_path):
    with pytest.raises(ImageError, match="yields str, not bytes; open it in binary mode"):
        decode(io.StringIO("text"))
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(NOISE), "PNG"))
    with open(path, encoding="utf-8") as text, pytest.raises(ImageError, match="open it again in binary mode"):
        decode(text)
    with open(path, "rb") as stream:
        pass
    with pytest.raises(ImageError, match=r"cannot be read .*closed file"):
        decode(stream)


def test_no_file_stays_open(tmp_path):
    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    data = encoded(Image.fromarray(NOISE), "TIFF")
    good.write_bytes(data)
    bad.write_bytes(data[:900])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        decode(good)
        with pytest.raises(ImageError):
            decode(bad)
        gc.collect()
    assert [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)] == []


# ---- find_images


def test_find_images(tmp_path):
    for name in ["b.JPG", "a.png", "sub/deep/c.WebP", "sub/.hidden.png", "sub/notes.txt", "sub/d.tiff"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    inside = [tmp_path / name for name in ["a.png", "b.JPG", "sub/d.tiff", "sub/deep/c.WebP"]]
    assert find_images([tmp_path]).files == inside
    assert find_images(tmp_path).files == inside
    assert find_images(os.fspath(tmp_path)).files == inside
    notes, missing = tmp_path / "sub/notes.txt", Path("missing.png")
    assert find_images([str(missing), notes, tmp_path / "sub/deep"]).files == [missing, notes, inside[3]]
    assert find_images([]).files == []


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=f"^{tmp_path} holds no images; pass a folder with"):
        find_images([tmp_path])
