"""TIFF: every layout is read as it was meant or refused, and what is beside the picture is never scored."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image
from tiff_writer import tiff

from musiq_ref.image.decode import ImageError, decode

ORDERS, LAYOUTS = ["<", ">"], [{}, {"rows": 16}, {"tile": (16, 16)}, {"tile": (64, 64)}]
KINDS = [  # photometric, samples, kinds of the extra ones: 0 unspecified, 1 multiplied into the colour, 2 alpha
    *[(0, 1, ()), (1, 1, ()), (1, 2, ()), (1, 2, (0,)), (1, 2, (1,)), (1, 2, (2,))],
    *[(2, 3, ()), (2, 4, ()), (2, 4, (0,)), (2, 4, (1,)), (2, 4, (2,)), (2, 5, (2, 0)), (2, 5, (0, 2))],
    *[(5, 4, ()), (5, 5, (0,)), (5, 5, (2,))],
]


def meant(samples, bits, photometric, extra):
    """RGB over white, 0 … 255, of unsigned samples or floats."""
    values = samples / (1 if samples.dtype.kind == "f" else 2**bits - 1)
    count = {2: 3, 5: 4}.get(photometric, 1)
    colour, rest = values[..., :count], values[..., count:]
    if photometric == 0:
        colour = 1 - colour
    if photometric == 5:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    kind = (extra or (2,))[0] if rest.size else 0
    if kind:
        alpha = rest[..., :1]
        colour = (colour if kind == 1 else colour * alpha) + 1 - alpha
    return 255 * np.broadcast_to(colour, (*samples.shape[:2], 3))


def attempt(data):
    """Pixels, or what is wrong."""
    try:
        pixels = decode(io.BytesIO(data))
    except ImageError as error:
        return str(error)
    return pixels * 255.0 if pixels.dtype.kind == "f" else pixels.astype(float)


@pytest.mark.parametrize(("photometric", "channels", "extra"), KINDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16, 32])
def test_every_layout_is_read_as_it_was_meant_or_refused(photometric, channels, extra, bits, rng, capfd):
    samples = rng.integers(0, 2**bits, (40, 56, channels))
    if extra[:1] == (1,):
        base = channels - len(extra)
        samples[..., :base] = np.minimum(samples[..., :base], samples[..., base : base + 1])
    expected = meant(samples, bits, photometric, extra)
    for planar, order, packed, fill, layout in product([1, 2], ORDERS, [False, True], [1, 2], LAYOUTS):
        options = dict(order=order, planar=planar, packed=packed, photometric=photometric, extra=extra, **layout)
        got = attempt(tiff(samples, bits, fill=fill, big=fill == 1 and order == "<", **options))
        if not isinstance(got, str):
            assert np.abs(got - expected).max() < (5.6 if extra[:1] == (1,) else 2.6), (options, fill)


@pytest.mark.parametrize(("photometric", "channels"), [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_common_layouts_are_read(photometric, channels, bits, rng):
    samples = rng.integers(0, 2**bits, (40, 56, channels))
    expected = meant(samples, bits, photometric, ())
    for order, packed, layout in product(ORDERS, [False, True], LAYOUTS):
        got = attempt(tiff(samples, bits, order=order, packed=packed, photometric=photometric, **layout))
        assert np.abs(got - expected).max() < 2.6
    if bits == 8 or channels > 1:
        got = attempt(tiff(samples, bits, planar=2, packed=bits == 16, photometric=photometric, rows=16))
        assert np.abs(got - expected).max() < 2.6


def test_uncompressed_planes_of_16_bits_are_refused(rng):
    samples = rng.integers(0, 2**16, (40, 56, 3))
    for order, layout in product(ORDERS, LAYOUTS):
        assert "stores its pixels in a way that is not read" in attempt(
            tiff(samples, 16, order=order, planar=2, **layout)
        )


@pytest.mark.parametrize(("bits", "sample_format"), [(8, 2), (16, 2), (16, 3), (32, 2), (64, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_signed_samples_and_odd_floats_are_refused(bits, sample_format, channels, rng):
    samples = rng.random((8, 8, channels))
    for planar, packed in product([1, 2], [False, True]):
        photometric = 2 if channels == 3 else 1
        data = tiff(samples, bits, planar=planar, packed=packed, photometric=photometric, sample_format=sample_format)
        assert isinstance(attempt(data), str)


def test_packed_luminance_and_short_colour_tables_are_refused(rng):
    samples = rng.integers(0, 256, (16, 16, 3))
    assert "is not read here" in attempt(tiff(samples, photometric=6))  # without the tag, 2 × 2 pixels share a colour
    assert "is not read here" in attempt(tiff(samples, photometric=6, tags={530: (3, [2, 1])}))
    whole = attempt(tiff(samples, photometric=6, tags={530: (3, [1, 1])}))
    rgb = np.asarray(Image.merge("YCbCr", [Image.fromarray(c.astype("u1")) for c in samples.T]).convert("RGB"))
    assert isinstance(whole, str) or np.array_equal(whole, rgb.swapaxes(0, 1))  # older Pillow reads none
    table = list(range(256)) * 3
    assert "is not read here" in attempt(tiff(samples[..., :1], photometric=3, tags={320: (3, table)}))
    whole = attempt(tiff(samples[..., :1], photometric=3, tags={320: (3, [257 * v for v in table])}))
    assert np.array_equal(whole[..., 2], samples[..., 0])


def test_missing_strips_tiles_and_bytes_are_noticed(rng, capfd):
    samples = rng.integers(0, 256, (48, 48, 3))
    for packed, layout in product([False, True], [{"rows": 16}, {"tile": (16, 16)}]):
        taller = tiff(samples, packed=packed, **layout, tags={257: (4, [96])})
        assert isinstance(attempt(taller), str)
        counts = {325: (4, [100] * 9)} if "tile" in layout else {279: (4, [100] * 3)}
        assert isinstance(attempt(tiff(samples, packed=packed, **layout, tags=counts)), str)


def test_what_is_beside_the_picture_is_never_scored(rng):
    samples = rng.integers(0, 256, (16, 24, 3))
    larger = {256: (4, [96]), 257: (4, [64])}
    for beside, message in [
        ({"tags": {254: (4, [1])}}, "a reduced copy of its picture"),
        ({"tags": {255: (3, [2])}}, "a reduced copy of its picture"),
        ({"sub": larger}, "a reduced copy of its picture"),
        ({"tags": {50706: (1, [1, 4, 0, 0])}}, "a raw file of a camera; develop it"),
        ({"tags": {254: (4, [1])}, "sub": {**larger, 262: (3, [32803])}}, "a raw file of a camera; develop it"),
        ({"sub": {262: (3, [34892])}}, "a raw file of a camera; develop it"),
    ]:
        for order, big in [("<", False), (">", False), ("<", True)]:
            assert message in attempt(tiff(samples, order=order, big=big, **beside))
    smaller = {256: (4, [12]), 257: (4, [8]), 254: (4, [1])}  # as in a pyramid
    assert np.array_equal(attempt(tiff(samples, sub=smaller)), samples)
    with Image.open(io.BytesIO(tiff(samples, sub=smaller))) as image:
        for _ in range(3):
            assert np.array_equal(decode(image), samples)
    canon = bytearray(tiff(samples))
    canon[8:10] = b"CR"
    assert "a raw file of a camera" in attempt(bytes(canon))
    with Image.open(io.BytesIO(tiff(samples, sub=larger))) as image, pytest.raises(ImageError, match="a reduced copy"):
        decode(image)
