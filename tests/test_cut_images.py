"""Files that end before their picture does, in all formats; and pictures with nothing to see."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from musiq_ref.image.decode import ImageError, decode
from musiq_ref.image.heif import readable

H, W = 113, 171
Y, X = np.mgrid[0:H, 0:W]
SCENE = np.stack([200 * X / W + 20, 220 * Y / H, 60 + 90 * np.sin(X / 9 + Y / 15)], -1).clip(0, 255).astype("u1")
GREY = np.full((H, W, 3), 128, np.uint8)  # what a decoder takes missing blocks for
SCENES = {
    "scene": SCENE,
    "noise": np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8),
    "flat sky": np.where(Y[..., None] < 60, np.uint8([120, 180, 240]), SCENE),
    "grey half": np.where(Y[..., None] < 60, SCENE, GREY),
    "letterbox": np.where((Y[..., None] > 30) & (Y[..., None] < 80), SCENE, np.uint8(0)),
    "grey": GREY,
    "black": GREY * 0,
}
KINDS = [
    *[{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"quality": 10}, {"restart_marker_rows": 1}],
    *[{"restart_marker_blocks": 3, "quality": 97}, {"progressive": True, "restart_marker_rows": 2, "quality": 5}],
    {"exif": b"Exif\0\0" + b"x" * 50 + b"\xff\xd8\xff\xda\xff\xd9"},  # a thumbnail's markers
]


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_jpeg_with_an_end_marker_after_part_of_it_is_refused(kind, mode):
    for scene in SCENES.values():
        data = encoded(Image.fromarray(scene).convert(mode), "JPEG", **kind)
        whole = decode(io.BytesIO(data)).astype(int)  # never refused
        start = data.index(b"\xff\xda", data.index(b"\xff\xc4"))
        for part in (0.03, 0.2, 0.45, 0.62, 0.8, 0.97):
            cut = data[: start + int((len(data) - 2 - start) * part)] + b"\xff\xd9"
            try:
                pixels = decode(io.BytesIO(cut))
            except ImageError:
                continue
            assert (np.abs(pixels - whole).max(axis=2) > 2).sum() < 32 * 32  # hardly anything was lost


def test_a_cut_jpeg_is_noticed_in_a_pillow_image_too():
    data = encoded(Image.fromarray(SCENE), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) // 2] + b"\xff\xd9")) as image:
        for _ in range(2):
            with pytest.raises(ImageError, match="the given image is cut short"):
                decode(image)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (W // 2, H // 2))
        assert decode(image).shape == (57, 86, 3)


def png(chunks):
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_with_too_few_pixels_or_no_end_is_refused(interlaced):
    head = b"IHDR", struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, interlaced)
    sizes = [(2, 1), (1, 1), (3, 1), (2, 2), (5, 2), (4, 4), (9, 3)] if interlaced else [(9, 7)]
    rows = b"".join((b"\0" + b"\x07" * width) * height for width, height in sizes)
    whole = png([head, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
    assert (decode(io.BytesIO(whole)) == 7).all()
    assert (decode(io.BytesIO(whole + b"more")) == 7).all()
    short = png([head, (b"IDAT", zlib.compress(rows[:-10])), (b"IEND", b"")])
    for data in (short, whole[:-12], whole[:-5]):
        with pytest.raises(ImageError, match="cut short"):
            decode(io.BytesIO(data))


def test_a_webp_whose_last_chunk_is_missing_is_refused():
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(Image.fromarray(SCENE), "WEBP", exif=exif)
    assert decode(io.BytesIO(data)).shape == (W, H, 3)
    with pytest.raises(ImageError):
        decode(io.BytesIO(data[: data.index(b"EXIF")]))


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("PNG", {}), ("BMP", {}), ("JPEG", {}), ("GIF", {})],
)
def test_a_damaged_file_as_a_pillow_image_fails_again_and_again(file_format, options, tmp_path, capfd):
    data = encoded(Image.fromarray(SCENE), file_format, **options)
    damaged = tmp_path / "damaged"
    middle = len(data) // 2
    damaged.write_bytes(
        data[:middle] + bytes(200) + data[middle + 200 :] if "compression" in options else data[:middle]
    )
    for source in (damaged, io.BytesIO(damaged.read_bytes())):
        image = Image.open(source)
        for _ in range(3):
            with pytest.raises(ImageError, match="the given image is damaged"):
                decode(image)
        image.close()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_a_wholly_transparent_picture_is_refused(file_format):
    rgba = np.dstack([SCENE, np.zeros((H, W), np.uint8)])
    data = encoded(Image.fromarray(rgba), file_format)
    for source in (io.BytesIO(data), Image.open(io.BytesIO(data)), rgba, rgba / 255):
        with pytest.raises(ImageError, match="wholly transparent, there is nothing to see"):
            decode(source)
    rgba[0, 0, 3] = 255
    assert decode(rgba)[0, 0].tolist() == SCENE[0, 0].tolist()


def test_a_bmp_with_an_empty_fourth_byte_is_opaque():
    pixels = np.dstack([SCENE[::-1, :, ::-1], np.zeros((H, W), np.uint8)])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, W, H, 1, 32, 3, pixels.size, 0, 0, 0, 0) + masks + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + pixels.size, 0, 0, 14 + len(head)) + head
    assert np.array_equal(decode(io.BytesIO(data + pixels.tobytes())), SCENE)
    pixels[..., 3] = 255
    pixels[5, 5, 3] = 0
    assert decode(io.BytesIO(data + pixels.tobytes()))[H - 6, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("marker", "times"), [(b"\xff\xda", 3000), (b"\xff\xfe", 20_000)])
def test_a_jpeg_of_very_many_scans_or_segments_is_refused_at_once(marker, times):
    data = encoded(Image.fromarray(GREY), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    part = data[at:-2] if marker == b"\xff\xda" else marker + b"\0\2"
    with pytest.raises(ImageError, match="is a JPEG of far more parts than a photograph has"):
        decode(io.BytesIO(data[:at] + part * times + data[at:]))
    assert decode(io.BytesIO(data[:at] + part * 20 + data[at:])).shape == GREY.shape


UNWRITTEN = [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 90})]
UNWRITTEN += [("AVIF", {"quality": 90, "speed": 10})] if readable("AVIF") else []


@pytest.mark.parametrize(("file_format", "options"), UNWRITTEN, ids=str)
def test_a_file_whose_end_was_never_written_is_refused(file_format, options):
    data = encoded(Image.fromarray(SCENES["noise"]), file_format, **options)
    for part in (0.4, 0.6, 0.9):
        start = int(len(data) * part)
        with pytest.raises(ImageError):
            decode(io.BytesIO(data[:start] + bytes(len(data) - start)))


@pytest.mark.parametrize(("file_format", "options"), UNWRITTEN, ids=str)
def test_zeros_behind_a_whole_picture_do_no_harm(file_format, options):
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + bytes(5000)  # some programs leave room behind it
    for scene in SCENES.values():
        for more in ({}, {"exif": exif}):
            data = encoded(Image.fromarray(scene), file_format, **options, **more)
            assert np.array_equal(decode(io.BytesIO(data + bytes(9000))), decode(io.BytesIO(data)))


def test_a_blank_webp_that_ends_in_zeros_by_itself_is_read():
    for lossless in (False, True):
        scene = Image.new("RGB", (2400, 1600), "black")
        scene.paste(Image.fromarray(SCENE))
        data = encoded(scene, "WEBP", quality=80, lossless=lossless, method=0)
        assert decode(io.BytesIO(data)).shape == (1600, 2400, 3)
