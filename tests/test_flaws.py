"""Flaws of known severity: untouched at 0, worse with every step to the end of the scale, the same at every size."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musiq_ref.pictures import effects, flaws
from musiq_ref.pictures.distortions import PARAMETERS
from musiq_ref.pictures.flaws import AMOUNTS, FAR, FLAWS, KINDS, KNEE, amount, drawn_flaws, score_of, spoil
from musiq_ref.pictures.synthetic import photograph_crop

PHOTOGRAPHS = ("astronaut", "cat", "coffee")


@pytest.fixture(scope="module")
def crops():
    return {name: photograph_crop(name, np.random.default_rng(7), 200, 232) for name in PHOTOGRAPHS}


def damage(name, image, severity, seed=3):
    spoilt = spoil(image, name, severity, np.random.default_rng(seed))
    return np.mean((spoilt.astype(float) - image) ** 2)


@pytest.mark.parametrize("name", FLAWS)
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_more_severity_is_more_damage_to_the_end(crops, name, photograph):
    damages = [damage(name, crops[photograph], severity) for severity in (0, 0.15, 0.3, 0.5, 0.7, 0.85, 1)]
    assert damages[0] == 0
    assert (np.diff(damages) > 0).all(), damages


@pytest.mark.parametrize("name", FLAWS)
@given(height=st.integers(1, 40), width=st.integers(1, 40), severity=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_size_and_severity(name, height, width, severity, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    image.setflags(write=False)
    first, again = (spoil(image, name, severity, np.random.default_rng(seed)) for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(first, image)


@pytest.mark.parametrize("name", FLAWS)
def test_a_severity_is_the_same_at_every_size(crops, name):
    """Four times the picture, the same damage: no amount depends on the size."""
    crop = crops["coffee"]
    for severity in (0.2, 0.6):
        large = damage(name, np.tile(crop, (2, 2, 1)), severity)
        assert large == pytest.approx(damage(name, crop, severity), rel=0.25)


def test_the_tables_rise_and_end_where_they_should():
    assert set(AMOUNTS) >= set(FLAWS) == set(FAR)
    for name in FLAWS:
        values = [amount(name, severity) for severity in np.linspace(0, 1, 101)]
        steps = np.diff(values)
        assert (steps > 0).all() or (steps < 0).all(), name
        assert values[-1] == pytest.approx(FAR[name])
        assert amount(name, KNEE) == pytest.approx(AMOUNTS[name][-1])
    for name in set(PARAMETERS) & set(FLAWS) - {"contrast"}:
        assert amount(name, 0.4 * KNEE) == pytest.approx(PARAMETERS[name][3])
    assert amount("haze", 0.4 * KNEE) == PARAMETERS["contrast"][3]
    assert [score_of(s) for s in (0, 0.5, 1)] == [100, 50, 0]


@pytest.mark.parametrize(("name", "severity", "message"), [("blurr", 0.5, "no flaw 'blurr'"), ("jpeg", 1.5, "from 0")])
def test_what_cannot_be_is_refused(name, severity, message):
    with pytest.raises(ValueError, match=message):
        spoil(np.zeros((8, 8, 3), np.uint8), name, severity, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"pass uint8"):
        spoil(np.zeros((8, 8, 3)), "jpeg", 0.5, np.random.default_rng(0))


def test_blocks_begin_anywhere_and_have_their_mean():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    first = set()
    for seed in range(60):
        out = effects.pixelation(image, 8, np.random.default_rng(seed))
        rows = np.flatnonzero((np.diff(out.astype(int), axis=0) != 0).any(axis=(1, 2))) + 1
        assert set(np.diff(rows)) == {8}
        first.add(rows[0])
        block = out[rows[0] : rows[1]][:, 40]
        assert (block == block[0]).all()
        columns = np.flatnonzero((np.diff(out.astype(int), axis=1) != 0).any(axis=(0, 2))) + 1
        mean = image[rows[0] : rows[1], columns[0] : columns[1]].mean(axis=(0, 1))
        np.testing.assert_allclose(out[rows[0], columns[0]], mean, atol=0.51)
    assert first == set(range(1, 9))


def test_contrast_keeps_the_mean_and_haze_does_not(crops):
    image = crops["astronaut"]
    dull, hazy = (spoil(image, name, 0.6, np.random.default_rng(0)) for name in ("contrast", "haze"))
    assert dull.mean() == pytest.approx(image.mean(), abs=0.2)
    assert hazy.mean() > image.mean() + 20
    assert dull.std() == pytest.approx(amount("contrast", 0.6) * image.std(), rel=0.005)


def test_noise_of_colour_keeps_the_brightness_and_exposure_the_order():
    grey = np.full((128, 128, 3), 128, np.uint8)
    out = effects.chroma_noise(grey, 12, np.random.default_rng(0))
    assert (out @ (0.299, 0.587, 0.114)).std() < 1 < 8 < out[..., 2].std()
    rng, ramp = np.random.default_rng(0), np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    dark, light = (change(ramp, 2.2, rng) for change in (effects.underexposure, effects.overexposure))
    assert dark[0, 200].tolist() == [100] * 3
    assert light[0, 100].tolist() == [200] * 3
    assert (np.diff(light[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("level", [10, 100])
def test_noise_of_a_dark_scene_is_there_in_the_dark_too(level):
    out = effects.low_light_noise(np.full((128, 128, 3), level, np.uint8), 0.02, np.random.default_rng(0))
    assert out.std() == pytest.approx(255 * 0.02 * (level / 255 + 0.03) ** 0.5, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_colour_cast_is_as_many_stops_wide_as_asked_for_and_keeps_the_brightness(seed):
    out = effects.colour_cast(np.full((1, 1, 3), 120, np.uint8), 1.5, np.random.default_rng(seed))[0, 0] / 120
    stops = effects.GAMMA * np.log2(out)
    assert np.linalg.norm(stops - stops.mean()) == pytest.approx(1.5, rel=0.02)
    assert out.mean() == pytest.approx(1, abs=0.005)


def test_beyond_an_edge_a_filter_sees_the_mirror_and_not_the_other_side():
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = 200
    blurred = effects.motion_blur(image, 20, np.random.default_rng(0))
    assert blurred[:, :8].max() < 5 < 195 < blurred[:, -8:].min()


def test_blocks_of_jpeg_begin_anywhere():
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    results = {effects.jpeg(image, 10, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert len(results) > 10  # two of them for either way to keep colours


def test_photons_are_counted():
    out = effects.poisson_noise(np.full((128, 128, 3), 100, np.uint8), 0.05, np.random.default_rng(0))
    assert out.std() == pytest.approx(0.05 * (100 * 255) ** 0.5, rel=0.02)


def test_mixtures_are_of_two_kinds_and_of_the_severity_asked_for():
    kind = {name: number for number, names in enumerate(KINDS) for name in names}
    seen = set()
    for seed in range(300):
        (first, s1), (second, s2) = drawn_flaws(0.6, np.random.default_rng(seed), mixed=1.0)
        assert kind[first] < kind[second]
        assert 1 - (1 - s1) * (1 - s2) == pytest.approx(0.6)
        seen |= {first, second}
        [(alone, severity)] = drawn_flaws(0.6, np.random.default_rng(seed), mixed=0.0)
        assert alone in FLAWS
        assert severity == 0.6
    assert seen == set(FLAWS)
    assert set(FLAWS) == set(itertools.chain(*KINDS))


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_what_a_photographer_may_have_wanted_is_drawn_rarely(mixed):
    draws = (drawn_flaws(0.5, np.random.default_rng(seed), mixed) for seed in range(4000))
    drawn = Counter(name for parts in draws for name, _ in parts)
    for name in flaws.PERHAPS_MEANT:
        assert drawn[name] == pytest.approx(flaws.RARELY * drawn["haze"], rel=0.25)
